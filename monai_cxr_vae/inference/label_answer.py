"""The answer to a MONAI Label request: what was made of a film, as that server writes it and its clients draw it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys

from monai_cxr_vae.data.readers import in_source_order
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.transforms import restore

SHOWN = ("mask", "heatmap", "reconstruction")
# Formats without a place in the patient; the server writes them from two axes and all others from three.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LIMIT = 0.5


class LabelAnswerd(MapTransform):
    """Replace a prediction by what a MONAI Label request asks to be shown, at the size of the source.

    The server puts the settings of a request into the data. One of them is ``show``, since ``displayable_configs`` of
    ``inference.json`` lists it: ``"mask"`` (1 where the heat map reaches its limit, else 0), ``"heatmap"`` or
    ``"reconstruction"`` (0 to 255); of a list, which is the server's own default, the first. Data without ``show``, as
    in a folder run, pass through untouched.

    Left in the data for the server: the uint8 array under ``keys``, ``(columns, rows)`` for pictures, else the indices
    and affine of the source with a third axis of 1; ``result_extension``, unless the request names one: ``.png`` for
    PNG and JPEG films, ``.nii.gz`` for the others; ``result``, which becomes the answer's ``params``: the film's
    ``scores``, ``show``, and ``warnings`` of the reader.

    Args:
        keys: key of the reconstruction, ``(1, S, S)`` float.
        image_key: key of the film as the network saw it, with the metadata of the reader and of ``FitToSquared``.

    Raises:
        InputError: when called, if there is no such thing to show.
    """

    def __init__(self, keys: KeysCollection, image_key: Hashable = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if "show" not in d:
            return d
        show = d["show"] if isinstance(d["show"], str) else d["show"][0]
        meta = dict(d[self.image_key].meta)
        extension = d.get("result_extension") or (".png" if meta["format"] in ("png", "jpeg") else ".nii.gz")
        shown = restore(np.asarray(self._choose(show, d).cpu())[0], meta["geometry"], "source")
        plane = (shown >= LIMIT).astype(np.uint8) if show == "mask" else _to_bytes(shown)
        answer = plane.T if extension in PICTURES else in_source_order(plane, meta)[..., None]
        d[self.keys[0]] = np.ascontiguousarray(answer)
        d["result_extension"] = extension
        d["result"] = {**d.get("scores", {}), "show": show, "warnings": str(meta.get("warnings") or "").split()}
        # The server resizes an answer that has another shape than its image, and writes with that one's affine.
        meta |= {MetaKeys.SPATIAL_SHAPE: answer.shape, MetaKeys.ORIGINAL_AFFINE: meta["source_affine"]}
        d[self.image_key] = MetaTensor(d[self.image_key].as_tensor(), meta=meta)
        return d

    def _choose(self, show: str, data: Mapping[Hashable, Any]) -> Any:
        if show not in SHOWN:
            raise InputError(f"there is no {show!r} to show, but {', '.join(SHOWN)}")
        if show == "reconstruction":
            return data[self.keys[0]]
        if "heatmap" not in data:
            raise InputError('these weights are not calibrated, so there is only {"show": "reconstruction"}')
        return data["heatmap"]


def _to_bytes(plane: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(plane, 0, 1) * 255).astype(np.uint8)
