"""What the network sees in a step: batches, augmented as a film may vary."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Augmentation:
    """Small changes of position, shape and exposure, another for each film of a batch.

    All draws come from torch's global generator, so they repeat with its seed.

    Args:
        rotation: largest rotation, degrees.
        scale: largest relative change of size; drawn for height and width alone, so the aspect varies too.
        shift: largest shift as a share of the side.
        gamma: largest logarithm of the exponent of the intensities.
        gain: largest relative change of contrast about the mean.
    """

    def __init__(
        self, rotation: float = 5.0, scale: float = 0.08, shift: float = 0.04, gamma: float = 0.2, gain: float = 0.1
    ) -> None:
        self.rotation, self.scale, self.shift, self.gamma, self.gain = rotation, scale, shift, gamma, gain

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 1, S, S)`` in [0, 1] to the same."""
        n, device = len(images), images.device

        def draw(limit: float, *shape: int) -> Tensor:
            return (torch.rand(n, *shape, device=device) * 2 - 1) * limit

        angle = draw(math.radians(self.rotation))
        scale = torch.exp(draw(self.scale, 2))
        cos, sin = angle.cos(), angle.sin()
        theta = torch.stack([cos * scale[:, 0], -sin * scale[:, 0], sin * scale[:, 1], cos * scale[:, 1]], 1)
        theta = torch.cat([theta.view(n, 2, 2), 2 * draw(self.shift, 2, 1)], 2)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = images.clamp(1e-4, 1).pow(torch.exp(draw(self.gamma, 1, 1, 1)))
        mean = images.mean((1, 2, 3), keepdim=True)
        return (mean + (images - mean) * (1 + draw(self.gain, 1, 1, 1))).clamp(0, 1)


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
