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

from monai_cxr_vae.dicom.decode import MAX_PIXELS, check_pixels, decode, pixel_format
from monai_cxr_vae.dicom.display import display_table
from monai_cxr_vae.dicom.files import check_file, inflate, open_dataset, quiet
from monai_cxr_vae.dicom.view import patient_orientation, radiograph_view
from monai_cxr_vae.errors import (
    BadGeometry,
    ColourImage,
    CorruptFile,
    FilmError,
    MultiFrame,
    NotDicom,
    OutOfMemory,
    ReadFailed,
    TooLarge,
    TruncatedFile,
    UnsupportedSyntax,
)

MAX_PIXEL_ASPECT = 20.0
NIFTI_PERCENTILES = (0.5, 99.5)


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


def read_radiograph(path: str | Path) -> Radiograph:
    """Read a film: single-frame greyscale DICOM, PNG, JPEG, or 2-D NIfTI, told apart by content, not by name.

    DICOM goes through stored bits, Modality LUT, VOI LUT or window, and polarity (PS3.4 N.2). 8-bit pictures are
    divided by 255; 16-bit PNG by the smallest of 10, 12, 14, 16 bits that holds its maximum; NIfTI is scaled from its
    0.5 to its 99.5 percentile. A colour picture whose channels are equal is grey; transparency is accepted only where
    there is none.

    Args:
        path: the file.

    Raises:
        FilmError: always a subclass that names the reason; the message holds nothing from the file.
    """
    try:
        return _read(Path(path))
    except FilmError:
        raise
    except MemoryError as error:
        raise OutOfMemory("there is not enough memory for this film") from error
    except OSError as error:
        raise ReadFailed("the file cannot be read") from error
    except Exception as error:
        raise CorruptFile("the file is damaged in a way that no reader expects") from error


def _read(path: Path) -> Radiograph:
    check_file(path)
    with path.open("rb") as stream:
        head = stream.read(352)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _read_picture(path.read_bytes(), "png")
    if head.startswith(b"\xff\xd8\xff"):
        return _read_picture(path.read_bytes(), "jpeg")
    if head.startswith(b"\x1f\x8b"):
        data = inflate(path.read_bytes(), zlib.MAX_WBITS | 16)
        if not _is_nifti(data):
            raise NotDicom("the file is compressed, but not a NIfTI image")
        return _read_nifti(data)
    if _is_nifti(head):
        return _read_nifti(path.read_bytes())
    return _read_dicom(path)


def _screen_affine(row_spacing: float, column_spacing: float) -> np.ndarray:
    """From (row, column) to RAS for a film without a place in the patient: rows go down, columns right, on LPS axes."""
    affine = np.eye(4)
    affine[:2, :2] = [[0.0, -column_spacing], [-row_spacing, 0.0]]
    return affine


# DICOM


def _read_dicom(path: Path) -> Radiograph:
    dataset = open_dataset(path)
    with quiet():
        check_pixels(dataset)
        form = pixel_format(dataset)
        words, decoder = decode(dataset, form)
        table = display_table(dataset, form)
        view, view_warnings = radiograph_view(dataset)
        spacing, aspect, spacing_warnings = _spacing(dataset)
        orientation = patient_orientation(dataset)
    row, column = spacing or (aspect, 1.0)
    return Radiograph(
        pixels=table.apply(words),
        format="dicom",
        spacing=spacing,
        pixel_aspect=aspect,
        orientation=orientation,
        bits_stored=form.bits_stored,
        photometric=form.photometric,
        transfer_syntax=form.transfer_syntax,
        decoder=decoder,
        voi=table.voi,
        view=view,
        warnings=table.warnings + view_warnings + spacing_warnings,
        affine=None,
        row_major_affine=_screen_affine(row, column),
    )


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
        warnings = ("spacing_invalid",)
    return None, 1.0, warnings


# PNG and JPEG


def _read_picture(data: bytes, kind: str) -> Radiograph:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",) if kind == "png" else ("JPEG", "MPO"))
        if image.width * image.height > MAX_PIXELS:
            raise TooLarge(f"the picture claims more than {MAX_PIXELS // 10**6} million pixels")
        if getattr(image, "n_frames", 1) > 1:
            raise MultiFrame("the file holds several pictures")
        image.load()
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture claims more than {MAX_PIXELS // 10**6} million pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptFile("the picture is damaged or incomplete") from error
    grey, warnings = _grey(image, deep=kind == "png" and data[24] == 16)
    if kind == "jpeg" and image.getexif().get(0x0112, 1) != 1:
        warnings += ("exif_orientation_ignored",)
    bits, voi = 8, "8 bits"
    if grey.dtype != np.uint8:
        bits = next(bits for bits in (10, 12, 14, 16) if int(grey.max()) < 1 << bits)
        voi = f"{bits} bits"
        warnings += ("depth_assumed",)
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
        voi=voi,
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
    return np.ascontiguousarray(channels[..., 0]), (() if image.mode in ("1", "L", "LA") else ("colour_as_grey",))


# NIfTI


def _is_nifti(data: bytes) -> bool:
    return data[344:348] in (b"n+1\0", b"ni1\0") or data[4:8] in (b"n+2\0", b"ni2\0")


def _read_nifti(data: bytes) -> Radiograph:
    import nibabel

    kind = nibabel.Nifti1Image if data[344:347] in (b"n+1", b"ni1") else nibabel.Nifti2Image
    if b"ni" in (data[344:346], data[4:6]):
        raise UnsupportedSyntax("a NIfTI header without its image in the same file is not read")
    header = kind.header_class.from_fileobj(io.BytesIO(data), check=False)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
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
    if len(data) < int(header["vox_offset"]) + math.prod(shape) * dtype.itemsize:
        raise TruncatedFile("the NIfTI image breaks off")
    image = kind.from_bytes(data)
    values = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise CorruptFile("the NIfTI image holds values that are not numbers")
    low, high = np.percentile(values, NIFTI_PERCENTILES)
    if low >= high:
        raise CorruptFile("the NIfTI image has no contrast between its percentiles")

    warnings: tuple[str, ...] = ("percentile_scaling",)
    affine = np.asarray(image.affine, dtype=np.float64)
    placed = bool(header["sform_code"] or header["qform_code"]) and np.isfinite(affine).all()
    if not (placed and np.linalg.norm(affine[:3, :2], axis=0).all()):
        warnings += ("affine_missing",)
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
