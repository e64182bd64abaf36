"""What a reconstruction and a set of latents are measured by, per film."""

from __future__ import annotations

import torch.nn.functional as F
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

_ACTIVE = 0.01
WINDOW = 11  # pixels; with sigma 1.5 the window of Wang et al. 2004


def peak_signal_to_noise_ratio(reconstruction: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """PSNR per film in dB for intensities in [0, 1].

    Args:
        reconstruction: ``(N, 1, H, W)``; clamped to [0, 1] first, as it is displayed.
        image: ``(N, 1, H, W)`` in [0, 1].
        mask: ``(N, 1, H, W)`` bool, true where the film is; padding is left out. None for films without padding.

    Returns:
        ``(N,)`` dB.
    """
    error = (reconstruction.float().clamp(0, 1) - image.float()).square().flatten(1)
    if mask is None:
        mse = error.mean(1)
    else:
        weight = mask.flatten(1).float()
        mse = (error * weight).sum(1) / weight.sum(1)
    return -10 * mse.clamp(min=1e-12).log10()


def structural_similarity(reconstruction: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """SSIM per film (Wang et al. 2004; Gaussian window of 11 pixels, sigma 1.5).

    Args:
        reconstruction: ``(N, 1, H, W)``; clamped to [0, 1] first, as it is displayed.
        image: ``(N, 1, H, W)`` in [0, 1].
        mask: ``(N, 1, H, W)`` bool, true where the film is; windows that touch padding are left out.

    Returns:
        ``(N,)`` in [-1, 1]; not a number where the film is smaller than the window.
    """
    similarity, _ = compute_ssim_and_cs(
        reconstruction.float().clamp(0, 1),
        image.float(),
        spatial_dims=2,
        kernel_size=(WINDOW, WINDOW),
        kernel_sigma=(1.5, 1.5),
    )
    if mask is None:
        return similarity.flatten(1).mean(1)
    inside = 1 - F.max_pool2d(1 - mask.float(), WINDOW, stride=1)
    return (similarity * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)


def active_units(mean: Tensor, mean_of_squares: Tensor, n: Tensor | int) -> Tensor:
    """Number of latents that carry something: variance of mu over the films above 0.01 (Burda et al. 2016).

    Args:
        mean: of each latent's mu over the films, ``(..., latents)`` in double precision.
        mean_of_squares: likewise of its square.
        n: number of films, at least two.

    Returns:
        ``(...)``.
    """
    return ((mean_of_squares - mean.square()) * n / (n - 1) > _ACTIVE).sum(-1)
