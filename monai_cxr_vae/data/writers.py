"""Writing what the model makes of a film, as the kind of file that the film was, whole or not at all."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import nibabel
import numpy as np
from monai.transforms import SaveImaged
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from monai_cxr_vae.data.created import CreationTimes
from monai_cxr_vae.data.pictures import captioned, draw_heat, thumbnails
from monai_cxr_vae.data.readers import in_source_order
from monai_cxr_vae.data.regions import Region, regions
from monai_cxr_vae.dicom.objects import DerivedObject, Provenance
from monai_cxr_vae.dicom.secondary_capture import coloured_capture, secondary_capture
from monai_cxr_vae.dicom.structured_report import Place, structured_report
from monai_cxr_vae.errors import Changed, InputError, MalformedIdentity
from monai_cxr_vae.files import PRIVATE_FOLDER, file_sha256, write_whole
from monai_cxr_vae.film import OWN_MARK, Film, read_film
from monai_cxr_vae.kinds import KINDS, OBJECTS
from monai_cxr_vae.radiograph import Radiograph, read_radiograph
from monai_cxr_vae.transforms import resize, restore
from monai_cxr_vae.version import __version__

# What stands below an image that is stored with those of the patient.
CAPTIONS = {
    shown: (f"AI {kind.title.upper()}", "NOT FOR DIAGNOSIS") for shown, kind in KINDS.items() if kind.modality != "SR"
}
# Longest sides in pixels: of an overlay, which is for reading, and of each picture in the report.
OVERLAY_SIZE, THUMBNAIL_SIZE = 1024, 224
# Least longest side of a reconstruction whose caption shall be read.
MARKED_SIZE = 256
# Longest side of the map that places for a report are taken from; the share of the film below which a place is none;
# how many are told; how far from the middle of the film a side begins, as a share of its width.
PLACES_SIZE, SMALLEST_PLACE, MOST_PLACES, MIDDLE = 512, 0.0005, 5, 0.04
# A difference of this part of the grey range is the top of the residual's scale, on every film alike.
RESIDUAL_TOP = 0.25


def provenance_of(weights: str | os.PathLike, settings: Mapping[str, Any]) -> Provenance:
    """Return what identifies derived objects: the weights file and the settings that change bytes, by their digests."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return Provenance(file_sha256(weights), hashlib.sha256(text.encode()).hexdigest(), __version__)


def iso_time(text: str | None) -> datetime.datetime | None:
    """The time that ISO 8601 text says, None for None.

    Raises:
        InputError: it says none.
    """
    try:
        return None if text is None else datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"created must be an ISO time as 2026-01-31T09:30:00+01:00, not {text!r}") from error


class SaveRadiographd(SaveImaged):
    """Write what the model made of a film beside or in place of what stock ``SaveImaged`` would make of it.

    A DICOM film gives derived DICOM objects under ``<StudyInstanceUID>/<SeriesInstanceUID>/<SOPInstanceUID>.dcm``;
    other films give files under ``images/`` that begin with the first 32 hex digits of the input's SHA-256:

    =========== ========================= ==================== =====================================
    kind        DICOM                     PNG, JPEG            NIfTI
    =========== ========================= ==================== =====================================
    ``sc``      Secondary Capture         ``.png`` (16 bit)    ``.nii.gz`` (float32)
    ``overlay`` colour Secondary Capture  ``.overlay.png``     ``.heatmap.nii.gz`` (float32, 0 to 1)
    ``sr``      Comprehensive SR          none: the manifest has the scores
    =========== ========================= ==========================================================

    The reconstruction (``sc``) is at the model's resolution in the source's orientation and aspect, without padding (a
    marked one has at least 256 pixels along its longest side, or its caption could not be read);
    NIfTI has the source's grid and affine. The overlay shows the heat map, ``heatmap`` in the data;
    without scores, where the film differs from its reconstruction, a quarter of the grey range being the top of the
    scale. Its longest side is that of the film, at most 1024 (:func:`monai_cxr_vae.data.pictures.draw_heat`).

    The list of what was written, ``{"kind", "uid", "path", "size", "sha256"}`` with paths relative to ``output_dir``
    and sizes in bytes, is added to the data under ``outputs``; the kind of a file that is not DICOM is ``image``,
    ``overlay`` or ``heatmap``. ``film`` and ``radiograph`` in the data (:class:`monai_cxr_vae.data.LoadRadiographd`)
    spare reading the film once more; without them it is read again, and must have the digest ``input_sha256``.
    A film whose patient or study has no valid form gives no DICOM objects, and warning codes under ``refused``.

    Args:
        keys: key of the reconstruction, ``(1, S, S)`` float.
        output_dir: where to write.
        provenance: see :func:`provenance_of`.
        image_key: key of the film as the network saw it, with the metadata of the reader and of ``FitToSquared``.
        objects: what to write, of :data:`monai_cxr_vae.kinds.OBJECTS`.
        bits_stored: 12 or 16, of the Secondary Capture.
        scores: there are ``scores`` and a ``heatmap`` in the data; ``sr`` needs them.
        report: also keep small pictures of each film for the report, out of sight.
        created: when the DICOM objects are made, an ISO time, with an offset from UTC or on the clock on the wall;
            None for the time of the film's first result in ``output_dir`` (:mod:`monai_cxr_vae.data.created`).
        mark: put a caption below the DICOM images, which says that they are no film of a patient.

    Raises:
        OutputError: when called, if a file cannot be written.
        FilmError: when called, if the film's identity is unfit to derive from, or the file holds another film by now.
    """

    def __init__(
        self,
        keys: Hashable,
        output_dir: str | os.PathLike,
        provenance: Provenance,
        image_key: Hashable = "image",
        objects: Sequence[str] = ("sc",),
        bits_stored: int = 12,
        scores: bool = False,
        report: bool = False,
        created: str | None = None,
        mark: bool = True,
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), print_log=False)
        if not objects or set(objects) - set(OBJECTS) or len(set(objects)) < len(objects):
            raise InputError(f"objects must be some of {', '.join(OBJECTS)}, each once")
        if "sr" in objects and not scores:
            raise InputError("the object sr needs scores, which are switched off or not in these weights")
        if bits_stored not in (12, 16):
            raise InputError("bits_stored must be 12 or 16")
        self.output_dir = Path(output_dir)
        self.provenance = provenance
        self.image_key = image_key
        self.objects = tuple(objects)
        self.bits_stored = bits_stored
        self.scores = scores
        self.report = report
        self.mark = mark
        self.times = CreationTimes(self.output_dir, iso_time(created))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files of one film; see the class."""
        d = dict(data)
        film = _film(d, d[self.image_key].meta["filename_or_obj"])
        result = _Result(d, film, self.image_key, self.keys[0], self.scores)
        digest = film.sha256
        if result.format == "dicom":
            created = self.times.of(digest)
            try:
                derived = self._derive(film.header, result, created)
            except MalformedIdentity as error:  # no fault of the film, whose scores stand
                derived, d["refused"] = [], error.codes
            d["outputs"] = [self._write_object(each) for each in derived]
        else:
            files = (_file(kind, result) for kind in self.objects if kind != "sr")
            d["outputs"] = [self._write(kind, None, f"images/{digest[:32]}{end}", data) for kind, end, data in files]
        if self.report:
            write_whole(thumbnails_file(self.output_dir, digest), result.thumbnails(), self._scratch)
        return d

    def _derive(self, source: Any, result: _Result, created: datetime.datetime) -> list[DerivedObject]:
        """The objects of one film, the report last, which names the others."""
        made, depth = list[DerivedObject](), cast(Literal[12, 16], self.bits_stored)
        if "sc" in self.objects:
            size = max(MARKED_SIZE, int(result.geometry["image_size"])) if self.mark else "network"
            image = self._marked(result.reconstruction(size), "reconstruction")
            made.append(secondary_capture(source, image, self.provenance, created, bits_stored=depth))
        if "overlay" in self.objects:
            picture = self._marked(result.heat_picture(), result.shown)
            made.append(coloured_capture(source, picture, result.shown, self.provenance, created))
        if "sr" in self.objects:
            made.append(
                structured_report(source, result.scores, self.provenance, created, result.places(), tuple(made))
            )
        return sorted(made, key=lambda derived: self.objects.index(derived.kind))

    def _marked(self, picture: np.ndarray, shown: str) -> np.ndarray:
        return captioned(picture, *CAPTIONS[shown]) if self.mark else picture

    def _write_object(self, derived: DerivedObject) -> dict[str, Any]:
        name = f"{derived.study_uid}/{derived.series_uid}/{derived.sop_uid}.dcm"
        return self._write(derived.kind, derived.sop_uid, name, derived.data)

    def _write(self, kind: str, uid: str | None, name: str, data: bytes) -> dict[str, Any]:
        write_whole(self.output_dir / name, data, self._scratch)
        return {"kind": kind, "uid": uid, "path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    @property
    def _scratch(self) -> Path:
        return self.output_dir / PRIVATE_FOLDER / "tmp"


def thumbnails_file(output_dir: Path, input_sha256: str) -> Path:
    """Where the report's pictures of a film are kept."""
    return output_dir / PRIVATE_FOLDER / "strips" / f"{input_sha256[:32]}.webp"


def _film(data: Mapping[Hashable, Any], path: str) -> Film:
    """The film in hand, or read again, if it still is the film that the network has seen.

    Raises:
        Changed: it is not.
    """
    film: Film = data.get("film") or read_film(path)
    if data.get("input_sha256") not in (None, film.sha256):
        raise Changed("the file has been replaced since the network has seen it")
    return film


class _Result:
    """One film and what was made of it, in the orientation of the source."""

    def __init__(
        self, data: Mapping[Hashable, Any], film: Film, image_key: Hashable, key: Hashable, scored: bool
    ) -> None:
        self.meta = meta = data[image_key].meta
        self.format, self.geometry = meta["format"], meta["geometry"]
        self._film, self._radiograph = film, data.get("radiograph")
        self.shown: Literal["heat map", "residual"] = "heat map" if scored else "residual"
        self._prediction = np.asarray(data[key], dtype=np.float32)[0]
        if scored:
            self.scores = data["scores"]
            self._heat = np.asarray(data["heatmap"], dtype=np.float32)[0]
        else:
            image = np.asarray(data[image_key], dtype=np.float32)[0]
            self._heat = np.clip(np.abs(image - np.clip(self._prediction, 0, 1)) / RESIDUAL_TOP, 0, 1)

    @cached_property
    def film(self) -> np.ndarray:
        """The film's pixels in full; the network has seen a small square of it."""
        bits = self.meta["bits_stored"] if self.format == "png" else None
        radiograph: Radiograph = self._radiograph or read_radiograph(self._film, bits=bits)
        return radiograph.pixels

    def reconstruction(self, size: str | int) -> np.ndarray:
        return restore(self._prediction, self.geometry, size)

    def heat(self, size: str | int) -> np.ndarray:
        return restore(self._heat, self.geometry, size)

    def heat_picture(self, size: int = OVERLAY_SIZE) -> np.ndarray:
        heat = self.heat(min(size, max(self.geometry["rows"], self.geometry["columns"])))
        return draw_heat(resize(self.film, *heat.shape), heat)

    def places(self) -> list[Place]:
        """What the map shows beyond its limit, the hottest first, in the film's pixels."""
        rows, columns = int(self.geometry["rows"]), int(self.geometry["columns"])
        heat = self.heat(min(PLACES_SIZE, max(rows, columns)))
        scale = np.array([columns / heat.shape[1], rows / heat.shape[0]])
        found = [region for region in regions(heat) if region.area >= SMALLEST_PLACE * heat.size][:MOST_PLACES]
        outlines = [_from_below(cv2.approxPolyDP(_corners(region), 0.5, True)[:, 0]) * scale for region in found]
        return [
            Place(outline, region.peak, _side(outline / (columns, rows), self.meta.get("orientation")))
            for region, outline in zip(found, outlines, strict=True)
        ]

    def thumbnails(self) -> bytes:
        reconstruction, heat = self.reconstruction(THUMBNAIL_SIZE), self.heat(THUMBNAIL_SIZE)
        film = resize(self.film, *heat.shape)
        return thumbnails([film, reconstruction, draw_heat(film, heat)])


def _corners(region: Region) -> np.ndarray:
    """``(n, 1, 2)`` float32 columns and rows around the pixels of a region, not through their middles."""
    grown = cv2.copyMakeBorder(region.mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    grown = cv2.resize(grown, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    (outline, *_), _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return ((outline + 0.5) / 2 - 1).astype(np.float32)


def _from_below(outline: np.ndarray) -> np.ndarray:
    """The outline ``(n, 2)`` from its lower left on, right of which and below viewers write: beside the place."""
    return np.roll(outline, -int((outline @ (-1, 1)).argmax()), axis=0)


def _side(outline: np.ndarray, orientation: object) -> Literal["left", "right"] | None:
    """The patient's side of an outline in shares of the film's width and height, by Patient Orientation."""
    directions = str(orientation or "").split("\\")
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2 - 0.5
    for direction, offset in zip(directions, middle, strict=False):
        if direction[:1] in ("L", "R") and abs(offset) > MIDDLE:
            return "left" if (offset > 0) == (direction[:1] == "L") else "right"
    return None


def _file(kind: str, result: _Result) -> tuple[str, str, bytes]:
    """Kind, end of the name and bytes of a file for a film that is not DICOM."""
    if result.format == "nifti":
        if kind == "sc":
            return "image", ".nii.gz", _nifti(result.reconstruction("source"), result.meta)
        return "heatmap", ".heatmap.nii.gz", _nifti(result.heat("source"), result.meta)
    if kind == "sc":
        shown = result.reconstruction("network")
        return "image", ".png", _png(np.rint(np.clip(shown, 0, 1) * 65535).astype(np.uint16))
    return "overlay", ".overlay.png", _png(result.heat_picture())


def _png(pixels: np.ndarray) -> bytes:
    buffer, mark = io.BytesIO(), PngInfo()
    mark.add_text("Software", OWN_MARK.decode())
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=mark)
    return buffer.getvalue()


def _nifti(values: np.ndarray, meta: Mapping[str, Any]) -> bytes:
    """A plane of the source's size on the voxel grid of the source file: its index order, its affine."""
    image = nibabel.Nifti1Image(np.ascontiguousarray(in_source_order(values, meta)), meta["source_affine"])
    image.header["descrip"] = OWN_MARK
    return gzip.compress(image.to_bytes(), mtime=0)
