"""The bridge from :func:`read_radiograph` to MONAI's ``LoadImaged``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import ImageReader
from monai.transforms import Compose, LoadImaged
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys

from monai_cxr_vae.film import read_film
from monai_cxr_vae.radiograph import Radiograph, read_radiograph
from monai_cxr_vae.transforms import FitToSquared


class RadiographReader(ImageReader):
    """``LoadImaged(reader="monai_cxr_vae.data.RadiographReader")`` loads any film that :func:`read_radiograph` reads.

    The array is (rows, columns), float32 in [0, 1], row-major, bone bright; ``EnsureChannelFirstd`` makes it
    (1, rows, columns). The meta data holds no patient data and no ``None``, so that it collates.

    Decoders parse what strangers have written, and one that aborts takes its process along. In a pipeline of one's own
    that process is the caller's; everything else here reads in processes that nobody misses
    (:class:`monai_cxr_vae.pool.IsolatedPool`).

    Args:
        bits: depth of 16-bit PNG, see :func:`read_radiograph`.
        radiograph: what to give in place of what the path holds.
    """

    def __init__(self, bits: int | None = None, radiograph: Radiograph | None = None) -> None:
        super().__init__()
        self.bits = bits
        self._radiograph = radiograph

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Path:
        """Only note the path: an error raised here would make ``LoadImage`` ask the next reader, which may answer."""
        paths = [data] if isinstance(data, (str, Path)) else list(data)
        if len(paths) != 1:
            raise ValueError("a film is one file")
        return Path(paths[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the film.

        Returns:
            (rows, columns) float32, and the meta data of :func:`film_meta`.

        Raises:
            FilmError: from :func:`read_radiograph`.
        """
        film = read_radiograph(img, bits=self.bits) if self._radiograph is None else self._radiograph
        return film.pixels, film_meta(film, img)


class LoadRadiographd(LoadImaged):
    """``LoadImaged`` with :class:`RadiographReader`, for a file that is to be opened once.

    ``film`` (:class:`monai_cxr_vae.film.Film`) in the data, if there, is read in place of the path. Its bytes and what
    was decoded of them stay in the data under ``film`` and ``radiograph``, for the transforms that follow; neither
    collates.

    Args:
        keys: key of the path; becomes ``(1, rows, columns)`` float32 in [0, 1].
        bits: depth of 16-bit PNG, see :func:`read_radiograph`.

    Raises:
        FilmError: when called, from :func:`read_radiograph`.
    """

    def __init__(self, keys: KeysCollection, bits: int | None = None) -> None:
        super().__init__(keys, reader=RadiographReader, image_only=True, ensure_channel_first=True)
        self.bits = bits

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        d = dict(data)
        d["film"] = film = d.get("film") or read_film(d[self.keys[0]])
        d["radiograph"] = radiograph = read_radiograph(film, bits=self.bits)
        loaded: dict[Hashable, Any] = super().__call__(d, reader or RadiographReader(radiograph=radiograph))
        return loaded


def film_transforms(image_size: int, fit: str, bits: int | None = None) -> Compose:
    """From ``{"image": path}`` to a film at network size, ``(1, S, S)`` float32, as every config begins.

    Args:
        image_size: side S in pixels.
        fit: see :func:`monai_cxr_vae.transforms.fit_to_square`.
        bits: depth of 16-bit PNG, see :func:`read_radiograph`.

    Returns:
        The transforms; calling them raises what :func:`read_radiograph` does.
    """
    return Compose([LoadRadiographd("image", bits), FitToSquared("image", image_size, fit)])


def film_meta(film: Radiograph, path: str | Path) -> dict[str, Any]:
    """Meta data of a film for a MetaTensor of shape (rows, columns) or (1, rows, columns).

    ``affine`` maps (row, column) to RAS mm, ``source_affine`` the indices of the source: those of a NIfTI file, else
    (column, row) as ITK counts. ``orientation`` is Patient Orientation such as ``"L\\\\F"`` or empty, ``warnings`` are
    joined with blanks.
    """
    columns_first = film.row_major_affine[:, [1, 0, 2, 3]]
    return {
        ImageMetaKey.FILENAME_OR_OBJ: str(path),
        MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
        MetaKeys.SPATIAL_SHAPE: np.asarray(film.pixels.shape),
        MetaKeys.AFFINE: film.row_major_affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: film.row_major_affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        "source_affine": (columns_first if film.affine is None else film.affine).copy(),
        "format": film.format,
        "pixel_aspect": film.pixel_aspect,
        "orientation": "\\".join(film.orientation or ()),
        "bits_stored": film.bits_stored,
        "photometric": film.photometric or "",
        "transfer_syntax": film.transfer_syntax or "",
        "decoder": film.decoder,
        "voi": film.voi,
        "view": film.view,
        "warnings": " ".join(film.warnings),
    }


def in_source_order(plane: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """A plane (rows, columns) of the source's size in the index order of ``source_affine`` of :func:`film_meta`."""
    to_source = np.linalg.inv(np.asarray(meta["source_affine"])) @ np.asarray(meta[MetaKeys.ORIGINAL_AFFINE])
    turns = np.rint(to_source[:2, :2])
    if turns[0, 0] == 0:
        plane = plane.T
    return plane[tuple(slice(None, None, -1 if axis.sum() < 0 else 1) for axis in turns)]
