"""Rectified flows: a velocity that carries standard normal noise to latents, learned for vectors and for grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_cxr_vae.networks.blocks import group_norm, zero

__all__ = ["GridFlow", "VectorFlow", "carry", "interpolate", "linear_velocity", "random_times"]

# Of the logistic normal that times of a training are drawn from (Esser et al. 2024): the middle is the hardest.
_SPREAD_OF_TIMES = 1.2
_LATEST = 0.995  # times go from 0, noise, to 1, latents; at the very end there is nothing left to tell


def interpolate(latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Where a rectified flow is at a time: ``t * latents + (1 - t) * noise`` (Liu, Gong and Liu 2023).

    Args:
        latents, noise: ``(N, ...)``.
        time: ``(N,)`` in [0, 1], 0 for noise.
    """
    t = _like(time, latents)
    return t * latents + (1 - t) * noise


def linear_velocity(x: Tensor, time: Tensor) -> Tensor:
    """The best guess of ``latents - noise`` at ``x`` when the latents too are standard normal, ``(N, ...)``.

    It is exact for a standard normal, so a network that adds to it starts there and learns what is not normal. Without
    it a network is worse than this near the end for a long time, which shows as grain.
    """
    t = _like(time, x)
    return (2 * t - 1) / (t.square() + (1 - t).square()) * x


def random_times(n: int, device: torch.device | None = None) -> Tensor:
    """Times ``(n,)`` for a training step, logistic normal and spread evenly over the batch, in random order."""
    even = (torch.randperm(n, device=device) + torch.rand(n, device=device)) / n
    return torch.sigmoid(_SPREAD_OF_TIMES * torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4))).clamp(max=_LATEST)


def carry(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, until: float = 1.0) -> Tensor:
    """Follow a flow from noise to latents, deterministic: Adams-Bashforth of second order.

    It needs one evaluation for each step, as Euler's method does, and a fraction of its steps.

    Args:
        velocity: of ``x`` ``(N, ...)`` at times ``(N,)``.
        noise: standard normal, ``(N, ...)``.
        steps: evaluations, closer together at both ends.
        until: below 1 the last step goes from there to the end at once, to the mean of what is likely: what is finer
            than the noise that is left then, a flow that is not trained to its end draws as noise.
    """
    even = torch.linspace(0, 1, steps + (until == 1))
    times = until * ((1 - torch.cos(math.pi * even)) / 2 + even) / 2
    x, before, last = noise, noise, 1.0
    for k, (start, end) in enumerate(pairwise(times.tolist())):
        step = end - start
        v = velocity(x, torch.full((len(x),), start, device=x.device))
        x = x + step * (v + 0.5 * step / last * (v - before) if k else v)
        before, last = v, step
    if until < 1:
        x = x + (1 - until) * velocity(x, torch.full((len(x),), until, device=x.device))
    return x


class VectorFlow(nn.Module):
    """Density of vectors of latents: a Gaussian of full covariance, bent by a flow.

    Args:
        size: values of a vector.
        width: units per layer.
        dropout: of the units, for few films.
    """

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        mean: Tensor
        root: Tensor
        frequencies: Tensor

    def __init__(self, size: int, width: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("root", torch.eye(size))  # lower triangular root of the covariance
        self.register_buffer("frequencies", torch.arange(1.0, 9.0) * math.pi, persistent=False)
        self.body = nn.Sequential(
            nn.Linear(size + 16, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
        )
        self.last = nn.Linear(width, size)
        zero(self.last)

    @torch.no_grad()
    def whiten(self, latents: Tensor) -> None:
        """Take mean and covariance of ``latents``, ``(N, size)``, more than ``size`` of them."""
        rows = latents.double()
        self.mean.copy_(rows.mean(0))
        self.root.copy_(torch.linalg.cholesky(torch.cov(rows.T).reshape(self.size, self.size)))

    def standardize(self, latents: Tensor) -> Tensor:
        """Latents with mean 0 and covariance I, ``(N, size)``."""
        return torch.linalg.solve_triangular(self.root, (latents - self.mean).T, upper=False).T

    @torch.jit.unused
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Velocity of standardised latents ``(N, size)`` at times ``(N,)``."""
        spread = (time.square() + (1 - time).square()).sqrt()[:, None]
        angles = time[:, None] * self.frequencies
        features = self.body(torch.cat([x / spread, angles.sin(), angles.cos()], 1))
        return linear_velocity(x, time) + self.last(features) / spread

    def draw(self, noise: Tensor, steps: int = 40) -> Tensor:
        """Latents ``(N, size)`` from standard normal noise, ``(N, size)``."""
        return self.mean + carry(self, noise, steps) @ self.root.T


class GridFlow(nn.Module):
    """Velocity of a grid of latents, given what is known of the film: a U-Net whose blocks are scaled by the time.

    Half the arithmetic of MONAI's ``DiffusionModelUNet`` of the same channels (one block instead of two on the way up,
    where most of it is spent), and no package beyond PyTorch; training time on a CPU decides how good the films are.

    Args:
        channels_in: of the latents.
        condition: channels of what is known, on the same grid.
        channels: per level, each half as fine as the one before; multiples of 16.
        attention: attend over the coarsest grid, whose size then should not change.
        dropout: inside the blocks.
    """

    if TYPE_CHECKING:
        frequencies: Tensor

    def __init__(
        self,
        channels_in: int,
        condition: int,
        channels: Sequence[int],
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        embedding = 128
        self.register_buffer("frequencies", torch.logspace(0, 3, 32), persistent=False)
        self.time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.first = nn.Conv2d(channels_in + condition, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(c, c, embedding, dropout) for c in channels[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(channels))
        self.middle = nn.ModuleList(_Block(channels[-1], channels[-1], embedding, dropout) for _ in range(2))
        self.attention = _Attention(channels[-1]) if attention else nn.Identity()
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(_Block(2 * c, c, embedding, dropout) for c in channels[:-1])
        self.last = nn.Sequential(group_norm(channels[0]), nn.SiLU(), nn.Conv2d(channels[0], channels_in, 3, padding=1))
        zero(self.last[2])  # type: ignore[arg-type]

    @torch.jit.unused
    def forward(self, x: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        """Velocity ``(N, channels_in, H, W)`` of standardised latents at times ``(N,)``."""
        angles = time[:, None] * self.frequencies
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        features = self.first(torch.cat([x, condition], 1).contiguous(memory_format=torch.channels_last))
        kept = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            features = block(features, embedding)
            kept.append(features)
            features = shrink(features)
        features = self.middle[1](self.attention(self.middle[0](features, embedding)), embedding)
        for grow, block in zip(reversed(self.grow), reversed(self.up), strict=True):
            wide = F.interpolate(grow(features), scale_factor=2.0)
            features = block(torch.cat([wide, kept.pop()], 1), embedding)
        spread = _like((time.square() + (1 - time).square()).sqrt(), x)
        return linear_velocity(x, time) + self.last(features).float() / spread


class _Block(nn.Module):
    """Residual block of two convolutions, the second one's input scaled and shifted by the time; starts as identity."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = group_norm(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.scale = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        zero(self.conv2)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    @torch.jit.unused
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.scale(embedding)[:, :, None, None].chunk(2, 1)
        features = self.norm2(self.conv(F.silu(self.norm(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(features)))


class _Attention(nn.Module):
    """Self-attention over all places of a grid, beside the identity; starts as the identity."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.last = nn.Conv2d(channels, channels, 1)
        zero(self.last)

    @torch.jit.unused
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = self.project(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).mT.unbind(1)
        attended = F.scaled_dot_product_attention(*parts)
        return x + self.last(attended.mT.reshape(n, c, h, w))


def _like(time: Tensor, x: Tensor) -> Tensor:
    return time.view(-1, *(1 for _ in x.shape[1:]))
