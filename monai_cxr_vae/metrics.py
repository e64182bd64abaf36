"""What a reconstruction and a set of latents are measured by, per film."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from monai.metrics.regression import compute_ms_ssim, compute_ssim_and_cs
from torch import Tensor

_ACTIVE = 0.01
WINDOW = 11  # pixels; with sigma 1.5 the window of Wang et al. 2004
_SCALES = 5  # of MS-SSIM (Wang et al. 2003), each half as large as the one before


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


def multiscale_structural_similarity(reconstruction: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """MS-SSIM per film (Wang et al. 2003, five scales).

    Args:
        reconstruction: ``(N, 1, H, W)``; clamped to [0, 1] first, as it is displayed.
        image: ``(N, 1, H, W)`` in [0, 1].
        mask: ``(N, 1, H, W)`` bool, a box that is true where the film is; each film is cut to its box.

    Returns:
        ``(N,)`` in [0, 1]; not a number where the film is too small for five scales (below 176 pixels).
    """
    if mask is None:
        if min(image.shape[2:]) // (_SCALES - 1) ** 2 < WINDOW:
            return torch.full((len(image),), math.nan)
        return compute_ms_ssim(reconstruction.clamp(0, 1), image, spatial_dims=2, kernel_size=WINDOW).flatten()
    films = (
        multiscale_structural_similarity(*(crop_to_mask(x, m) for x in (r, i)))
        for r, i, m in zip(reconstruction.split(1), image.split(1), mask.split(1), strict=True)
    )
    return torch.cat(list(films))


def crop_to_mask(image: Tensor, mask: Tensor) -> Tensor:
    """One film without its padding.

    Args:
        image: ``(1, 1, H, W)``.
        mask: same shape, bool, a box that is true where the film is.

    Returns:
        ``(1, 1, h, w)``, the film in that box.
    """
    rows, columns = mask[0, 0].any(1).nonzero(), mask[0, 0].any(0).nonzero()
    return image[..., int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


def bits_per_dimension(
    reconstruction: Tensor, image: Tensor, kl: Tensor, sigma: float, mask: Tensor | None = None
) -> Tensor:
    """Negative evidence lower bound per film in bits per pixel, for intensities in 8-bit grey levels.

    ``0.5 * log2(2 pi sigma^2) + MSE / (2 sigma^2 ln 2) + KL / (N ln 2) + 8`` with N pixels: a Gaussian decoder of fixed
    ``sigma`` (Rybkin et al. 2021). The 8 turns the density of intensities in [0, 1] into one of grey levels. Lower is
    better.

    Args:
        reconstruction: ``(N, 1, H, W)`` decoded from a *sampled* latent, not clamped.
        image: ``(N, 1, H, W)`` in [0, 1].
        kl: ``(N,)`` nats.
        sigma: standard deviation of the decoder, in the unit of the intensities.
        mask: ``(N, 1, H, W)`` bool, true where the film is; only its pixels count.

    Returns:
        ``(N,)`` bits per pixel.
    """
    weight = torch.ones_like(image) if mask is None else mask.float()
    pixels = weight.flatten(1).sum(1)
    mse = ((reconstruction - image).square() * weight).flatten(1).sum(1) / pixels
    nats = 0.5 * math.log(2 * math.pi * sigma**2) + mse / (2 * sigma**2) + kl / pixels
    return nats / math.log(2) + 8


def kl_per_unit(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of each latent from N(0, 1).

    Args:
        mu: means of the posterior, ``(N, latents)``.
        logvar: logarithms of its variances, same shape.

    Returns:
        ``(N, latents)`` nats; the row sums are the films' KL.
    """
    mu, logvar = mu.float(), logvar.float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


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
