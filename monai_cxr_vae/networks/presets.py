"""Named sizes of the VAEs."""

from __future__ import annotations

from typing import Any

from monai_cxr_vae.networks.base import AnyVAE
from monai_cxr_vae.networks.hierarchical import HierarchicalVAE
from monai_cxr_vae.networks.spatial import SpatialVAE
from monai_cxr_vae.networks.vae import VAE

PRESETS: dict[str, dict[str, Any]] = {
    # reconstruction and sampling
    "vector": {"image_size": 64, "latent_size": 128, "channels": (16, 32)},
    # the same at twice the resolution
    "vector128": {"image_size": 128, "latent_size": 128, "channels": (16, 32, 32)},
    # few latents, for scores: what they cannot express shows in the residual
    "compact": {"image_size": 64, "latent_size": 16, "channels": (16, 32)},
    # a grid of latents: reconstructions that look like the film
    "spatial": {"image_size": 256, "latent_size": 12288, "channels": (32,), "stride": 32},
    "spatial4096": {"image_size": 256, "latent_size": 4096, "channels": (32,), "stride": 32, "groups": 16},
    # three levels with learned priors: new films at full size
    "hierarchical": {"image_size": 256, "codes": 16, "channels": (16, 32)},
}


def network_of(preset: str) -> type[AnyVAE]:
    """The network whose arguments a preset holds."""
    if "codes" in PRESETS[preset]:
        return HierarchicalVAE
    return SpatialVAE if "stride" in PRESETS[preset] else VAE
