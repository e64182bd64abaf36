"""Networks of the VAE presets and their blocks."""

from __future__ import annotations

from monai_cxr_vae.networks.presets import PRESETS
from monai_cxr_vae.networks.vae import VAE

__all__ = ["PRESETS", "VAE"]
