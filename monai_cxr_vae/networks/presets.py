"""Named sizes of the VAE."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # reconstruction and sampling
    "vector": {"image_size": 64, "latent_size": 128, "channels": (16, 32)},
    # the same at twice the resolution
    "vector128": {"image_size": 128, "latent_size": 128, "channels": (16, 32, 32)},
    # few latents, for scores: what they cannot express shows in the residual
    "compact": {"image_size": 64, "latent_size": 16, "channels": (16, 32)},
}
