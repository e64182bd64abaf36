"""Reading one film of any supported format into display values, with what must be known about it later."""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import GREY
from monai_cxr_vae.dicom.colour import grey_values
from monai_cxr_vae.dicom.decode import MAX_PIXELS, PixelFormat, check_pixels, decode, pixel_format
from monai_cxr_vae.dicom.display import DEPTHS, display_table, is_blank, shutter
from monai_cxr_vae.dicom.entropy import is_whole
from monai_cxr_vae.dicom.files import inflate, open_dataset, quiet
from monai_cxr_vae.dicom.view import patient_orientation, radiograph_view
from monai_cxr_vae.errors import (
    BadGeometry,
    ColourImage,
    CorruptFile,
    MultiFrame,
    OutOfMemory,
    TooLarge,
    TruncatedFile,
    UnsupportedSyntax,
    WarningCode,
    parsing,
)
from monai_cxr_vae.film import Film, read_film

MAX_PIXEL_ASPECT = 20.0
NIFTI_PERCENTILES = (0.5, 99.5)
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False, repr=False)
class Radiograph:
    """A film as it is shown on a light box, and nothing about the patient.

    Attributes:
        pixels: float32 (rows, columns) in [0, 1], row-major, bone bright; never resampled, flipped or cropped.
        format: ``'dicom'``, ``'png'``, ``'jpeg'`` or ``'nifti'``.
        spacing: (between rows, between columns) in mm as the file gives it, at the detector if nowhere else.
        pixel_aspect: height of a pixel over its width; 1.0 is square.
        orientation: where the patient's body goes along the rows and down the columns (Patient Orientation).
        bits_stored: sample depth of the file (that of the scaling for a 16-bit PNG).
        photometric: ``'MONOCHROME1'`` or ``'MONOCHROME2'`` as stored (DICOM).
        transfer_syntax: UID (DICOM).
        decoder: the library that decoded the pixels.
        voi: how contrast was chosen, such as ``'linear'``, ``'lut'``, ``'full_range'``, ``'percentile'``.
        view: ``'PA'``, ``'AP'``, ``'frontal'``, ``'lateral'`` (anything not frontal) or ``'unknown'``.
        warnings: short codes of what had to be assumed or worked around.
        affine: the source's 4 x 4 matrix from its own indices to RAS mm (NIfTI).
        row_major_affine: 4 x 4 matrix from (row, column, 0) of ``pixels`` to RAS mm, of any format; the axes of a
            plain film are those of the LPS screen (x to the right, y down).
    """

    pixels: np.ndarray
    format: str
    spacing: tuple[float, float] | None
    pixel_aspect: float
    orientation: tuple[str, str] | None
    bits_stored: int
    photometric: str | None
    transfer_syntax: str | None
    decoder: str
    voi: str
    view: str
    warnings: tuple[str, ...]
    affine: np.ndarray | None
    row_major_affine: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def columns(self) -> int:
        return int(self.pixels.shape[1])

    def __repr__(self) -> str:
        parts = [f"{self.format}, {self.rows} x {self.columns} pixels, {self.bits_stored} bits"]
        if self.spacing:
            parts.append("spacing {:.3g} x {:.3g} mm".format(*self.spacing))
        parts += [f"view {self.view}", f"contrast {self.voi}"]
        if self.warnings:
            parts.append(f"warnings: {' '.join(self.warnings)}")
        return f"Radiograph({', '.join(parts)})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pixels, dtype=dtype) if copy else np.asarray(self.pixels, dtype=dtype)


def read_radiograph(source: str | Path | Film, *, bits: int | None = None) -> Radiograph:
    """Read a film: single-frame greyscale DICOM, PNG, JPEG, or 2-D NIfTI, told apart by content, not by name.

    DICOM goes through stored bits, Modality LUT, VOI LUT or window, polarity (PS3.4 N.2) and display shutter. 8-bit
    pictures are divided by 255; 16-bit PNG by ``bits``, else by the smallest of 8, 10, 12, 14, 16 bits that holds its
    maximum; NIfTI is scaled from its 0.5 to its 99.5 percentile. A colour picture whose channels are equal is grey;
    transparency is accepted only where there is none. EXIF orientation is applied.

    Args:
        source: the file, opened once; or what has been read of it.
        bits: depth of 16-bit PNG, so that films of one set are scaled alike.

    Returns:
        The film, its ``pixels`` ``(rows, columns)`` float32 in [0, 1], bone bright.

    Raises:
        FilmError: always a subclass that names the reason; the message holds nothing from the file.
    """
    film = source if isinstance(source, Film) else read_film(source)
    try:
        kind, data = film.kind, film.data
        if kind == "dicom":
            return _read_dicom(data)
        if kind == "nifti":
            return _read_nifti(inflate(data, zlib.MAX_WBITS | 16) if data.startswith(b"\x1f\x8b") else data)
        return _read_picture(data, kind, bits)
    except MemoryError as error:
        raise OutOfMemory("there is not enough memory for this film") from error


def _screen_affine(row_spacing: float, column_spacing: float) -> np.ndarray:
    """From (row, column) to RAS for a film without a place in the patient: rows go down, columns right, on LPS axes."""
    affine = np.eye(4)
    affine[:2, :2] = [[0.0, -column_spacing], [-row_spacing, 0.0]]
    return affine


# DICOM


def _read_dicom(data: bytes) -> Radiograph:
    dataset = open_dataset(data)
    with quiet():
        check_pixels(dataset)
        form = pixel_format(dataset)
        words, decoder = decode(dataset, form)
        pixels, voi, warnings = _displayed(words, dataset, form)
        view, view_warnings = radiograph_view(dataset)
        spacing, aspect, spacing_warnings = _spacing(dataset)
        orientation = patient_orientation(dataset)
    row, column = spacing or (aspect, 1.0)
    return Radiograph(
        pixels=pixels,
        format="dicom",
        spacing=spacing,
        pixel_aspect=aspect,
        orientation=orientation,
        bits_stored=form.bits_stored,
        photometric=form.photometric,
        transfer_syntax=form.transfer_syntax,
        decoder=decoder,
        voi=voi,
        view=view,
        warnings=warnings + view_warnings + spacing_warnings,
        affine=None,
        row_major_affine=_screen_affine(row, column),
    )


def _displayed(words: np.ndarray, dataset: Dataset, form: PixelFormat) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Display values of stored words, how contrast was chosen, and warning codes."""
    if form.photometric in GREY:
        table = display_table(dataset, form, words)
        pixels, voi, warnings = table.apply(words), table.voi, list(table.warnings)
    else:
        pixels, voi = grey_values(words, dataset, form), f"{form.bits_stored} bits"
        warnings = [WarningCode.COLOUR_AS_GREY]
    if is_blank(pixels):
        warnings.append(WarningCode.VOI_BLANK)
    covered, grey = shutter(dataset, form.rows, form.columns, warnings)
    if covered is not None:
        pixels[covered] = grey
    return pixels, voi, tuple(warnings)


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, float, tuple[str, ...]]:
    """Pixel Spacing, else Imager or Nominal Scanned Pixel Spacing (PS3.3 10.7.1.3), else the Pixel Aspect Ratio."""
    warnings: tuple[str, ...] = ()
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        try:
            value = dataset.get(keyword)
            if value in (None, ""):
                continue
            row, column = (float(part) for part in value)
            if row > 0 and column > 0 and 1 / MAX_PIXEL_ASPECT <= row / column <= MAX_PIXEL_ASPECT:
                return (None if keyword == "PixelAspectRatio" else (row, column)), row / column, warnings
        except Exception:
            pass
        warnings = (WarningCode.SPACING_INVALID,)
    return None, 1.0, warnings


# PNG and JPEG


def _read_picture(data: bytes, kind: str, bits: int | None) -> Radiograph:
    from PIL import Image, ImageOps

    with parsing("the picture is damaged or incomplete"):
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG",) if kind == "png" else ("JPEG", "MPO"))
            if image.width * image.height > MAX_PIXELS:
                raise TooLarge(f"the picture claims more than {MAX_PIXELS // 10**6} million pixels")
            if getattr(image, "n_frames", 1) > 1:
                raise MultiFrame("the file holds several pictures")
            image.load()
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
            upright = ImageOps.exif_transpose(image) if turned else image
        except Image.DecompressionBombError as error:
            raise TooLarge(f"the picture claims more than {MAX_PIXELS // 10**6} million pixels") from error
    if kind == "jpeg" and not is_whole(data, np.asarray(image)):
        raise CorruptFile("the picture is damaged or incomplete")
    grey, warnings = _grey(upright, deep=kind == "png" and data[24] == 16)
    if turned:
        warnings += (WarningCode.EXIF_ORIENTATION,)
    if grey.dtype == np.uint8:
        bits = 8
    elif bits is None:
        bits = next(depth for depth in DEPTHS if int(grey.max()) < 1 << depth)
        warnings += (WarningCode.DEPTH_ASSUMED,)
    elif int(grey.max()) >= 1 << bits:
        raise CorruptFile(f"the picture holds more than the {bits} bits that it is said to have")
    return Radiograph(
        pixels=(grey / np.float32((1 << bits) - 1)).astype(np.float32, copy=False),
        format=kind,
        spacing=None,
        pixel_aspect=1.0,
        orientation=None,
        bits_stored=bits,
        photometric=None,
        transfer_syntax=None,
        decoder="pillow",
        voi=f"{bits} bits",
        view="unknown",
        warnings=warnings,
        affine=None,
        row_major_affine=_screen_affine(1.0, 1.0),
    )


def _grey(image: Any, deep: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 or uint16 (rows, columns) of a Pillow image, and warning codes.

    What lies under a transparent pixel is nobody's picture, so any transparency is refused.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        return np.asarray(image).astype(np.uint16), ()
    if deep:
        raise ColourImage("a 16-bit picture with colour or transparency is not read")
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.asarray(image.convert("L")), ()
    if image.mode not in ("1", "L", "LA", "PA", "P", "RGB", "RGBA"):
        raise ColourImage("the picture is in colour")
    channels = np.asarray(image.convert("RGBA"))
    if (channels[..., 3] != 255).any():
        raise ColourImage("the picture is partly transparent")
    if (channels[..., :1] != channels[..., 1:3]).any():
        raise ColourImage("the picture is in colour")
    warnings = () if image.mode in ("1", "L", "LA") else (WarningCode.COLOUR_AS_GREY,)
    return np.ascontiguousarray(channels[..., 0]), warnings


# NIfTI


def _read_nifti(data: bytes) -> Radiograph:
    import nibabel

    kind = nibabel.Nifti1Image if data[344:347] in (b"n+1", b"ni1") else nibabel.Nifti2Image
    if b"ni" in (data[344:346], data[4:6]):
        raise UnsupportedSyntax("a NIfTI header without its image in the same file is not read")
    with parsing("the NIfTI header cannot be parsed"):
        header = kind.header_class.from_fileobj(io.BytesIO(data), check=False)
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 2:
        raise MultiFrame("the NIfTI image has a third axis")
    if len(shape) < 2 or min(shape) < 1:
        raise BadGeometry("the NIfTI image has fewer than two axes")
    if math.prod(shape) > MAX_PIXELS:
        raise TooLarge(f"the image claims more than {MAX_PIXELS // 10**6} million pixels")
    if dtype.kind not in "iuf":
        raise ColourImage("the NIfTI image holds colours or complex numbers")
    if len(data) < offset + math.prod(shape) * dtype.itemsize:
        raise TruncatedFile("the NIfTI image breaks off")
    with parsing("the NIfTI image is damaged"):
        image = kind.from_bytes(data)
        values = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise CorruptFile("the NIfTI image holds values that are not numbers")
    low, high = np.percentile(values, NIFTI_PERCENTILES)
    if low >= high:
        raise CorruptFile("the NIfTI image has no contrast between its percentiles")

    warnings: tuple[str, ...] = (WarningCode.PERCENTILE_SCALING,)
    affine = np.asarray(image.affine, dtype=np.float64)
    if not ((header["sform_code"] or header["qform_code"]) and _is_placement(affine)):
        warnings += (WarningCode.AFFINE_MISSING,)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_source = _screen_to_index(affine, shape)
    if to_source[0, 0] == 0:
        values = values.T
    rows_back, columns_back = to_source[:2, 0].sum() < 0, to_source[:2, 1].sum() < 0
    values = values[:: -1 if rows_back else 1, :: -1 if columns_back else 1]
    row_major = affine @ to_source
    row, column = (float(step) for step in np.linalg.norm(row_major[:3, :2], axis=0))
    return Radiograph(
        pixels=np.clip((values - np.float32(low)) / np.float32(high - low), 0.0, 1.0).astype(np.float32, order="C"),
        format="nifti",
        spacing=(row, column),
        pixel_aspect=row / column,
        orientation=None,
        bits_stored=dtype.itemsize * 8,
        photometric=None,
        transfer_syntax=None,
        decoder="nibabel",
        voi="percentile",
        view="unknown",
        warnings=warnings,
        affine=affine,
        row_major_affine=row_major,
    )


def _is_placement(affine: np.ndarray) -> bool:
    """Whether a matrix puts a plane of pixels into space, pixels of a shape that a film can have."""
    if not np.isfinite(affine).all():
        return False
    first, second, _ = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(
        min(first, second) > 0
        and 1 / MAX_PIXEL_ASPECT <= first / second <= MAX_PIXEL_ASPECT
        and np.linalg.matrix_rank(affine) == 4
    )


def _screen_to_index(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """4 x 4 matrix from (row, column, 0) on the LPS screen to NIfTI indices.

    Columns run along the world axis that comes first (x before y before z), to the patient's left; rows along the
    other one, to the back or the feet: on each of them the RAS coordinate falls.
    """
    world = np.abs(affine[:3, :2])
    first, second = int(world[:, 0].argmax()), int(world[:, 1].argmax())
    column_axis = 0 if first <= second else 1
    matrix = np.eye(4)
    matrix[:2] = 0.0
    for screen, index in ((0, 1 - column_axis), (1, column_axis)):
        along = affine[:3, index]
        backwards = along[np.abs(along).argmax()] > 0
        matrix[index, screen] = -1.0 if backwards else 1.0
        matrix[index, 3] = shape[index] - 1 if backwards else 0.0
    return matrix
