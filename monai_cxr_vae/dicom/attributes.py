"""One tolerant parser for each kind of attribute, shared by all who ask for it."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset

from monai_cxr_vae.errors import CorruptFile

GREY = ("MONOCHROME1", "MONOCHROME2")
# Photometric Interpretation of colour images (PS3.3 C.7.6.3.1.2), retired terms too.
COLOURS = (
    *("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
    *("XYB", "HSV", "ARGB", "CMYK"),
)


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text without blanks around it, empty if it is absent.

    Raises:
        CorruptFile: it cannot be decoded.
    """
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip(" \0\t\r\n")
    except Exception as error:  # the parsers of pydicom raise what they please
        raise CorruptFile("an attribute of the header cannot be decoded") from error


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number, stored as number or as text (``"+1"`` and ``"1.0"`` too).

    Raises:
        CorruptFile: it is absent without a default, or none.
    """
    try:
        value = dataset.get(keyword)
        if value in (None, "") and default is not None:
            return default
        number = float(str(value))
        if not number.is_integer():
            raise ValueError(keyword)
        return int(number)
    except Exception as error:
        raise CorruptFile(f"{keyword} is missing or not a whole number") from error


def photometric(dataset: Dataset) -> str:
    """Photometric Interpretation, empty if it is absent.

    Raises:
        CorruptFile: it is none that the standard defines.
    """
    value = " ".join(text(dataset, "PhotometricInterpretation").upper().split())
    if value and value not in (*GREY, *COLOURS):
        raise CorruptFile("the header does not say whether low values are black or white")
    return value


def is_colour(dataset: Dataset) -> bool:
    """Does the header say that there are colours?"""
    return integer(dataset, "SamplesPerPixel", 1) != 1 or photometric(dataset) in COLOURS


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is absent or cannot be decoded."""
    try:
        return list(dataset.get(keyword) or ())
    except Exception:
        return []


def terms(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an attribute as upper-case text; none if it is absent or cannot be decoded."""
    try:
        found = dataset.get(keyword)
        if found is None or found == "":
            return []
        parts = [found] if isinstance(found, str) or not isinstance(found, Iterable) else found
        return [str(part).strip(" \0").upper() for part in parts]
    except Exception:
        return []
