"""Networks: those of the presets, their blocks, and what any other must have."""

from __future__ import annotations

from monai_cxr_vae.networks.base import AnyVAE, VAENetwork, check_network
from monai_cxr_vae.networks.flow import VectorFlow
from monai_cxr_vae.networks.hierarchical import HierarchicalVAE
from monai_cxr_vae.networks.monai_vae import MonaiVAE
from monai_cxr_vae.networks.presets import PRESETS, Preset
from monai_cxr_vae.networks.spatial import SpatialVAE
from monai_cxr_vae.networks.vae import VAE

__all__ = [
    "PRESETS",
    "VAE",
    "AnyVAE",
    "HierarchicalVAE",
    "MonaiVAE",
    "Preset",
    "SpatialVAE",
    "VAENetwork",
    "VectorFlow",
    "check_network",
]
