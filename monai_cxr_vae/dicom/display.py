"""From stored values to display values: Modality LUT, VOI, polarity and padding as one table per image (PS3.4 N.2)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.decode import PixelFormat, stored_values
from monai_cxr_vae.dicom.files import encoding


class UnusableError(ValueError):
    """An attribute is there but makes no sense."""


@dataclass(frozen=True)
class DisplayTable:
    """The whole chain of one image.

    ``table`` holds a float32 display value in [0, 1] (1 = white) for every word of BitsAllocated bits; ``voi`` tells
    how contrast was chosen; ``warnings`` are short codes of what had to be worked around.
    """

    table: np.ndarray
    voi: str
    warnings: tuple[str, ...]

    def apply(self, words: np.ndarray) -> np.ndarray:
        """Display values, float32 of the same shape, for unsigned stored words."""
        try:
            return cv2.LUT(words, self.table)
        except cv2.error:  # OpenCV before 5 looks up 8-bit words only
            return np.take(self.table, words)


def display_table(dataset: Dataset, form: PixelFormat) -> DisplayTable:
    """Build the table of an image from its header.

    Where a contrast attribute is missing or senseless the full range of the stored bits is shown and a warning says so.

    Args:
        dataset: the header.
        form: its :func:`~monai_cxr_vae.dicom.decode.pixel_format`.
    """
    warnings: list[str] = []
    samples = np.arange(1 << form.bits_stored, dtype=np.uint32)
    stored = stored_values(samples, form.bits_stored, form.bits_stored - 1, form.signed)
    values, low, high = modality_values(stored, dataset, warnings)
    shown, voi = voi_values(values, low, high, dataset, warnings)
    shown = polarity(shown, form.photometric)
    shape = str(dataset.get("PresentationLUTShape") or "").strip()
    if shape and (shape == "INVERSE") != (form.photometric == "MONOCHROME1"):
        warnings.append("polarity_conflict")
    shown[padding(stored, dataset, form, warnings)] = 0.0
    words = np.arange(1 << form.bits_allocated, dtype=np.uint32)
    table = shown.astype(np.float32)[(words >> (form.high_bit + 1 - form.bits_stored)) & ((1 << form.bits_stored) - 1)]
    return DisplayTable(table, voi, tuple(warnings))


# The steps, each over all stored values at once


def modality_values(stored: np.ndarray, dataset: Dataset, warnings: list[str]) -> tuple[np.ndarray, float, float]:
    """Modality LUT (PS3.3 C.11.1): the table of the sequence, else slope and intercept.

    Returns:
        float64 values, and the lowest and highest value that the transformation can give.
    """
    try:
        table = read_lut(dataset, "ModalityLUTSequence", stored, warnings)
        if table is not None:
            return table.look_up(stored), 0.0, table.maximum
    except UnusableError:
        warnings.append("modality_lut_invalid")
    slope, intercept = _first_number(dataset, "RescaleSlope"), _first_number(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        slope, intercept = 1.0, 0.0
    elif not slope or intercept is None or not np.isfinite([slope, intercept]).all():
        warnings.append("rescale_invalid")  # one without the other is as senseless as a slope of zero
        slope, intercept = 1.0, 0.0
    values = stored * slope + intercept
    return values, float(values.min()), float(values.max())


def voi_values(
    values: np.ndarray, low: float, high: float, dataset: Dataset, warnings: list[str]
) -> tuple[np.ndarray, str]:
    """VOI LUT (PS3.3 C.11.2): the first table, else the first window, else everything from ``low`` to ``high``.

    Returns:
        Display values in [0, 1] before polarity, and the name of the choice.
    """
    try:
        table = read_lut(dataset, "VOILUTSequence", values, warnings)
        if table is not None:
            return table.look_up(values) / table.maximum, "lut"
    except UnusableError:
        warnings.append("voi_lut_invalid")
    centers, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        warnings.append("voi_function_unknown")
        function = "LINEAR"
    if centers is None and widths is None:
        warnings.append("voi_missing")
    else:
        center, width = (centers or [np.nan])[0], (widths or [np.nan])[0]
        if np.isfinite(center) and np.isfinite(width) and width >= (1.0 if function == "LINEAR" else 1e-6):
            several = f" 1 of {len(centers or ())}" if len(centers or ()) > 1 else ""
            return window(values, center, width, function), function.lower() + several
        warnings.append("voi_invalid")
    return np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0), "full_range"


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Window (PS3.3 C.11.2.1.2.1 LINEAR, C.11.2.1.3.1 SIGMOID, C.11.2.1.3.2 LINEAR_EXACT) with output [0, 1].

    Args:
        values: modality values of any shape.
        center, width: of the window; width at least 1 for LINEAR, above 0 else.
        function: the VOI LUT Function.
    """
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def polarity(shown: np.ndarray, photometric: str) -> np.ndarray:
    """Bone bright (PS3.3 C.7.6.3.1.2): MONOCHROME1 shows low values white, so it is turned over, after the VOI.

    Presentation LUT Shape INVERSE says the same thing once more and must not turn it back.
    """
    return 1.0 - shown if photometric == "MONOCHROME1" else shown


def padding(stored: np.ndarray, dataset: Dataset, form: PixelFormat, warnings: list[str]) -> np.ndarray:
    """Which stored values are Pixel Padding (PS3.3 C.7.5.1.1.2), a value or a closed range; it is shown black."""
    first = _word_attribute(dataset, "PixelPaddingValue", form.signed, warnings)
    if first is None:
        return np.zeros(stored.shape, bool)
    last = _word_attribute(dataset, "PixelPaddingRangeLimit", form.signed, warnings)
    last = first if last is None else last
    return (stored >= min(first, last)) & (stored <= max(first, last))


# Lookup tables


@dataclass(frozen=True)
class LookupTable:
    """A LUT of PS3.3 C.11.1 or C.11.2: ``data[i]`` belongs to the value ``first + i``, the ends go on for ever."""

    data: np.ndarray
    first: int
    maximum: float

    def look_up(self, values: np.ndarray) -> np.ndarray:
        index = np.clip(np.floor(values) - self.first, 0, len(self.data) - 1).astype(np.intp)
        return self.data[index].astype(np.float64)


def read_lut(dataset: Dataset, keyword: str, values: np.ndarray, warnings: list[str]) -> LookupTable | None:
    """The first table of a LUT sequence; ``None`` without one.

    Args:
        values: what goes into the table; its sign settles how the descriptor's first value is meant.

    Raises:
        UnusableError: the table contradicts its descriptor.
    """
    try:
        items = dataset.get(keyword)
        if not items:
            return None
        little = encoding(dataset)[1]
        descriptor = _words(items[0].LUTDescriptor, little)
        entries, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
        data = _words(items[0].LUTData, little)
    except Exception as error:
        raise UnusableError(keyword) from error
    if first >= 32768 and values.min() < 0:
        first -= 65536
    if len(data) < entries and len(data) == (entries + 1) // 2:
        data = data.astype("<u2").view(np.uint8)  # two 8-bit entries to a word
    if len(data) < entries or not 1 <= bits <= 16:
        raise UnusableError(keyword)
    data = data[:entries]
    if int(data.max()) == 0:
        raise UnusableError(keyword)
    maximum = float((1 << bits) - 1)
    # Vendors announce 16 bits over tables of 10 or 12: taken at their word the image is nearly black.
    if data.max() > maximum or (bits == 16 and data.max() < 1 << 15):
        warnings.append("lut_depth_assumed")
        maximum = float(data.max())
    return LookupTable(data, first, maximum)


def _words(value: object, little: bool) -> np.ndarray:
    """16-bit words of a "US or SS" or "US or OW" attribute, which arrives as bytes or as numbers."""
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], "<u2" if little else ">u2").astype(np.uint16)
    return (np.atleast_1d(np.asarray(value, dtype=np.int64)) & 0xFFFF).astype(np.uint16)


# Attributes


def _numbers(dataset: Dataset, keyword: str) -> list[float] | None:
    """Decimal values of an attribute: ``None`` if it is absent or empty, NaN for what is not a number."""
    try:
        value = dataset.get(keyword)
        parts = [] if value in (None, "") else list(value) if hasattr(value, "__iter__") else [value]
        return [float(part) for part in parts] or None
    except Exception:
        return [np.nan]


def _first_number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword)
    return None if numbers is None else numbers[0]


def _word_attribute(dataset: Dataset, keyword: str, signed: bool, warnings: list[str]) -> int | None:
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        word = int(_words(value, encoding(dataset)[1])[0])
    except Exception:
        warnings.append("padding_invalid")
        return None
    return word - 65536 if signed and word >= 32768 else word
