"""Scores as transforms of the inference chain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.networks.scorer import DETAIL
from monai_cxr_vae.scoring.score import fitted, score
from monai_cxr_vae.transforms import FitToSquare


class AddDetaild(MapTransform):
    """Add under ``detail`` the film at the size that scores need, while it is there in full.

    Args:
        keys: key of the film as it was loaded, ``(1, rows, columns)``.
        network: the model that will score it.
    """

    def __init__(self, keys: KeysCollection, network: RadiographVAE) -> None:
        super().__init__(keys)
        self.transform = FitToSquare(DETAIL * network.image_size, network.fit)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d["detail"] = self.transform(d[key]).as_tensor()
        return d


class ScoreRadiographd(MapTransform):
    """Add a film's ``scores`` (see :class:`monai_cxr_vae.scoring.Scores`) and its ``heatmap`` ``(1, S, S)`` in [0, 1].

    Args:
        keys: key of the reconstruction, whose record of transforms the heat map takes over.
        network: the model, with a fitted scorer.
        image_key: key of the film as the network saw it, with the metadata of ``FitToSquared``.

    Raises:
        InputError: the weights are not calibrated.
    """

    def __init__(self, keys: KeysCollection, network: RadiographVAE, image_key: Hashable = "image") -> None:
        super().__init__(keys)
        fitted(network)
        self.network, self.image_key = network, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image = d[self.image_key]
        top, left, height, width = image.meta["geometry"]["box"]
        mask = torch.zeros(image.shape, dtype=torch.bool)
        mask[:, top : top + height, left : left + width] = True
        device = next(self.network.parameters()).device
        batch = (tensor[None].to(device) for tensor in (image.as_tensor(), d["detail"], mask))
        [scores], heat = score(self.network, *batch)
        d["scores"] = scores.as_row()
        operations = d[self.keys[0]].applied_operations
        d["heatmap"] = MetaTensor(heat[0].cpu(), meta=image.meta, applied_operations=operations)
        return d
