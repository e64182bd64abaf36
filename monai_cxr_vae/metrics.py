"""What a reconstruction and a set of latents are measured by, per film."""

from __future__ import annotations

from torch import Tensor


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


def active_units(mu: Tensor) -> Tensor:
    """Number of latents that carry something: variance of mu over the films above 0.01 (Burda et al. 2016).

    Args:
        mu: ``(N, ...)``.
    """
    return (mu.float().var(0) > 0.01).sum()
