"""From stored values to display values: Modality LUT, VOI, polarity and padding as one table per image (PS3.4 N.2)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import integer, items, terms
from monai_cxr_vae.dicom.decode import PixelFormat, stored_values
from monai_cxr_vae.dicom.files import encoding
from monai_cxr_vae.errors import CorruptFile, WarningCode

# Depths at which detectors and converters work. A film that says no more is taken to have the smallest that holds it.
DEPTHS = (8, 10, 12, 14, 16)
# Beyond this many bits stored, the bits that detectors use and those that a header claims often differ.
_PLAIN_DEPTH = 12
# A film is blank if this part of its pixels lies within one step of the grey in the middle of them.
_BLANK_SHARE, _BLANK_STEP = 0.95, 1 / 64


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


def display_table(dataset: Dataset, form: PixelFormat, words: np.ndarray) -> DisplayTable:
    """Build the table of an image from its header.

    Where a contrast attribute is missing or senseless the full range of the stored bits is shown and a warning says so.
    If more than 12 bits are stored without contrast, the range is that of Smallest and Largest Image Pixel Value or of
    the smallest usual depth that holds the pixels.

    Args:
        dataset: the header.
        form: its :func:`~monai_cxr_vae.dicom.decode.pixel_format`.
        words: the stored words of the image.
    """
    warnings: list[str] = []
    samples = np.arange(1 << form.bits_stored, dtype=np.uint32)
    stored = stored_values(samples, form.bits_stored, form.bits_stored - 1, form.signed)
    values, low, high = modality_values(stored, dataset, warnings)
    padded = padding(stored, dataset, form, warnings)
    shown, voi = voi_values(values, dataset, warnings)
    if shown is None:
        first, last, voi = _full_range(stored, padded, dataset, form, words, warnings)
        if voi != "full_range":
            low, high = sorted((float(values[stored == first][0]), float(values[stored == last][0])))
        shown = np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0)
    shown = polarity(shown, form.photometric)
    shape = str(dataset.get("PresentationLUTShape") or "").strip()
    if shape and (shape == "INVERSE") != (form.photometric == "MONOCHROME1"):
        warnings.append(WarningCode.POLARITY_CONFLICT)
    shown[padded] = 0.0
    every = np.arange(1 << form.bits_allocated, dtype=np.uint32)
    table = shown.astype(np.float32)[(every >> (form.high_bit + 1 - form.bits_stored)) & ((1 << form.bits_stored) - 1)]
    return DisplayTable(table, voi, tuple(warnings))


# The steps, each over all stored values at once


def modality_values(stored: np.ndarray, dataset: Dataset, warnings: list[str]) -> tuple[np.ndarray, float, float]:
    """Modality LUT (PS3.3 C.11.1): the table of the sequence, else slope and intercept.

    Returns:
        float64 values, and the lowest and highest value that the transformation can give.
    """
    try:
        table, _ = read_lut(dataset, "ModalityLUTSequence", stored, warnings)
        if table is not None:
            return table.look_up(stored), 0.0, table.maximum
    except UnusableError:
        warnings.append(WarningCode.MODALITY_LUT_INVALID)
    slope, intercept = _first_number(dataset, "RescaleSlope"), _first_number(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        slope, intercept = 1.0, 0.0
    elif not slope or intercept is None or not np.isfinite([slope, intercept]).all():
        warnings.append(WarningCode.RESCALE_INVALID)  # one without the other is as senseless as a slope of zero
        slope, intercept = 1.0, 0.0
    values = stored * slope + intercept
    return values, float(values.min()), float(values.max())


def voi_values(values: np.ndarray, dataset: Dataset, warnings: list[str]) -> tuple[np.ndarray | None, str]:
    """VOI LUT (PS3.3 C.11.2): the first table that can be used, else the first window.

    Returns:
        Display values in [0, 1] before polarity, None if there is neither; and the name of the choice.
    """
    try:
        table, which = read_lut(dataset, "VOILUTSequence", values, warnings)
        if table is not None:
            return table.look_up(values) / table.maximum, "lut" + which
    except UnusableError:
        warnings.append(WarningCode.VOI_LUT_INVALID)
    centers, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        warnings.append(WarningCode.VOI_FUNCTION_UNKNOWN)
        function = "LINEAR"
    least = 1.0 if function == "LINEAR" else 1e-6
    for number, (center, width) in enumerate(zip(centers or (), widths or (), strict=False), 1):
        if np.isfinite(center) and np.isfinite(width) and width >= least:
            return window(values, center, width, function), function.lower() + _which(number, len(centers or ()))
    nothing = centers is None and widths is None
    warnings.append(WarningCode.VOI_MISSING if nothing else WarningCode.VOI_INVALID)
    return None, ""


def _full_range(
    stored: np.ndarray,
    padded: np.ndarray,
    dataset: Dataset,
    form: PixelFormat,
    words: np.ndarray,
    warnings: list[str],
) -> tuple[int, int, str]:
    """The stored values that an image without contrast is shown between, and the name of the choice."""
    first, last = int(stored.min()), int(stored.max())
    if form.bits_stored <= _PLAIN_DEPTH or items(dataset, "ModalityLUTSequence"):
        return first, last, "full_range"
    used = np.zeros(1 << form.bits_stored, bool)
    used[(words >> (form.high_bit + 1 - form.bits_stored)) & ((1 << form.bits_stored) - 1)] = True
    inside = stored[used & ~padded]
    if not inside.size:
        return first, last, "full_range"
    lowest, highest = int(inside.min()), int(inside.max())
    try:
        smallest = _word_attribute(dataset, "SmallestImagePixelValue", form.signed)
        largest = _word_attribute(dataset, "LargestImagePixelValue", form.signed)
    except UnusableError:
        smallest = largest = None
    if smallest is not None and largest is not None and first <= smallest <= lowest <= highest <= largest <= last:
        return smallest, largest, "pixel_range"
    signed = lowest < 0
    bits = next(bits for bits in DEPTHS if highest < 1 << (bits - signed) and lowest >= -(1 << (bits - 1)) * signed)
    if bits >= form.bits_stored:
        return first, last, "full_range"
    warnings.append(WarningCode.DEPTH_ASSUMED)
    first = -(1 << (bits - 1)) if signed else 0
    return first, first + (1 << bits) - 1, f"{bits} bits"


def _which(number: int, count: int) -> str:
    return f" {number} of {count}" if count > 1 else ""


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
    try:
        first = _word_attribute(dataset, "PixelPaddingValue", form.signed)
        last = _word_attribute(dataset, "PixelPaddingRangeLimit", form.signed)
    except UnusableError:
        warnings.append(WarningCode.PADDING_INVALID)
        first = None
    if first is None:
        return np.zeros(stored.shape, bool)
    last = first if last is None else last
    return (stored >= min(first, last)) & (stored <= max(first, last))


def is_blank(pixels: np.ndarray) -> bool:
    """Do almost all display values lie at one grey? A sample of the pixels tells."""
    step = max(1, int((pixels.size / 40_000) ** 0.5))
    sample = pixels[::step, ::step]
    return bool((np.abs(sample - np.median(sample)) < _BLANK_STEP).mean() > _BLANK_SHARE)


def shutter(dataset: Dataset, rows: int, columns: int, warnings: list[str]) -> tuple[np.ndarray | None, float]:
    """Display Shutter (PS3.3 C.7.6.11): what lies outside of all shapes is covered.

    Returns:
        bool (rows, columns), true where the film is covered, None without a shutter; and the display value there.
    """
    visible = None
    for shape in terms(dataset, "ShutterShape"):
        try:
            inside = _SHUTTERS[shape](dataset, rows, columns)
            if not inside.any():
                raise UnusableError(shape)
        except Exception:
            warnings.append(WarningCode.SHUTTER_INVALID)
            continue
        visible = inside if visible is None else visible & inside
    if visible is None or not visible.any():
        return None, 0.0
    try:
        grey = integer(dataset, "ShutterPresentationValue", 0) / 65535
    except CorruptFile:
        grey = 0.0
    return ~visible, min(max(grey, 0.0), 1.0)


def _rectangle(dataset: Dataset, rows: int, columns: int) -> np.ndarray:
    top, bottom = (integer(dataset, f"Shutter{side}HorizontalEdge") for side in ("Upper", "Lower"))
    left, right = (integer(dataset, f"Shutter{side}VerticalEdge") for side in ("Left", "Right"))
    inside = np.zeros((rows, columns), bool)
    inside[max(top - 1, 0) : max(bottom, 0), max(left - 1, 0) : max(right, 0)] = True
    return inside


def _circle(dataset: Dataset, rows: int, columns: int) -> np.ndarray:
    row, column = (int(v) for v in dataset.CenterOfCircularShutter)
    radius = integer(dataset, "RadiusOfCircularShutter")
    down, across = np.ogrid[1 : rows + 1, 1 : columns + 1]
    return (down - row) ** 2 + (across - column) ** 2 <= radius**2


def _polygon(dataset: Dataset, rows: int, columns: int) -> np.ndarray:
    corners = np.array([int(v) for v in dataset.VerticesOfThePolygonalShutter]).reshape(-1, 2)
    if len(corners) < 3:
        raise UnusableError
    inside = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(inside, [np.ascontiguousarray(corners[:, ::-1] - 1, np.int32)], 1)
    return inside.astype(bool)


_SHUTTERS = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}


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


def read_lut(dataset: Dataset, keyword: str, values: np.ndarray, warnings: list[str]) -> tuple[LookupTable | None, str]:
    """The first usable table of a LUT sequence, ``None`` without a sequence; and which one it is.

    Args:
        values: what goes into the table; its sign settles how the descriptor's first value is meant.

    Raises:
        UnusableError: there are tables, and none can be used.
    """
    try:
        tables = list(dataset.get(keyword) or ())
    except Exception as error:
        raise UnusableError(keyword) from error
    for number, item in enumerate(tables, 1):
        try:
            return _read_table(item, values, encoding(dataset)[1], warnings), _which(number, len(tables))
        except UnusableError:
            continue
    if tables:
        raise UnusableError(keyword)
    return None, ""


def _read_table(item: Dataset, values: np.ndarray, little: bool, warnings: list[str]) -> LookupTable:
    try:
        descriptor = _words(item.LUTDescriptor, little)
        entries, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
        data = _words(item.LUTData, little)
    except Exception as error:
        raise UnusableError from error
    if first >= 32768 and values.min() < 0:
        first -= 65536
    if not 1 <= bits <= 16 or not len(data) or int(data.max()) == 0:
        raise UnusableError
    if len(data) != entries and (len(data) == (entries + 1) // 2 or (bits <= 8 and data.max() > 255)):
        data = data.astype("<u2").view(np.uint8)  # two 8-bit entries to a word
        data = data[: len(data) - (len(data) - entries == 1)]  # the byte that makes the length even
    if len(data) != entries:
        warnings.append(WarningCode.LUT_LENGTH_ASSUMED)
    maximum = float((1 << bits) - 1)
    # Vendors announce 16 bits over tables of 10 or 12: taken at their word the image is nearly black.
    if data.max() > maximum or (bits == 16 and data.max() < 1 << 15):
        warnings.append(WarningCode.LUT_DEPTH_ASSUMED)
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


def _word_attribute(dataset: Dataset, keyword: str, signed: bool) -> int | None:
    """A stored value of a "US or SS" attribute, None if it is absent or empty."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        word = int(_words(value, encoding(dataset)[1])[0])
    except Exception as error:
        raise UnusableError(keyword) from error
    return word - 65536 if signed and word >= 32768 else word
