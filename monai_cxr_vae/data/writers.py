"""Writing what the model makes of a film, as the kind of file that the film was, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import uuid
from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.transforms import SaveImaged
from PIL import Image

from monai_cxr_vae.dicom.derive import DerivedObject, Provenance, residual_overlay, secondary_capture
from monai_cxr_vae.dicom.files import open_dataset
from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.radiograph import read_radiograph
from monai_cxr_vae.transforms import restore

OBJECTS = ("sc", "overlay")
# Inside the output folder, so that a rename stays on one file system, and out of sight of whoever lists the results.
PRIVATE_FOLDER = ".run"


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance_of(weights: str | os.PathLike, settings: Mapping[str, Any]) -> Provenance:
    """Return what identifies derived objects: the weights file and the settings that change bytes, by their digests."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    try:
        release = version("monai-cxr-vae")
    except PackageNotFoundError:  # run from a checkout that is not installed
        release = "0"
    return Provenance(file_sha256(weights), hashlib.sha256(text.encode()).hexdigest(), release)


def write_atomically(path: Path, data: bytes, scratch: Path) -> None:
    """Write a file so that a kill or a power cut at any moment leaves the old file, the new one or none.

    ``scratch`` is a folder on the same file system for the unfinished file.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = scratch / f"{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise OutputError(f"the output cannot be written: {os.strerror(error.errno or 0)}") from error


class SaveRadiographd(SaveImaged):
    """Write a reconstruction beside or in place of what stock ``SaveImaged`` would make of it.

    A DICOM film gives derived DICOM objects under ``<StudyInstanceUID>/<SeriesInstanceUID>/<SOPInstanceUID>.dcm``;
    other films give ``images/<first 32 hex digits of the input's SHA-256>`` with ``.png`` (16 bit grey) or, for NIfTI,
    with ``.nii.gz`` (float32, the source's grid and affine). DICOM and PNG show the reconstruction at the model's
    resolution in the source's orientation and aspect, without padding; NIfTI is at source size.

    The list of what was written, ``{"kind", "uid", "path", "sha256"}`` with paths relative to ``output_dir``, is added
    to the data under ``outputs``. ``input_sha256`` in the data spares reading the film once more.

    Args:
        keys: key of the reconstruction, ``(1, S, S)`` float.
        output_dir: where to write.
        provenance: see :func:`provenance_of`.
        image_key: key of the film as the network saw it, with the metadata of the reader and of ``FitToSquared``.
        objects: kinds of DICOM objects to derive, of ``sc`` and ``overlay``.
        bits_stored: 12 or 16, of the Secondary Capture.

    Raises:
        OutputError: when called, if a file cannot be written.
        FilmError: when called, if the film's identity is unfit to derive from.
    """

    def __init__(
        self,
        keys: Hashable,
        output_dir: str | os.PathLike,
        provenance: Provenance,
        image_key: Hashable = "image",
        objects: Sequence[str] = ("sc",),
        bits_stored: int = 12,
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), print_log=False)
        if not objects or set(objects) - set(OBJECTS):
            raise InputError(f"objects must be some of {', '.join(OBJECTS)}")
        if bits_stored not in (12, 16):
            raise InputError("bits_stored must be 12 or 16")
        self.output_dir = Path(output_dir)
        self.provenance = provenance
        self.image_key = image_key
        self.objects = tuple(objects)
        self.bits_stored = bits_stored

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files of one film; see the class."""
        d = dict(data)
        meta = d[self.image_key].meta
        path = meta["filename_or_obj"]
        prediction = np.asarray(d[self.keys[0]], dtype=np.float32)[0]
        if meta["format"] == "dicom":
            image = np.asarray(d[self.image_key], dtype=np.float32)[0]
            d["outputs"] = [self._write_object(o) for o in self._derive(path, prediction, image, meta["geometry"])]
        else:
            digest = d.get("input_sha256") or file_sha256(path)
            encode, suffix = (_nifti, ".nii.gz") if meta["format"] == "nifti" else (_png, ".png")
            name = f"images/{digest[:32]}{suffix}"
            d["outputs"] = [self._write("image", None, name, encode(prediction, meta))]
        return d

    def _derive(self, path: str, prediction: np.ndarray, image: np.ndarray, geometry: dict) -> list[DerivedObject]:
        source = open_dataset(path, pixels=False)
        shown = restore(prediction, geometry, "network")
        derived = []
        for kind in self.objects:
            if kind == "sc":
                derived.append(secondary_capture(source, shown, self.provenance, bits_stored=self.bits_stored))  # type: ignore[arg-type]
            else:
                film = restore(image, geometry, "network")
                derived.append(residual_overlay(source, film, shown, self.provenance))
        return derived

    def _write_object(self, derived: DerivedObject) -> dict[str, Any]:
        name = f"{derived.study_uid}/{derived.series_uid}/{derived.sop_uid}.dcm"
        return self._write(derived.kind, derived.sop_uid, name, derived.data)

    def _write(self, kind: str, uid: str | None, name: str, data: bytes) -> dict[str, Any]:
        write_atomically(self.output_dir / name, data, self.output_dir / PRIVATE_FOLDER / "tmp")
        return {"kind": kind, "uid": uid, "path": name, "sha256": hashlib.sha256(data).hexdigest()}


def _png(prediction: np.ndarray, meta: Mapping[str, Any]) -> bytes:
    shown = restore(prediction, meta["geometry"], "network")
    buffer = io.BytesIO()
    Image.fromarray(np.rint(np.clip(shown, 0, 1) * 65535).astype(np.uint16)).save(buffer, format="PNG")
    return buffer.getvalue()


def _nifti(prediction: np.ndarray, meta: Mapping[str, Any]) -> bytes:
    """The reconstruction on the voxel grid of the source file: its index order, its affine."""
    film = read_radiograph(meta["filename_or_obj"])
    values = restore(prediction, meta["geometry"], "source")
    to_source = np.rint(np.linalg.inv(np.asarray(film.affine)) @ film.row_major_affine)[
        :2, :2
    ]  # (row, column) to source index
    if to_source[0, 0] == 0:
        values = values.T
    values = values[tuple(slice(None, None, -1 if axis.sum() < 0 else 1) for axis in to_source)]
    image = nibabel.Nifti1Image(np.ascontiguousarray(values), film.affine)
    return gzip.compress(image.to_bytes(), mtime=0)
