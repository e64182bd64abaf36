"""What of a film a network that normalises its groups does not see: exposure and texture as a few numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SCALES = (1, 2, 4)
EXPOSURES, TEXTURES = len(_QUANTILES), 2 * len(_SCALES) + 2


def exposure(images: Tensor, mask: Tensor) -> Tensor:
    """Quantiles of the intensities.

    Args:
        images: ``(N, 1, H, W)`` in [0, 1].
        mask: same shape, bool, true where the film is.

    Returns:
        ``(N, 7)``.
    """
    levels = images.new_tensor(_QUANTILES)
    return torch.stack([torch.quantile(film[inside], levels) for film, inside in zip(images, mask, strict=True)])


def texture(images: Tensor, mask: Tensor) -> Tensor:
    """How sharp, how noisy and how complex films are, ``(N, 8)``.

    Logarithms of the gradient energies along both axes at three scales, of the energy of what a 3 x 3 mean takes away,
    and of the entropy of the differences of neighbours, which a lossless compressor has to store (input complexity:
    Serra et al. 2020).

    Args:
        images: ``(N, 1, H, W)`` in [0, 1].
        mask: same shape, bool, a rectangle for each film: where it is.
    """
    return torch.stack([_texture(film, inside) for film, inside in zip(images, mask, strict=True)])


def _texture(film: Tensor, inside: Tensor) -> Tensor:
    rows, columns = inside[0].any(1).nonzero()[:, 0], inside[0].any(0).nonzero()[:, 0]
    film = film[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    energies = []
    for scale in _SCALES:
        reduced = F.avg_pool2d(film, scale)
        energies += [reduced.diff(dim=1).square().mean(), reduced.diff(dim=2).square().mean()]
    fine = (film[:, 1:-1, 1:-1] - F.avg_pool2d(film, 3, 1)).square().mean()
    # Of 8-bit films no difference lies on the border of two bins, where the last bit of a float would choose.
    steps = torch.histc(film.diff(dim=2), 255, -1.0005, 1.0005)
    shares = steps / steps.sum()
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return torch.stack([*energies, fine, entropy]).clamp(min=1e-7).log()
