"""Geometry: how a film becomes an upright square for the network, and how a result comes back to the film."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import convert_to_numpy

FITS = ("stretch", "letterbox")
Geometry = dict[str, Any]


def fit_to_square(
    pixels: np.ndarray,
    image_size: int,
    fit: str = "stretch",
    pixel_aspect: float = 1.0,
    orientation: Sequence[str] | None = None,
) -> tuple[np.ndarray, Geometry]:
    """Turn a film upright and fit it into a square.

    Args:
        pixels: (rows, columns) float32.
        image_size: side of the square.
        fit: ``'stretch'`` fills the square; ``'letterbox'`` keeps the shape of the film, with square pixels, centred
            between black bands.
        pixel_aspect: height of a pixel over its width.
        orientation: Patient Orientation along rows and down columns; a frontal film is turned to ``L\\F``.

    Returns:
        (image_size, image_size) float32, and the geometry for :func:`restore`: ``rows``, ``columns``,
        ``pixel_aspect``, ``orientation`` (what was done, in this order: ``transpose``, ``flip_rows``,
        ``flip_columns``), ``box`` (top, left, height, width of the film in the square), ``image_size``, ``fit``.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be one of {FITS}, got {fit!r}")
    rows, columns = pixels.shape
    turned = _upright(orientation)
    geometry: Geometry = {
        "rows": rows,
        "columns": columns,
        "pixel_aspect": float(pixel_aspect),
        "orientation": turned,
        "image_size": image_size,
        "fit": fit,
    }
    height, width = (image_size, image_size) if fit == "stretch" else _content_size(geometry)
    top, left = (image_size - height) // 2, (image_size - width) // 2
    geometry["box"] = (top, left, height, width)
    # Turned when it is small: the means over areas are the same either way.
    content = resize(pixels, width, height).T if turned["transpose"] else resize(pixels, height, width)
    if turned["flip_rows"]:
        content = content[::-1]
    if turned["flip_columns"]:
        content = content[:, ::-1]
    square = np.zeros((image_size, image_size), np.float32)
    square[top : top + height, left : left + width] = content
    square[(square > 1) & (square < 1 + 1e-5)] = 1  # rounding carries a mean of ones a little too far
    return square, geometry


def restore(array: Any, geometry: Mapping[str, Any], size: str | int = "network") -> Any:
    """Bring something of the network's shape back to the film's: padding cut off, orientation as in the source.

    Args:
        array: (..., S, S) numpy array or tensor.
        geometry: from :func:`fit_to_square`, or ``meta["geometry"]`` of :class:`FitToSquare`.
        size: ``'source'`` for the rows and columns of the source; ``'network'`` for square pixels with the film's
            proportions and a longest side of S; a number for the same with that longest side.

    Returns:
        (..., height, width) float32, a numpy array or a tensor as given.
    """
    if size not in ("network", "source") and not isinstance(size, int):
        raise ValueError(f"size must be 'network', 'source' or a number, got {size!r}")
    planes = np.asarray(convert_to_numpy(array), dtype=np.float32)
    top, left, height, width = (int(value) for value in geometry["box"])
    turned = geometry["orientation"]
    if size != "source":
        target = _content_size(geometry if size == "network" else {**geometry, "image_size": size})
    else:
        rows, columns = int(geometry["rows"]), int(geometry["columns"])
        target = (columns, rows) if turned["transpose"] else (rows, columns)
    flat = planes.reshape(-1, *planes.shape[-2:])[:, top : top + height, left : left + width]
    result = np.stack([resize(plane, *target) for plane in flat]).reshape(*planes.shape[:-2], *target)
    if turned["flip_columns"]:
        result = result[..., ::-1]
    if turned["flip_rows"]:
        result = result[..., ::-1, :]
    if turned["transpose"]:
        result = result.swapaxes(-1, -2)
    result = np.ascontiguousarray(result)
    return torch.as_tensor(result) if isinstance(array, torch.Tensor) else result


class FitToSquare(InvertibleTransform):
    """Array form: (1, rows, columns) to (1, image_size, image_size) float32; see :func:`fit_to_square`.

    ``pixel_aspect`` and ``orientation`` are taken from the meta data that
    :class:`~monai_cxr_vae.data.RadiographReader` leaves; without them the film counts as upright with square pixels.
    The geometry is recorded in ``meta["geometry"]`` and the affine is kept true. The inverse gives source size.

    Args:
        image_size: side of the square in pixels.
        fit: ``"letterbox"`` or ``"stretch"``.

    Raises:
        ValueError: another ``fit``; when called, an image that is not of shape (1, rows, columns).
    """

    def __init__(self, image_size: int, fit: str = "stretch") -> None:
        if fit not in FITS:
            raise ValueError(f"fit must be one of {FITS}, got {fit!r}")
        self.image_size, self.fit = image_size, fit

    def __call__(self, img: Any) -> MetaTensor:
        if img.ndim != 3 or img.shape[0] != 1:
            raise ValueError(f"a film has shape (1, rows, columns), got {tuple(img.shape)}")
        meta = img.meta if isinstance(img, MetaTensor) else {}
        orientation = str(meta.get("orientation") or "").split("\\")
        pixels = np.asarray(convert_to_numpy(img), dtype=np.float32)[0]
        aspect = float(meta.get("pixel_aspect", 1.0))
        square, geometry = fit_to_square(pixels, self.image_size, self.fit, aspect, orientation)
        result = MetaTensor(torch.from_numpy(square[None]))
        if isinstance(img, MetaTensor):
            result.copy_meta_from(img)
        result.meta["geometry"] = geometry
        shape = (geometry["rows"], geometry["columns"])
        return self.push_transform(result, affine=_source_index(geometry), orig_size=shape, extra_info=dict(geometry))

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Bring (C, image_size, image_size) that carries the record of this transform to (C, rows, columns)."""
        geometry = self.pop_transform(data)["extra_info"]
        result = MetaTensor(restore(data.as_tensor(), geometry, "source"))
        result.copy_meta_from(data)
        result.affine = data.affine.double() @ torch.linalg.inv(torch.from_numpy(_source_index(geometry)))
        result.meta.pop("geometry", None)
        return result


class FitToSquared(MapTransform, InvertibleTransform):
    """Dictionary form of :class:`FitToSquare`.

    Args:
        keys: entries with a film.
        image_size, fit: see :class:`FitToSquare`.
        allow_missing_keys: leave out entries that are not there.
    """

    def __init__(
        self, keys: KeysCollection, image_size: int, fit: str = "stretch", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = FitToSquare(image_size, fit)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring each entry back to the size of its source, see :meth:`FitToSquare.inverse`."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
        return result


def _upright(orientation: Sequence[str] | None) -> dict[str, bool]:
    """What turns a frontal film to rows towards the patient's left and columns towards the feet.

    Only the main direction counts (``'LF'`` is mainly left). Anything but a frontal pair is left as it is.
    """
    along, down = (str(part)[:1] for part in orientation) if orientation and len(orientation) == 2 else ("", "")
    transpose = along in ("F", "H") and down in ("L", "R")
    if transpose:
        along, down = down, along
    if along not in ("L", "R") or down not in ("F", "H"):
        return {"transpose": False, "flip_rows": False, "flip_columns": False}
    return {"transpose": transpose, "flip_rows": down == "H", "flip_columns": along == "R"}


def _content_size(geometry: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the upright film with square pixels and a longest side of image_size."""
    height, width = int(geometry["rows"]) * float(geometry["pixel_aspect"]), float(geometry["columns"])
    if geometry["orientation"]["transpose"]:
        height, width = width, height
    size = int(geometry["image_size"])
    scale = size / max(height, width)
    return min(size, max(1, round(height * scale))), min(size, max(1, round(width * scale)))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact area means along an axis that shrinks, linear interpolation along one that grows.

    Args:
        image: ``(H, W)``.
        height, width: of the result, in pixels.

    Returns:
        ``(height, width)``, of the same type.
    """
    image = np.ascontiguousarray(image)
    if height < image.shape[0]:
        image = _mean_rows(image, height)
    if width < image.shape[1]:
        image = cv2.resize(image, (width, image.shape[0]), interpolation=cv2.INTER_AREA)
    if image.shape != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def _mean_rows(image: np.ndarray, height: int) -> np.ndarray:
    """Area means down the columns, several times as fast as INTER_AREA over both axes and equal to 2e-7.

    Each element is summed in row order, so the result does not depend on the number of threads.
    """
    rows, columns = image.shape
    borders = np.arange(height + 1) * (rows / height)
    first = borders[:-1].astype(int)
    last = np.minimum(np.ceil(borders[1:]).astype(int), rows)
    means = np.empty((height, columns), np.float32)
    for index in range(height):
        means[index] = cv2.reduce(image[first[index] : last[index]], 0, cv2.REDUCE_SUM)[0]
    # of the first and the last row only a part lies inside
    means -= (borders[:-1] - first).astype(np.float32)[:, None] * image[first]
    means -= (last - borders[1:]).astype(np.float32)[:, None] * image[last - 1]
    means *= np.float32(height / rows)
    return means


def _source_index(geometry: Mapping[str, Any]) -> np.ndarray:
    """4 x 4 matrix from (row, column, 0) in the square to (row, column, 0) in the source, pixel centres to centres."""
    top, left, height, width = (int(value) for value in geometry["box"])
    turned = geometry["orientation"]
    rows, columns = int(geometry["rows"]), int(geometry["columns"])
    upright = (columns, rows) if turned["transpose"] else (rows, columns)
    matrix = np.eye(4)
    for axis, (start, length, flip) in enumerate(
        ((top, height, turned["flip_rows"]), (left, width, turned["flip_columns"]))
    ):
        step = upright[axis] / length
        offset = (0.5 - start) * step - 0.5
        if flip:
            step, offset = -step, upright[axis] - 1 - offset
        matrix[axis, axis], matrix[axis, 3] = step, offset
    if turned["transpose"]:
        matrix[[0, 1]] = matrix[[1, 0]]
    return matrix
