"""Grey films that are stored as colour images."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.decode import LOSSY, PixelFormat, stored_values
from monai_cxr_vae.dicom.files import encoding
from monai_cxr_vae.errors import ColourImage, CorruptFile, UnsupportedSyntax

_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 57, 70))
_PALETTE = ("Red", "Green", "Blue")


def grey_values(words: np.ndarray, dataset: Dataset, form: PixelFormat) -> np.ndarray:
    """Display values of a colour image whose colours are all grey; windows do not apply to colour images.

    Args:
        words: of :func:`~monai_cxr_vae.dicom.decode.decode`.
        dataset: the header.
        form: its :func:`~monai_cxr_vae.dicom.decode.pixel_format`.

    Returns:
        float32 (rows, columns) in [0, 1].

    Raises:
        ColourImage: there are colours.
        CorruptFile, UnsupportedSyntax: a palette is damaged, or of a kind that is not read.
    """
    if form.photometric == "PALETTE COLOR":
        table, first = _grey_palette(dataset, form)
        index = stored_values(words, form.bits_stored, form.high_bit, form.signed)
        return table[np.clip(index - first, 0, len(table) - 1)]
    channels = stored_values(words, form.bits_stored, form.high_bit, signed=False)
    top = (1 << form.bits_stored) - 1
    jpeg = (form.transfer_syntax or "") in _JPEG
    tolerance = 2 * top / 255 if form.transfer_syntax in LOSSY else 0
    equal = np.abs(channels[..., 1:] - channels[..., :1]).max() <= tolerance
    # Decoders of JPEG make RGB of what it transforms itself, unless the header calls that RGB, rightly or wrongly.
    luminance = form.photometric == "RGB" if jpeg else form.photometric.startswith("YBR_FULL")
    neutral = luminance and np.abs(channels[..., 1:] - (top + 1) // 2).max() <= tolerance
    if not (neutral or (equal and (jpeg or not luminance))):
        raise ColourImage("the image is in colour")
    return (channels[..., 0] / np.float32(top)).astype(np.float32)


def _grey_palette(dataset: Dataset, form: PixelFormat) -> tuple[np.ndarray, int]:
    """The tables of PS3.3 C.7.9, which must be the same, as float32 in [0, 1], and the value of their first entry."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        raise UnsupportedSyntax("segmented palettes are not read")
    if any(f"{name}PaletteColorLookupTableData" not in dataset for name in _PALETTE):
        raise ColourImage("the image is in colours that it does not describe")
    try:
        entries, first, bits = (int(v) for v in dataset.RedPaletteColorLookupTableDescriptor)
        entries, first = entries or 65536, first - 65536 * (form.signed and first >= 32768)
        order = "<" if encoding(dataset)[1] else ">"
        red, green, blue = (bytes(dataset[f"{name}PaletteColorLookupTableData"].value) for name in _PALETTE)
        table = np.frombuffer(red, np.uint8 if bits == 8 and len(red) < 2 * entries else order + "u2")[:entries]
    except Exception as error:
        raise CorruptFile("the colour palette is damaged") from error
    if not len(table) or bits not in (8, 16):
        raise CorruptFile("the colour palette is damaged")
    if red != green or red != blue:
        raise ColourImage("the image is in colour")
    # 8-bit entries in 16-bit words may lie in either half, or in both.
    top = 65535 if bits == 16 or table.max() > 255 else 255
    return (table / np.float32(top)).astype(np.float32), first
