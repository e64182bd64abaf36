"""Networks of the VAE presets, their blocks, and the scorer that goes with them."""

from __future__ import annotations

from monai_cxr_vae.networks.critic import Critic
from monai_cxr_vae.networks.presets import PRESETS
from monai_cxr_vae.networks.scorer import Scorer
from monai_cxr_vae.networks.vae import VAE

__all__ = ["PRESETS", "VAE", "Critic", "Scorer"]
