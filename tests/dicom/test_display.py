"""The grayscale chain against dcmtk, against pydicom, and against the formulas of the standard."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from monai_cxr_vae.dicom.decode import pixel_format
from monai_cxr_vae.dicom.display import UnusableError, display_table, is_blank, read_lut, window
from monai_cxr_vae.radiograph import read_radiograph
from tests.dicom.dx import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, dx, gradient, lut, save, set_pixels
from tests.dicom.judges import dcm2pnm

CURVE = 1 / (1 + np.exp(-np.linspace(-5, 5, 4096)))
FIRST_WINDOW, FIRST_TABLE, FULL_RANGE = ("+Wi", "1"), ("+Wl", "1"), ("-W",)
NO_WINDOW = {"WindowCenter": None, "WindowWidth": None}
NO_RESCALE = {"RescaleSlope": None, "RescaleIntercept": None}
ONE_16TH = 2.1e-5
# dcmtk scales tables and full ranges by 2^n where the standard's largest value is 2^n - 1.
ONE_12TH, ONE_8TH = 1.05 * 2.0**-12, 1.05 * 2.0**-8


def dirty(**attributes: object) -> Dataset:
    ds = dx(**attributes)
    set_pixels(ds, gradient(), dirt=0xA5A5)
    return ds


BITS_8 = {"BitsStored": 8, "WindowCenter": 99, "WindowWidth": 200}
SIGNED = {"stored": gradient(low=-2048), "PixelRepresentation": 1}
MONOCHROME1 = {"PhotometricInterpretation": "MONOCHROME1"}
CASES = {
    "window": (dx(), FIRST_WINDOW, ONE_16TH),
    "narrow window": (dx(WindowCenter=1000.5, WindowWidth=800), FIRST_WINDOW, ONE_16TH),
    "window of width 1": (dx(WindowCenter=1000, WindowWidth=1), FIRST_WINDOW, ONE_16TH),
    "window of width 2": (dx(WindowCenter=1000.5, WindowWidth=2), FIRST_WINDOW, ONE_16TH),
    "several windows": (dx(WindowCenter=[900, 2000], WindowWidth=[700, 99]), FIRST_WINDOW, ONE_16TH),
    "sigmoid": (dx(VOILUTFunction="SIGMOID", WindowCenter=1000, WindowWidth=777), FIRST_WINDOW, ONE_16TH),
    "no window": (dx(**NO_WINDOW), FULL_RANGE, ONE_12TH),
    "empty window": (dx(WindowCenter="", WindowWidth=""), FULL_RANGE, ONE_12TH),
    "zero width": (dx(WindowWidth=0), FULL_RANGE, ONE_12TH),
    "negative width": (dx(WindowWidth=-5), FULL_RANGE, ONE_12TH),
    "width missing": (dx(WindowWidth=None), FULL_RANGE, ONE_12TH),
    "inverted": (dx(**MONOCHROME1), FIRST_WINDOW, ONE_16TH),
    "inverted, no shape": (dx(**MONOCHROME1, PresentationLUTShape=None), FIRST_WINDOW, ONE_16TH),
    "inverted after the window": (dx(**MONOCHROME1, WindowCenter=900, WindowWidth=500), FIRST_WINDOW, ONE_16TH),
    "inverted table": (dx(**MONOCHROME1, VOILUTSequence=lut(CURVE * 4095)), FIRST_TABLE, ONE_12TH),
    "inverted sigmoid": (
        dx(**MONOCHROME1, VOILUTFunction="SIGMOID", WindowCenter=900, WindowWidth=500),
        FIRST_WINDOW,
        ONE_16TH,
    ),
    "slope and intercept": (
        dx(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3000, WindowWidth=2500),
        FIRST_WINDOW,
        ONE_16TH,
    ),
    "negative slope": (
        dx(RescaleSlope=-10, RescaleIntercept=100, WindowCenter=-20000, WindowWidth=9999),
        FIRST_WINDOW,
        ONE_16TH,
    ),
    "negative slope, no window": (dx(RescaleSlope=-1, RescaleIntercept=4095, **NO_WINDOW), FULL_RANGE, ONE_12TH),
    "zero slope": (dx(RescaleSlope=0), FIRST_WINDOW, ONE_16TH),
    "slope alone": (dx(RescaleSlope=2, RescaleIntercept=None), FIRST_WINDOW, ONE_16TH),
    "intercept alone": (dx(RescaleSlope=None, RescaleIntercept=500), FIRST_WINDOW, ONE_16TH),
    "no rescale": (dx(**NO_RESCALE), FIRST_WINDOW, ONE_16TH),
    # dcmtk rounds fractional modality values down to whole ones, which are a 750th of this window
    "fractional slope": (
        dx(RescaleSlope=0.37, RescaleIntercept=-3.3, WindowCenter=500.25, WindowWidth=750.5),
        FIRST_WINDOW,
        1.05 / 749,
    ),
    "table of 12 bits": (dx(VOILUTSequence=lut(CURVE * 4095)), FIRST_TABLE, ONE_12TH),
    "table of 16 bits": (dx(VOILUTSequence=lut(CURVE * 65535, bits=16)), FIRST_TABLE, ONE_16TH),
    "table of 10 bits, not full": (dx(VOILUTSequence=lut(CURVE * 900, bits=10)), FIRST_TABLE, 1.05 / 1024),
    "table of 8 bits": (dx(VOILUTSequence=lut(CURVE * 255, bits=8)), FIRST_TABLE, ONE_8TH),
    "table of 8 bits, packed": (dx(VOILUTSequence=lut(CURVE * 255, bits=8, packed=True)), FIRST_TABLE, ONE_8TH),
    "odd packed table": (dx(VOILUTSequence=lut(CURVE[:4095] * 255, bits=8, packed=True)), FIRST_TABLE, ONE_8TH),
    "table that starts late": (dx(VOILUTSequence=lut(CURVE[:2000] * 4095, first=500)), FIRST_TABLE, ONE_12TH),
    "falling table": (dx(VOILUTSequence=lut(CURVE[::-1] * 4095)), FIRST_TABLE, ONE_12TH),
    "table of 65536 entries": (
        dx(gradient(bits=16), BitsStored=16, VOILUTSequence=lut(np.arange(65536) ** 2 // 65536, bits=16)),
        FIRST_TABLE,
        ONE_16TH,
    ),
    "table after slope": (
        dx(RescaleSlope=2, RescaleIntercept=-100, VOILUTSequence=lut(CURVE * 4095, first=-100)),
        FIRST_TABLE,
        ONE_12TH,
    ),
    "table before window": (
        dx(WindowCenter=100, WindowWidth=50, VOILUTSequence=lut(CURVE * 4095)),
        FIRST_TABLE,
        ONE_12TH,
    ),
    "table over signed values": (dx(**SIGNED, VOILUTSequence=lut(CURVE * 4095, first=-2048)), FIRST_TABLE, ONE_12TH),
    "modality table": (
        dx(**NO_RESCALE, ModalityLUTSequence=lut(CURVE * 4095), WindowCenter=1500, WindowWidth=2000),
        FIRST_WINDOW,
        ONE_16TH,
    ),
    "modality table, no window": (
        dx(**NO_RESCALE, **NO_WINDOW, ModalityLUTSequence=lut(CURVE * 4095)),
        FULL_RANGE,
        ONE_12TH,
    ),
    "modality table over signed values": (
        dx(**SIGNED, **NO_RESCALE, ModalityLUTSequence=lut(CURVE * 4095, first=-2048), WindowCenter=1500),
        FIRST_WINDOW,
        ONE_16TH,
    ),
    "modality table before slope": (dx(RescaleSlope=3, ModalityLUTSequence=lut(CURVE * 4095)), FIRST_WINDOW, ONE_16TH),
    "signed": (dx(**SIGNED, WindowCenter=0, WindowWidth=3000), FIRST_WINDOW, ONE_16TH),
    "signed, no window": (dx(**SIGNED, **NO_WINDOW), FULL_RANGE, ONE_12TH),
    "signed, dirty bits": (
        dirty(PixelRepresentation=1, WindowCenter=0, WindowWidth=3000),
        FIRST_WINDOW,
        ONE_16TH,
    ),
    "dirty bits": (dirty(), FIRST_WINDOW, ONE_16TH),
    "left-aligned": (dirty(HighBit=15), FIRST_WINDOW, ONE_16TH),
    "in the middle": (dirty(HighBit=13), FIRST_WINDOW, ONE_16TH),
    "10 bits": (dx(gradient(bits=10), BitsStored=10, WindowCenter=500, WindowWidth=800), FIRST_WINDOW, ONE_16TH),
    "16 bits": (dx(gradient(bits=16), BitsStored=16, WindowCenter=30000, WindowWidth=50000), FIRST_WINDOW, ONE_16TH),
    "8 bits": (dx(gradient(61, 51, 8), BitsAllocated=8, **BITS_8), FIRST_WINDOW, ONE_16TH),
    "padding that is black anyway": (dx(PixelPaddingValue=0), FIRST_WINDOW, ONE_16TH),
}


# Only tables, words and their bits are stored differently in other syntaxes; numbers are text everywhere.
RUNS = [(name, EXPLICIT) for name in CASES] + [
    (name, syntax)
    for syntax in (IMPLICIT, BIG_ENDIAN, DEFLATED)
    for name in ("window", "signed", "dirty bits", "8 bits", "table over signed values", "odd packed table")
]


@pytest.mark.interop
@pytest.mark.parametrize(("name", "syntax"), RUNS)
def test_shows_what_dcmtk_shows(name: str, syntax: str, tmp_path: Path, tool: Callable[[str], str]) -> None:
    ds, options, tolerance = CASES[name]
    path = save(deepcopy(ds), tmp_path / "film.dcm", syntax)
    expected = dcm2pnm(tool("dcm2pnm"), path, *options)
    shown = read_radiograph(path).pixels
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, expected, rtol=0, atol=tolerance)
    assert np.ptp(expected) > 0.4, "a flat picture would prove nothing"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(1000.5, 800), (2048, 4096), (30, 1.5), (1000.5, 1), (-5, 77)])
def test_windows_like_pydicom(function: str, center: float, width: float) -> None:
    ds = dx(RescaleSlope=2, RescaleIntercept=-100, VOILUTFunction=function, WindowCenter=center, WindowWidth=width)
    values = apply_modality_lut(gradient(), ds)
    low, high = -100.0, 2 * 4095 - 100.0
    expected = (apply_voi_lut(values, ds) - low) / (high - low)
    np.testing.assert_allclose(window(values, center, width, function), expected, rtol=0, atol=1e-9)


def test_a_window_of_width_one_is_a_step() -> None:
    """PS3.3 C.11.2.1.2.1: black up to half below its center."""
    assert window(np.array([999.0, 999.5, 1000.0, 1000.25, 1001.0]), 1000.5, 1).tolist() == [0, 0, 0, 1, 1]


def test_a_steep_window_overflows_nowhere() -> None:
    values = np.array([-1e9, 99, 100, 101, 1e9])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_array_equal(window(values, 100, 1e-6, "SIGMOID").round(9), [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("attributes", "voi", "warnings"),
    [
        ({}, "linear", ()),
        ({"WindowCenter": [900, 2000], "WindowWidth": [700, 99]}, "linear 1 of 2", ()),
        ({"VOILUTFunction": "SIGMOID"}, "sigmoid", ()),
        ({"VOILUTFunction": "VENDOR"}, "linear", ("voi_function_unknown",)),
        (NO_WINDOW, "full_range", ("voi_missing",)),
        ({"WindowWidth": 0}, "full_range", ("voi_invalid",)),
        ({"WindowWidth": 0.5}, "full_range", ("voi_invalid",)),
        ({"WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"}, "linear_exact", ()),
        ({"WindowCenter": None}, "full_range", ("voi_invalid",)),
        ({"VOILUTSequence": lut(CURVE * 4095)}, "lut", ()),
        ({"VOILUTSequence": lut(CURVE * 4095, bits=16)}, "lut", ("lut_depth_assumed",)),
        ({"VOILUTSequence": lut([])}, "linear", ("voi_lut_invalid",)),
        ({"VOILUTSequence": lut([0] * 4096)}, "linear", ("voi_lut_invalid",)),
        ({"ModalityLUTSequence": lut([])}, "linear", ("modality_lut_invalid",)),
        (NO_RESCALE, "linear", ()),
        ({"RescaleSlope": 0}, "linear", ("rescale_invalid",)),
        ({"RescaleSlope": None}, "linear", ("rescale_invalid",)),
        ({"RescaleIntercept": None}, "linear", ("rescale_invalid",)),
        ({"PresentationLUTShape": "INVERSE"}, "linear", ("polarity_conflict",)),
        (MONOCHROME1, "linear", ()),
        ({**MONOCHROME1, "PresentationLUTShape": None}, "linear", ()),
        ({**MONOCHROME1, "PresentationLUTShape": "IDENTITY"}, "linear", ("polarity_conflict",)),
    ],
)
def test_says_how_contrast_was_chosen(attributes: dict, voi: str, warnings: tuple[str, ...], tmp_path: Path) -> None:
    film = read_radiograph(save(dx(**attributes), tmp_path / "film.dcm"))
    assert (film.voi, film.warnings) == (voi, warnings)


@pytest.mark.parametrize(("slope", "intercept"), [(2, -1000), (0.5, 30), (-3, 100), (1e-5, 0)])
def test_a_window_means_rescaled_values(slope: float, intercept: float, tmp_path: Path) -> None:
    """PS3.3 C.11.1.1.2: it shows what a window over stored values shows that is as wide in their unit."""
    exact = {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 1500, "WindowWidth": 2000}
    expected = read_radiograph(save(dx(**NO_RESCALE, **exact), tmp_path / "stored.dcm")).pixels
    exact |= {"WindowCenter": f"{1500 * slope + intercept:.9g}", "WindowWidth": f"{2000 * abs(slope):.9g}"}
    film = read_radiograph(save(dx(RescaleSlope=slope, RescaleIntercept=intercept, **exact), tmp_path / "film.dcm"))
    np.testing.assert_allclose(film.pixels, expected if slope > 0 else 1 - expected, atol=1e-6)
    assert film.warnings == ()


def test_a_full_range_is_as_wide_as_it_is(tmp_path: Path) -> None:
    """Also that of rescaled values which all lie within less than one of each other."""
    for slope in (1, 1e-5, 1000):
        film = read_radiograph(save(dx(RescaleSlope=slope, RescaleIntercept=7, **NO_WINDOW), tmp_path / "film.dcm"))
        np.testing.assert_allclose(film.pixels, gradient() / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", [{"RescaleSlope": 0}, {"RescaleSlope": None, "RescaleIntercept": 500}, {"RescaleIntercept": None}]
)
def test_a_senseless_rescale_is_left_out(attributes: dict, tmp_path: Path) -> None:
    narrow = {"WindowCenter": 1500, "WindowWidth": 2000}
    expected = read_radiograph(save(dx(**NO_RESCALE, **narrow), tmp_path / "plain.dcm")).pixels
    film = read_radiograph(save(dx(**{"RescaleSlope": 2} | attributes, **narrow), tmp_path / "film.dcm"))
    np.testing.assert_array_equal(film.pixels, expected)
    assert film.warnings == ("rescale_invalid",)


@pytest.mark.parametrize(
    "ds",
    [
        *(ds for ds, *_ in CASES.values()),
        dx(gradient(bits=10), BitsStored=16, **NO_WINDOW),
        dx(gradient(low=-2048), PixelRepresentation=1, BitsStored=16, **NO_WINDOW),
    ],
)
def test_every_word_has_a_display_value(ds: Dataset) -> None:
    """Those too that the film does not hold: damaged or untold, they are at worst black or white."""
    form = pixel_format(ds)
    words = np.frombuffer(ds.PixelData, f"u{form.bits_allocated // 8}")
    table = display_table(ds, form, words).table
    assert (table.dtype, table.shape) == (np.float32, (1 << form.bits_allocated,))
    assert table.min() >= 0
    assert table.max() <= 1


WIDE = {"BitsStored": 16, **NO_WINDOW}


@pytest.mark.parametrize(
    ("stored", "attributes", "low", "high", "voi", "warnings"),
    [
        (gradient(bits=12), {}, 0, 4095, "12 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=14), {}, 0, 16383, "14 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=8), {}, 0, 255, "8 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=16), {}, 0, 65535, "full_range", ("voi_missing",)),
        (gradient(bits=12), {"BitsStored": 14}, 0, 4095, "12 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=10), {"BitsStored": 12}, 0, 4095, "full_range", ("voi_missing",)),
        (gradient(bits=12), {"small": 0, "large": 5000}, 0, 5000, "pixel_range", ("voi_missing",)),
        (gradient(bits=12), {"small": 100, "large": 5000}, 0, 4095, "12 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=12), {"small": 0, "large": 4000}, 0, 4095, "12 bits", ("voi_missing", "depth_assumed")),
        (gradient(low=-2048), {"PixelRepresentation": 1}, -2048, 2047, "12 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=12), {"RescaleSlope": -1}, 0, 4095, "12 bits", ("voi_missing", "depth_assumed")),
        (gradient(bits=12), {"PixelPaddingValue": 60000}, 0, 4095, "12 bits", ("voi_missing", "depth_assumed")),
    ],
)
def test_deep_films_without_a_window(
    stored: np.ndarray,
    attributes: dict,
    low: int,
    high: int,
    voi: str,
    warnings: tuple[str, ...],
    tmp_path: Path,
) -> None:
    attributes = dict(attributes)
    small, large = attributes.pop("small", None), attributes.pop("large", None)
    ds = dx(stored, **{**WIDE, **attributes})
    if large is not None:
        ds.add_new("SmallestImagePixelValue", "US", small)
        ds.add_new("LargestImagePixelValue", "US", large)
    values = stored.copy()
    if "PixelPaddingValue" in attributes:
        values[:2] = 60000
        set_pixels(ds, values)
    film = read_radiograph(save(ds, tmp_path / "film.dcm"))
    expected = np.clip((values - low) / (high - low), 0, 1)
    expected = 1 - expected if attributes.get("RescaleSlope") == -1 else expected
    np.testing.assert_allclose(film.pixels, np.where(values == 60000, 0, expected), atol=1e-6)
    assert (film.voi, film.warnings) == (voi, warnings)


@pytest.mark.parametrize(
    ("lowest", "highest", "signed", "bits"),
    [
        *((0, (1 << bits) - 1, signed, bits) for bits in (8, 10, 12, 14) for signed in (False, True)),
        *((0, 1 << bits, signed, bits + 2) for bits in (8, 10, 12, 14) for signed in (False, True)),
        *((-(1 << bits - 1), (1 << bits - 1) - 1, True, bits) for bits in (8, 10, 12, 14)),
        *((-1, 1 << bits - 1, True, bits + 2) for bits in (8, 10, 12, 14)),
        *((-(1 << bits - 1) - 1, 0, True, bits + 2) for bits in (8, 10, 12, 14)),
    ],
)
def test_the_depth_of_a_film_is_the_smallest_usual_one_that_holds_it(
    lowest: int, highest: int, signed: bool, bits: int, tmp_path: Path
) -> None:
    """By two's complement where a value is negative."""
    stored = np.linspace(lowest, highest, 100).round().astype(int).reshape(10, 10)
    film = read_radiograph(save(dx(stored, **WIDE, PixelRepresentation=int(signed)), tmp_path / "film.dcm"))
    low = -(1 << bits - 1) if lowest < 0 else 0
    if bits == 16:
        low = -(1 << 15) if signed else 0
    np.testing.assert_allclose(film.pixels, (stored - low) / ((1 << bits) - 1), atol=1e-6)
    assert film.voi == ("full_range" if bits == 16 else f"{bits} bits")
    assert ("depth_assumed" in film.warnings) == (bits < 16)


def test_bits_beside_the_sample_say_nothing_of_its_depth(tmp_path: Path) -> None:
    ds = dx(gradient(), **WIDE | {"BitsStored": 14, "HighBit": 15})
    set_pixels(ds, gradient(), dirt=0xFFFF)
    film = read_radiograph(save(ds, tmp_path / "film.dcm"))
    np.testing.assert_allclose(film.pixels, gradient() / 4095, atol=1e-6)
    assert film.voi == "12 bits"


@pytest.mark.parametrize(
    ("lowest", "highest", "smallest", "largest", "taken"),
    [
        (1, 4095, 1, 4095, True),
        (1, 4095, 0, 65535, True),
        (1000, 1000, 0, 4000, True),
        (1, 4095, 2, 4095, False),
        (1, 4095, 1, 4094, False),
        (-2048, 2047, -2048, 2047, True),
        (-2048, 2047, -2047, 2047, False),
        (-2048, -1, -2048, -1, True),
        (-32768, 32767, -32768, 32767, True),
        (1, 4095, "one", 4095, False),
        (1, 4095, 1, "all", False),
    ],
)
def test_smallest_and_largest_pixel_value_are_believed_where_they_hold_the_film(
    lowest: int, highest: int, smallest: int | str, largest: int | str, taken: bool, tmp_path: Path
) -> None:
    stored = np.linspace(lowest, highest, 100).round().astype(int).reshape(10, 10)
    ds = dx(stored, **WIDE, PixelRepresentation=int(lowest < 0))
    for keyword, value in (("SmallestImagePixelValue", smallest), ("LargestImagePixelValue", largest)):
        ds.add_new(keyword, "LO" if isinstance(value, str) else "SS" if lowest < 0 else "US", value)
    film = read_radiograph(save(ds, tmp_path / "film.dcm"))
    assert (film.voi == "pixel_range") == taken
    low, high = (smallest, largest) if taken else (-2048, 2047) if lowest < 0 else (0, 4095)
    np.testing.assert_allclose(film.pixels, (stored - low) / (high - low), atol=1e-6)


def test_a_deep_film_with_a_modality_table_or_nothing_but_padding_has_its_full_range(tmp_path: Path) -> None:
    table = {**WIDE, **NO_RESCALE, "ModalityLUTSequence": lut(CURVE * 4095)}
    film = read_radiograph(save(dx(gradient(), **table), tmp_path / "film.dcm"))
    np.testing.assert_allclose(film.pixels, (CURVE * 4095).astype(int)[gradient()] / 4095, atol=1e-6)
    assert (film.voi, film.warnings) == ("full_range", ("voi_missing",))
    padding = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535}
    film = read_radiograph(save(dx(gradient(), **WIDE, **padding), tmp_path / "film.dcm"))
    assert film.voi == "full_range"
    assert not film.pixels.any()


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 60000, "WindowWidth": 100},
        {"WindowCenter": -600, "WindowWidth": 2},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095},
        {"VOILUTSequence": lut([4095] * 4096)},
    ],
)
def test_a_film_that_shows_nothing_says_so(attributes: dict, tmp_path: Path) -> None:
    assert "voi_blank" in read_radiograph(save(dx(**attributes), tmp_path / "film.dcm")).warnings


SHORT = lut(CURVE[:4000] * 4095)
SHORT[0].LUTDescriptor = [4096, 0, 12]
UNSAID = lut(CURVE * 4095)
UNSAID[0].LUTDescriptor = [0, 0, 12]
PACKED = lut(CURVE[:4000] * 255, bits=8, packed=True)
PACKED[0].LUTDescriptor = [4096, 0, 8]


@pytest.mark.parametrize(("table", "entries", "top"), [(SHORT, 4000, 4095), (UNSAID, 4096, 4095), (PACKED, 4000, 255)])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_table_is_as_long_as_it_is(table: object, entries: int, top: int, sequence: str, tmp_path: Path) -> None:
    contrast = {} if sequence == "VOILUTSequence" else {**NO_RESCALE, **NO_WINDOW}
    film = read_radiograph(save(dx(**{sequence: table}, **contrast), tmp_path / "film.dcm"))
    expected = (CURVE[np.minimum(gradient(), entries - 1)] * top).astype(int) / top
    np.testing.assert_allclose(film.pixels, expected, atol=1e-6)
    assert "lut_length_assumed" in film.warnings


BYTES, WORDS, LONG = "u1", "<u2", np.arange(65536)
ASSUMED = {"length": "lut_length_assumed", "depth": "lut_depth_assumed"}


@pytest.mark.parametrize(
    ("descriptor", "data", "kind", "lowest", "entries", "first", "maximum", "assumed"),
    [
        ((4, 0, 12), [0, 1, 2, 4095], WORDS, 0, 4, 0, 4095, ()),
        ((2, 0, 1), [0, 1], WORDS, 0, 2, 0, 1, ()),
        ((0, 0, 16), LONG, WORDS, 0, 65536, 0, 65535, ()),
        # the first value is signed as the values are
        ((4, 63488, 12), [0, 1, 2, 4095], WORDS, -2048, 4, -2048, 4095, ()),
        ((4, 32768, 12), [0, 1, 2, 4095], WORDS, -1, 4, -32768, 4095, ()),
        ((4, 32767, 12), [0, 1, 2, 4095], WORDS, -1, 4, 32767, 4095, ()),
        ((4, 63488, 12), [0, 1, 2, 4095], WORDS, 0, 4, 63488, 4095, ()),
        ((4, 5, 12), [0, 1, 2, 4095], WORDS, -10, 4, 5, 4095, ()),
        # two entries to a word
        ((4, 0, 8), [0, 1, 2, 255], BYTES, 0, 4, 0, 255, ()),
        ((5, 0, 8), [0, 1, 2, 3, 255, 0], BYTES, 0, 5, 0, 255, ()),
        ((4, 0, 8), [0, 1, 2, 255, 7], BYTES, 0, 4, 0, 255, ()),
        ((4, 0, 8), [1, 0, 255, 0], BYTES, 0, 4, 0, 255, ()),
        ((5, 0, 8), [1, 0, 255, 0, 9, 0], BYTES, 0, 5, 0, 255, ()),
        ((9, 0, 8), [0, 1, 2, 255], BYTES, 0, 4, 0, 255, ("length",)),
        ((2, 0, 8), [0, 1, 2, 255], BYTES, 0, 2, 0, 65282, ("depth",)),
        ((9, 0, 8), [0, 1, 2, 255], WORDS, 0, 4, 0, 255, ("length",)),
        ((9, 0, 8), [1, 1, 1, 256], WORDS, 0, 8, 0, 255, ("length",)),
        ((9, 0, 9), [1, 1, 1, 256], WORDS, 0, 4, 0, 511, ("length",)),
        # as many bits as the largest entry needs, where the announced ones do not hold it or are all of a word
        ((2, 0, 12), [0, 4096], WORDS, 0, 2, 0, 4096, ("depth",)),
        ((2, 0, 12), [0, 5], WORDS, 0, 2, 0, 4095, ()),
        ((2, 0, 16), [0, 32768], WORDS, 0, 2, 0, 65535, ()),
        ((2, 0, 16), [0, 32767], WORDS, 0, 2, 0, 32767, ("depth",)),
        ((2, 0, 15), [0, 5], WORDS, 0, 2, 0, 32767, ()),
    ],
)
def test_tables_are_what_their_descriptor_and_data_say(
    descriptor: tuple,
    data: list[int],
    kind: str,
    lowest: int,
    entries: int,
    first: int,
    maximum: int,
    assumed: tuple[str, ...],
) -> None:
    """PS3.3 C.11.1.1.1."""
    ds, item, warnings = dx(), Dataset(), []
    item.add_new("LUTDescriptor", "US", list(descriptor))
    item.add_new("LUTData", "OW", np.array(data).astype(kind).tobytes())
    ds.VOILUTSequence = [item]
    table, which = read_lut(ds, "VOILUTSequence", np.array([lowest, 100]), warnings)
    assert (len(table.data), table.first, table.maximum, which) == (entries, first, maximum, "")
    assert warnings == [ASSUMED[what] for what in assumed]
    at = np.array([first - 1e6, first - 1, first, first + 0.9, first + 1, first + entries - 1, first + entries, 1e6])
    np.testing.assert_array_equal(
        table.look_up(at), table.data[[0, 0, 0, 0, 1, entries - 1, entries - 1, entries - 1]].astype(float)
    )


def test_a_descriptor_may_arrive_as_bytes() -> None:
    ds, item = dx(), Dataset()
    item.add_new("LUTDescriptor", "OW", np.array([2, 7, 12], "<u2").tobytes())
    item.add_new("LUTData", "OW", b"\1\0\2\0")
    ds.VOILUTSequence = [item]
    table, _ = read_lut(ds, "VOILUTSequence", np.zeros(1), [])
    assert (table.data.tolist(), table.first, table.maximum) == ([1, 2], 7, 4095)


@pytest.mark.parametrize("descriptor", [(2, 0, 0), (2, 0, 17), (2, 0), ()])
def test_a_table_without_a_sensible_descriptor_cannot_be_used(descriptor: tuple) -> None:
    ds, item = dx(), Dataset()
    item.add_new("LUTDescriptor", "US", list(descriptor))
    item.add_new("LUTData", "OW", b"\1\0\2\0")
    ds.VOILUTSequence = [item]
    with pytest.raises(UnusableError):
        read_lut(ds, "VOILUTSequence", np.zeros(1), [])


def test_the_first_usable_window_or_table_is_taken(tmp_path: Path) -> None:
    plain = read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels
    second = read_radiograph(save(dx(WindowCenter=[0, 2048], WindowWidth=[0, 4096]), tmp_path / "film.dcm"))
    np.testing.assert_array_equal(second.pixels, plain)
    assert (second.voi, second.warnings) == ("linear 2 of 2", ())
    tables = Sequence([lut([])[0], lut(CURVE * 4095)[0]])
    film = read_radiograph(save(dx(VOILUTSequence=tables), tmp_path / "film.dcm"))
    assert (film.voi, film.warnings) == ("lut 2 of 2", ())
    alone = read_radiograph(save(dx(VOILUTSequence=lut(CURVE * 4095)), tmp_path / "film.dcm"))
    np.testing.assert_array_equal(film.pixels, alone.pixels)


EDGES = {"ShutterLeftVerticalEdge": 6, "ShutterRightVerticalEdge": 45}
EDGES |= {"ShutterUpperHorizontalEdge": 11, "ShutterLowerHorizontalEdge": 50}
CIRCLE = {"CenterOfCircularShutter": [30, 20], "RadiusOfCircularShutter": 9}
TRIANGLE = {"VerticesOfThePolygonalShutter": [1, 1, 1, 50, 60, 1]}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [None, 0, 65535])
@pytest.mark.parametrize("shapes", [("RECTANGULAR",), ("CIRCULAR",), ("POLYGONAL",), ("RECTANGULAR", "CIRCULAR")])
def test_shutters_cover_what_lies_outside(
    shapes: tuple[str, ...], value: int | None, photometric: str, tmp_path: Path
) -> None:
    """PS3.3 C.7.6.11: rows and columns count from one, edges belong to the film."""
    plain = read_radiograph(save(dx(PhotometricInterpretation=photometric), tmp_path / "film.dcm")).pixels
    ds = dx(PhotometricInterpretation=photometric, ShutterShape=list(shapes), **EDGES, **CIRCLE, **TRIANGLE)
    if value is not None:
        ds.ShutterPresentationValue = value
    row, column = np.mgrid[1:61, 1:51]
    inside = {
        "RECTANGULAR": (column >= 6) & (column <= 45) & (row >= 11) & (row <= 50),
        "CIRCULAR": (row - 30) ** 2 + (column - 20) ** 2 <= 81,
        "POLYGONAL": (row - 1) / 59 + (column - 1) / 49 <= 1,
    }
    seen = np.logical_and.reduce([inside[shape] for shape in shapes])
    shown = read_radiograph(save(ds, tmp_path / "film.dcm"))
    expected = np.where(seen, plain, (value or 0) / 65535)
    different = shown.pixels != expected.astype(np.float32)
    assert different.sum() <= (40 if "POLYGONAL" in shapes else 0)  # pixels on the slanted edge
    assert shown.warnings == ()


def test_a_senseless_shutter_is_left_open(tmp_path: Path) -> None:
    plain = read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels
    for attributes in ({"ShutterShape": "RECTANGULAR"}, {"ShutterShape": "ROUND"}, {"ShutterShape": "CIRCULAR"}):
        film = read_radiograph(save(dx(**attributes, RadiusOfCircularShutter=0), tmp_path / "film.dcm"))
        np.testing.assert_array_equal(film.pixels, plain)
        assert film.warnings == ("shutter_invalid",)


@pytest.mark.parametrize(
    ("edges", "inside"),
    [
        ((0, 999, -5, 999), np.s_[:, :]),
        ((1, 50, 1, 60), np.s_[:, :]),
        ((2, 50, 1, 60), np.s_[:, 1:]),
        ((50, 50, 60, 60), np.s_[59:, 49:]),
        ((1, 1, 1, 1), np.s_[:1, :1]),
        ((20, 10, 1, 60), None),
        ((1, 0, 1, 60), None),
        ((1, 50, 1, -1), None),
        ((51, 70, 1, 60), None),
    ],
)
def test_edges_of_a_shutter_may_lie_beyond_the_film(edges: tuple, inside: tuple | None, tmp_path: Path) -> None:
    """One that leaves nothing of the film to be seen is left open."""
    plain = read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels
    left, right, upper, lower = edges
    vertical = {"ShutterLeftVerticalEdge": left, "ShutterRightVerticalEdge": right}
    horizontal = {"ShutterUpperHorizontalEdge": upper, "ShutterLowerHorizontalEdge": lower}
    film = read_radiograph(save(dx(ShutterShape="RECTANGULAR", **vertical, **horizontal), tmp_path / "film.dcm"))
    expected = plain if inside is None else np.zeros_like(plain)
    if inside is not None:
        expected[inside] = plain[inside]
    np.testing.assert_array_equal(film.pixels, expected)
    assert ("shutter_invalid" in film.warnings) == (inside is None)


def test_what_is_senseless_of_several_shutters_is_left_out(tmp_path: Path) -> None:
    shutters = {"ShutterShape": ["POLYGONAL", "ROUND", "RECTANGULAR"], "VerticesOfThePolygonalShutter": [1, 1, 9, 9]}
    film = read_radiograph(save(dx(**shutters, **EDGES), tmp_path / "film.dcm"))
    alone = read_radiograph(save(dx(ShutterShape="RECTANGULAR", **EDGES), tmp_path / "alone.dcm"))
    np.testing.assert_array_equal(film.pixels, alone.pixels)
    assert film.warnings == ("shutter_invalid", "shutter_invalid")


def test_shutters_with_nothing_in_common_are_left_open(tmp_path: Path) -> None:
    apart = {"ShutterShape": ["RECTANGULAR", "CIRCULAR"], "CenterOfCircularShutter": [3, 3]}
    film = read_radiograph(save(dx(**apart, RadiusOfCircularShutter=1, **EDGES), tmp_path / "film.dcm"))
    np.testing.assert_array_equal(film.pixels, read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels)


@pytest.mark.parametrize(("value", "grey"), [("dark", 0), ("-5", 0), ("70000", 1), ("32768", 32768 / 65535)])
def test_a_shutter_is_as_grey_as_it_says_within_black_and_white(value: str, grey: float, tmp_path: Path) -> None:
    ds = dx(ShutterShape="RECTANGULAR", **EDGES)
    ds.add_new("ShutterPresentationValue", "LO", value)
    assert read_radiograph(save(ds, tmp_path / "film.dcm")).pixels[0, 0] == np.float32(grey)


@pytest.mark.parametrize(
    ("share", "step", "blank"),
    [(0.049, 0.3, True), (0.05, 0.3, False), (0.4, 1 / 65, True), (0.4, 1 / 64, False)],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_film_is_blank_of_which_95_in_100_pixels_have_one_grey(
    sign: int, share: float, step: float, blank: bool
) -> None:
    pixels = np.full((100, 100), 0.5, np.float32)
    pixels.flat[: round(share * pixels.size)] += sign * step
    assert is_blank(pixels) == blank


def test_of_a_large_film_a_sample_tells_whether_it_is_blank() -> None:
    """It is dense enough to see a band that is little more than a twentieth of the film."""
    pixels = np.full((3000, 2500), 0.5, np.float32)
    assert is_blank(pixels)
    assert is_blank(pixels[:1, :1])
    pixels[1:165] = 0.9
    assert not is_blank(pixels)


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", None])
def test_photometric_interpretation_alone_decides_polarity(shape: str | None, tmp_path: Path) -> None:
    plain = read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels
    straight = read_radiograph(save(dx(PresentationLUTShape=shape), tmp_path / "2.dcm")).pixels
    turned = read_radiograph(save(dx(**MONOCHROME1, PresentationLUTShape=shape), tmp_path / "1.dcm")).pixels
    np.testing.assert_array_equal(straight, plain)
    np.testing.assert_allclose(turned, 1 - plain, atol=1e-7)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(4095, None), (0, None), (4000, 4095), (4095, 4000)])
def test_padding_is_black_and_nothing_else_changes(
    photometric: str, value: int, limit: int | None, tmp_path: Path
) -> None:
    stored = gradient()
    without = dx(stored, PhotometricInterpretation=photometric)
    padded = dx(stored, PhotometricInterpretation=photometric, PixelPaddingValue=value)
    if limit is not None:
        padded.PixelPaddingRangeLimit = limit
    expected = read_radiograph(save(without, tmp_path / "without.dcm")).pixels
    first, last = sorted((value, value if limit is None else limit))
    inside = (stored >= first) & (stored <= last)
    assert inside.any()
    for syntax in (EXPLICIT, IMPLICIT):
        shown = read_radiograph(save(padded, tmp_path / "padded.dcm", syntax)).pixels
        np.testing.assert_array_equal(shown, np.where(inside, 0, expected))


@pytest.mark.parametrize("damaged", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
def test_padding_that_makes_no_sense_is_film(damaged: str, tmp_path: Path) -> None:
    ds = dx()
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        ds.add_new(keyword, "LO" if keyword == damaged else "US", "none" if keyword == damaged else 4095)
    film = read_radiograph(save(ds, tmp_path / "film.dcm"))
    np.testing.assert_array_equal(film.pixels, read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels)
    assert film.warnings == ("padding_invalid",)


@pytest.mark.parametrize(("syntax", "word"), [(EXPLICIT, b"\xff\x0f"), (BIG_ENDIAN, b"\x0f\xff")])
def test_padding_may_arrive_as_bytes(syntax: str, word: bytes, tmp_path: Path) -> None:
    """In the order of bytes that the file has (PS3.5 7.3)."""
    ds = dx()
    ds.add_new("PixelPaddingValue", "OW", word)
    film = read_radiograph(save(ds, tmp_path / "film.dcm", syntax))
    np.testing.assert_array_equal(film.pixels == 0, (gradient() == 4095) | (gradient() == 0))


@pytest.mark.parametrize("vr", ["US", "LO"])
def test_padding_without_a_value_is_none(vr: str, tmp_path: Path) -> None:
    ds = dx()
    ds.add_new("PixelPaddingValue", vr, "")
    film = read_radiograph(save(ds, tmp_path / "film.dcm"))
    np.testing.assert_array_equal(film.pixels, read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels)
    assert film.warnings == ()


def test_signed_padding(tmp_path: Path) -> None:
    stored = gradient(low=-2048)
    film = dx(stored, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)
    film.add_new("PixelPaddingValue", "SS", -2000)
    film.add_new("PixelPaddingRangeLimit", "SS", -1000)
    for syntax in (EXPLICIT, IMPLICIT):
        shown = read_radiograph(save(film, tmp_path / "film.dcm", syntax)).pixels
        np.testing.assert_array_equal(shown == 0, (stored == -2048) | ((stored >= -2000) & (stored <= -1000)))


def test_a_table_of_fewer_bits_than_announced_is_not_dark(tmp_path: Path) -> None:
    honest = read_radiograph(save(dx(VOILUTSequence=lut(CURVE * 4095, bits=12)), tmp_path / "honest.dcm")).pixels
    boastful = read_radiograph(save(dx(VOILUTSequence=lut(CURVE * 4095, bits=16)), tmp_path / "boastful.dcm")).pixels
    np.testing.assert_allclose(boastful, honest, atol=0.01)


@pytest.mark.parametrize("bits", [8, 16])
def test_an_opencv_that_looks_up_bytes_only(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = dx(gradient(bits=8), BitsAllocated=bits, **BITS_8)
    expected = read_radiograph(save(film, tmp_path / "film.dcm")).pixels

    def bytes_only(*args: object) -> None:
        raise cv2.error("depth")

    monkeypatch.setattr(cv2, "LUT", bytes_only)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "film.dcm").pixels, expected)
