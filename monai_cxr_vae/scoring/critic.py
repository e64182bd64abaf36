"""The critic: a small convolutional network that looks at a film and its reconstruction for what is unusual."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_cxr_vae.networks.blocks import ResidualBlock, downsample, group_norm
from monai_cxr_vae.scoring.features import EXPOSURES, TEXTURES

BINS = 16
FEATURES = EXPOSURES + TEXTURES


class Critic(nn.Module):
    """Tells, from a film and its reconstruction by a VAE, whether the film is faulty and where it is unusual.

    A U-shaped network over the film and what the reconstruction left over, both folded to a quarter of the film's size.
    Groups are normalised inside it, which hides exposure and sharpness, so the heads see these by themselves too.

    Args:
        channels: per level, from a quarter of the film's size downwards.
        width: units of the heads' hidden layer.
    """

    if TYPE_CHECKING:
        feature_mean: Tensor
        feature_whitening: Tensor

    def __init__(self, channels: Sequence[int] = (24, 48, 96), width: int = 64) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.stem = nn.Conv2d(16 + 2 * 4, channels[0], 3, padding=1)
        self.levels = nn.ModuleList(ResidualBlock(c) for c in channels)
        self.downs = nn.ModuleList(downsample(a, b) for a, b in pairs)
        self.deep = nn.Sequential(ResidualBlock(channels[-1]), group_norm(channels[-1]), nn.SiLU())
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        norm = group_norm(channels[0])
        self.map_head = nn.Sequential(
            ResidualBlock(channels[0]), norm, nn.SiLU(), nn.Conv2d(channels[0], 1, 3, padding=1)
        )
        self.register_buffer("feature_mean", torch.zeros(FEATURES))
        self.register_buffer("feature_whitening", torch.eye(FEATURES))
        features = 2 * channels[-1] + BINS + FEATURES + 2
        self.heads = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Dropout(0.2), nn.Linear(width, 2))

    @torch.jit.unused
    @torch.no_grad()
    def whiten(self, features: Tensor) -> None:
        """See features from now on in standard deviations of these, ``(N, 15)``, along their principal directions.

        A blurred film has the energy of a film at each scale, but not the ratios of them: most of what the features
        tell is in the directions in which normal films vary least.
        """
        centred = features.double() - features.double().mean(0)
        variance, directions = torch.linalg.eigh(centred.T @ centred / (len(features) - 1))
        self.feature_mean.copy_(features.mean(0))
        self.feature_whitening.copy_(directions / variance.clamp(min=1e-6).sqrt())

    @torch.jit.unused
    def forward(self, film: Tensor, reconstruction: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a fault and of a finding, and of a finding at each place.

        Args:
            film: ``(N, 1, 2 S, 2 S)`` in [0, 1].
            reconstruction: ``(N, 1, S, S)``, of the film at half the size.
            features: ``(N, 15)``, exposure and texture (:mod:`monai_cxr_vae.scoring.features`).

        Returns:
            ``(N, 2)`` (fault, finding) and ``(N, 1, S / 2, S / 2)``.
        """
        half = F.avg_pool2d(film, 2)
        left = F.pixel_unshuffle(half - reconstruction, 2)
        x = torch.cat([4 * F.pixel_unshuffle(film, 4) - 2, 4 * F.pixel_unshuffle(reconstruction, 2) - 2, 10 * left], 1)
        x = self.stem(x)
        kept = []
        for i, level in enumerate(self.levels):
            x = level(self.downs[i - 1](x) if i else x)
            kept.append(x)
        x = self.deep(x)
        pooled = x.flatten(2)
        for i in range(len(self.ups) - 1, -1, -1):
            x = kept[i] + F.interpolate(self.ups[i](x), scale_factor=2.0, mode="nearest")
        places = self.map_head(x)
        top = places.flatten(1).topk(8, 1).values
        white = (features - self.feature_mean) @ self.feature_whitening
        pooled_features = [pooled.mean(2), pooled.amax(2), histogram(half), white.clamp(-20, 20)]
        return self.heads(torch.cat([*pooled_features, top.mean(1, True), top[:, :1]], 1)), places


def histogram(images: Tensor) -> Tensor:
    """Soft histogram of ``(N, 1, H, W)`` in [0, 1]: ``(N, 16)`` square roots of shares, smooth in the intensities."""
    centres = (torch.arange(BINS, device=images.device, dtype=images.dtype) + 0.5) / BINS
    weights = (1 - (images.flatten(1)[:, None] - centres[:, None]).abs() * BINS).clamp(min=0)
    return weights.mean(2).clamp(min=1e-6).sqrt()
