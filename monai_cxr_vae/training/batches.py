"""What the network sees in a step: batches, augmented as a film may vary."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_cxr_vae.networks.blocks import upsample_bicubic

# Along a side, at the four scales of sharpness: of films of 128 pixels, cells of 2 to 16.
_CELLS = (64, 32, 16, 8)


class Augmentation:
    """Changes of position, shape and exposure as films of one person may differ, drawn for each film of a batch.

    A share of the films stays as it is; the others are changed, half of them mildly (0.4 of the ranges), half fully:
    the films' own distribution stays the centre. All draws come from torch's global generator, so they repeat with its
    seed. Resampling is bicubic, since bilinear would teach the network to blur.

    The last four settings widen the *technique*: what other hospitals' films differ in without differing in the chest.
    They are off by default, and draw nothing then.

    Args:
        rotation: largest rotation, degrees.
        scale: largest logarithm of the change of size.
        aspect: largest logarithm of the change of height over width, each way.
        shift: largest shift as a share of the side.
        elastic: standard deviation of a smooth displacement field, as a share of half the side.
        gamma: largest logarithm of the exponent of the intensities.
        gain: largest relative change of contrast; half of it of brightness.
        keep: share of the films that stay as they are.
        closer: largest logarithm of a further enlargement of every third film, as of one collimated more tightly.
        curve: largest S-shaped bend of the grey scale, each way: the relative change of contrast in its middle.
        sharpness: largest logarithm of the change of what is finer than one of four scales, as a blur or an unsharp
            mask makes it.
        noise: largest standard deviation of noise.
    """

    def __init__(
        self,
        rotation: float = 5.0,
        scale: float = 0.08,
        aspect: float = 0.08,
        shift: float = 0.04,
        elastic: float = 0.015,
        gamma: float = 0.15,
        gain: float = 0.1,
        keep: float = 0.25,
        closer: float = 0.0,
        curve: float = 0.0,
        sharpness: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        self.rotation, self.scale, self.aspect, self.shift = rotation, scale, aspect, shift
        self.elastic, self.gamma, self.gain, self.keep = elastic, gamma, gain, keep
        self.closer, self.curve, self.sharpness, self.noise = closer, curve, sharpness, noise

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 1, S, S)`` in [0, 1] to the same."""
        device = images.device
        u = torch.rand(len(images), device=device)
        strength = torch.where(u < self.keep, 0.0, torch.where(u < (1 + self.keep) / 2, 0.4, 1.0))
        chosen = strength.nonzero()[:, 0]
        if not len(chosen):
            return images
        strength, films, n = strength[chosen], images[chosen], len(chosen)

        def draw(limit: float) -> Tensor:
            return (torch.rand(n, device=device) * 2 - 1) * limit * strength

        angle, size, aspect = draw(math.radians(self.rotation)), draw(self.scale), draw(self.aspect)
        if self.closer:
            size = size + draw(self.closer).abs() * (torch.rand(n, device=device) < 1 / 3)
        x, y = torch.exp(-size - aspect), torch.exp(-size + aspect)
        row = torch.stack([angle.cos() * x, -angle.sin() * x, 2 * draw(self.shift)], 1)
        column = torch.stack([angle.sin() * y, angle.cos() * y, 2 * draw(self.shift)], 1)
        bend = torch.randn(n, 2, 5, 5, device=device) * (self.elastic * strength).view(n, 1, 1, 1)
        grid = _affine(torch.stack([row, column], 1), films.shape[-1]) + upsample_bicubic(bend, films.shape[-1])
        grid = grid.permute(0, 2, 3, 1)
        films = F.grid_sample(films, grid, mode="bicubic", padding_mode="border", align_corners=False)
        # A power by its logarithm, at half the price.
        films = (films.clamp(1e-4, 1).log() * draw(self.gamma).exp().view(n, 1, 1, 1)).exp()
        films = films * (1 + draw(self.gain).view(n, 1, 1, 1)) + draw(self.gain / 2).view(n, 1, 1, 1)
        if self.curve:
            films = films.clamp(0, 1)
            films = films - draw(self.curve).view(n, 1, 1, 1) * (2 * math.pi * films).sin() / (2 * math.pi)
        if self.sharpness:
            factor = draw(self.sharpness).exp().view(n, 1, 1, 1)
            smooth = _smoothed(films, torch.randint(len(_CELLS), (n,), device=device))
            films = smooth + factor * (films - smooth)
        if self.noise:
            films = films + draw(self.noise).view(n, 1, 1, 1) * torch.randn_like(films)
        return images.index_copy(0, chosen, films.clamp(0, 1))


def _smoothed(films: Tensor, scale: Tensor) -> Tensor:
    """Films ``(N, 1, S, S)`` without what is finer than the cells of their ``scale``, an index of ``_CELLS``."""
    smooth = torch.empty_like(films)
    for i, cells in enumerate(_CELLS):
        coarse = F.interpolate(films[scale == i], (cells, cells), mode="area")
        smooth[scale == i] = F.interpolate(coarse, films.shape[2:], mode="bilinear", align_corners=False)
    return smooth


def _affine(matrix: Tensor, size: int) -> Tensor:
    """Where affine maps ``(N, 2, 3)`` of the square [-1, 1] send the centres of its pixels, ``(N, 2, size, size)``."""
    centre = (torch.arange(size, device=matrix.device) + 0.5) / size * 2 - 1
    along_x, along_y, shift = matrix[..., None, None].unbind(2)
    return along_x * centre + (along_y * centre[:, None] + shift)


class PrepareBatch:
    """Hands an engine (input, target): the augmented film twice, since a VAE's target is its input."""

    def __init__(self, augmentation: Augmentation | None = None) -> None:
        self.augmentation = augmentation

    def __call__(
        self, batch: dict[str, Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        images = batch["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        if self.augmentation is not None:
            images = self.augmentation(images)
        return images, images
