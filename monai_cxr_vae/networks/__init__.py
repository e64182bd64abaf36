"""Networks of the VAE presets and their blocks."""

from __future__ import annotations

from .presets import PRESETS
from .vae import VAE

__all__ = ["PRESETS", "VAE"]
