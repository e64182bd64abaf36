"""Scores as transforms of the inference chain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_cxr_vae.scoring.score import ScoredModel, fitted, score
from monai_cxr_vae.scoring.scorer import DETAIL
from monai_cxr_vae.transforms import FitToSquare


class AddDetaild(MapTransform):
    """Add under ``detail`` the film at the size that scores need, a MetaTensor, while it is there in full.

    Args:
        keys: key of the film as it was loaded, ``(1, rows, columns)``.
        network: the model that will score it.
    """

    def __init__(self, keys: KeysCollection, network: ScoredModel) -> None:
        super().__init__(keys)
        self.transform = FitToSquare(DETAIL * network.image_size, network.fit)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d["detail"] = self.transform(d[key])
        return d


class ScoreRadiographd(MapTransform):
    """Add a film's ``scores`` (see :class:`monai_cxr_vae.scoring.Scores`) and its ``heatmap`` ``(1, S, S)`` in [0, 1].

    Args:
        keys: key of the reconstruction, whose record of transforms the heat map takes over; ``detail`` is there from
            :class:`AddDetaild`.
        network: the model, with a fitted scorer.
        image_key: key of the film as the network saw it, whose metadata the heat map takes over.

    Raises:
        InputError: the weights are not calibrated.
    """

    def __init__(self, keys: KeysCollection, network: ScoredModel, image_key: Hashable = "image") -> None:
        super().__init__(keys)
        fitted(network)
        self.network, self.image_key = network, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        detail = d["detail"].as_tensor()[None].to(fitted(self.network).centre.device)
        top, left, height, width = d["detail"].meta["geometry"]["box"]
        mask = torch.zeros_like(detail)
        mask[..., top : top + height, left : left + width] = 1
        # Both from the detail, as when the scorer was fitted: at half the size the film's edge is rounded on its own.
        image, mask = (F.avg_pool2d(tensor, DETAIL) for tensor in (detail, mask))
        [scores], heat = score(self.network, image, detail, mask > 0.5)
        d["scores"] = scores.as_row()
        operations = d[self.keys[0]].applied_operations
        d["heatmap"] = MetaTensor(heat[0].cpu(), meta=d[self.image_key].meta, applied_operations=operations)
        return d
