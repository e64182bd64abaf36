"""Building blocks of the VAE: residual blocks, resampling, the warp, the bound on the log-variance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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


class ResidualMLP(nn.Module):
    """LayerNorm and a hidden layer of twice the width, beside the identity; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(2 * width, width)
        zero(last)
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Warp(nn.Module):
    """Bends pictures by a smooth displacement field given on a coarse grid.

    Args:
        image_size: side of the square picture in pixels.
        grid: side of the coarse grid; a bicubic spline carries it to the pixels.
    """

    def __init__(self, image_size: int, grid: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = grid
        centre = (torch.arange(image_size) + 0.5) / image_size * 2 - 1
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        self.register_buffer("identity", torch.stack([x, y], -1)[None], persistent=False)

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        """``(N, 1, S, S)`` bent by ``field`` ``(N, 2 * grid ** 2)``, x then y, in units of the picture's side."""
        field = 2 * upsample_bicubic(field.view(-1, 2, self.grid, self.grid), self.image_size)
        points = self.identity + field.permute(0, 2, 3, 1)  # type: ignore[operator]
        return F.grid_sample(image, points, mode="bilinear", padding_mode="border", align_corners=False)


def upsample_bicubic(coarse: Tensor, size: int) -> Tensor:
    """``(N, C, g, g)`` to ``(N, C, size, size)`` as PyTorch's bicubic interpolation does, corners aligned.

    Two products with the matrix of the interpolation along one side: the operator itself works pixel by pixel, and
    costs seventeen times as much with its gradient.
    """
    g = coarse.size(2)
    knots = torch.eye(g, dtype=coarse.dtype, device=coarse.device).view(1, g, g, 1)
    along = F.interpolate(knots, size=(size, 1), mode="bicubic", align_corners=True).view(g, size)
    return along.T @ (coarse @ along)


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Set weight and bias to zero, so that the layer adds nothing before it has learned."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def bound_logvar(raw: Tensor, low: float = -16.0, high: float = 4.0) -> Tensor:
    """Map the log-variance head's output into (low, high) smoothly: a clamp would have no gradient outside."""
    half = (high - low) / 2
    return (low + high) / 2 + half * torch.tanh(raw / half)


def unbound_logvar(logvar: Tensor, low: float = -16.0, high: float = 4.0) -> Tensor:
    """Inverse of `bound_logvar`; values at or beyond a bound go just inside."""
    half = (high - low) / 2
    return half * torch.atanh(((logvar - (low + high) / 2) / half).clamp(-0.99, 0.99))
