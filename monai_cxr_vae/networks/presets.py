"""Named sizes of the VAEs."""

from __future__ import annotations

from typing import Any, NamedTuple

from monai_cxr_vae.networks.base import AnyVAE
from monai_cxr_vae.networks.hierarchical import HierarchicalVAE
from monai_cxr_vae.networks.spatial import SpatialVAE
from monai_cxr_vae.networks.vae import VAE


class Preset(NamedTuple):
    """A network's class, and what it is made with."""

    network: type[AnyVAE]
    arguments: dict[str, Any]


PRESETS = {
    # reconstruction and sampling
    "vector": Preset(VAE, {"image_size": 64, "latent_size": 128, "channels": (16, 32)}),
    # the same at twice the resolution
    "vector128": Preset(VAE, {"image_size": 128, "latent_size": 128, "channels": (16, 32, 32)}),
    # few latents, for scores: what they cannot express shows in the residual
    "compact": Preset(VAE, {"image_size": 64, "latent_size": 16, "channels": (16, 32)}),
    # a grid of latents: reconstructions that look like the film
    "spatial": Preset(SpatialVAE, {"image_size": 256, "latent_size": 12288, "channels": (32,), "stride": 32}),
    "spatial4096": Preset(
        SpatialVAE, {"image_size": 256, "latent_size": 4096, "channels": (32,), "stride": 32, "groups": 16}
    ),
    # three levels with learned priors: new films at full size
    "hierarchical": Preset(HierarchicalVAE, {"image_size": 256, "codes": 16, "channels": (16, 32)}),
}
