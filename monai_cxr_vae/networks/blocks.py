"""Building blocks of the VAE: residual block, down- and upsampling, the bound on the log-variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of about 16 channels; unlike instance norm it keeps most of a film's exposure."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, beside the identity; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            group_norm(channels),
            nn.SiLU(),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def downsample(channels_in: int, channels_out: int) -> nn.Module:
    """Halve the grid with a strided convolution."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)


def upsample(channels_in: int, channels_out: int) -> nn.Module:
    """Double the grid: nearest neighbour, then a convolution (a transposed one makes checkerboards)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(channels_in, channels_out, 3, padding=1)
    )


def bound_logvar(raw: Tensor, low: float = -16.0, high: float = 4.0) -> Tensor:
    """Map the log-variance head's output into (low, high) smoothly: a clamp would have no gradient outside."""
    half = (high - low) / 2
    return (low + high) / 2 + half * torch.tanh(raw / half)


def unbound_logvar(logvar: Tensor, low: float = -16.0, high: float = 4.0) -> Tensor:
    """Inverse of `bound_logvar`; values at or beyond a bound go just inside."""
    half = (high - low) / 2
    return half * torch.atanh(((logvar - (low + high) / 2) / half).clamp(-0.99, 0.99))
