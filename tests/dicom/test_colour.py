"""Grey films in colour images are read, colours are not."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset

from monai_cxr_vae.errors import ColourImage, CorruptFile, Skipped, UnsupportedSyntax
from monai_cxr_vae.inference.worker import HeaderTask, Work
from monai_cxr_vae.radiograph import read_radiograph
from tests.dicom import dx as codes
from tests.dicom.dx import compressed, dx, gradient, save

GREY = gradient(bits=8).astype(np.uint8)
RGB = np.stack([GREY] * 3, -1)
COLOURS = np.stack([GREY, GREY[::-1], GREY], -1)
NEUTRAL = np.stack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)], -1)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def capture(channels: np.ndarray, photometric: str = "RGB", **attributes: object) -> Dataset:
    ds = dx(GREY.astype(np.int32), BitsAllocated=8, BitsStored=8)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, photometric, 0
    ds.PixelData = channels.tobytes()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def planes(channels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(channels, -1, 0))


def rle(channels: np.ndarray) -> bytes:
    segments = []
    for plane in planes(channels):
        data = plane.tobytes()
        runs = b"".join(bytes([len(data[i : i + 128]) - 1]) + data[i : i + 128] for i in range(0, len(data), 128))
        segments.append(runs + b"\0" * (len(runs) % 2))
    offsets = np.cumsum([64] + [len(segment) for segment in segments])[:-1]
    return struct.pack("<16L", 3, *offsets, *[0] * 12) + b"".join(segments)


JPEG = imagecodecs.jpeg8_encode(RGB, level=95)


@pytest.mark.parametrize(
    ("ds", "tolerance"),
    [
        (capture(RGB), 0),
        (capture(RGB, PlanarConfiguration=None), 0),
        (capture(planes(RGB), PlanarConfiguration=1), 0),
        (capture(NEUTRAL, "YBR_FULL"), 0),
        (compressed(capture(RGB), codes.RLE, rle(RGB)), 0),
        (compressed(capture(NEUTRAL, "YBR_FULL"), codes.RLE, rle(NEUTRAL)), 0),
        (compressed(capture(RGB, "YBR_FULL_422"), codes.JPEG_BASELINE, JPEG), 12),
        (compressed(capture(RGB, "RGB"), codes.JPEG_BASELINE, JPEG), 12),
        (
            compressed(
                capture(RGB, "YBR_RCT"), codes.J2K_LOSSLESS, imagecodecs.jpeg2k_encode(RGB, codecformat="j2k", level=0)
            ),
            0,
        ),
    ],
)
def test_equal_channels_are_grey(ds: Dataset, tolerance: int, tmp_path: Path) -> None:
    path = save(ds, tmp_path / "film.dcm")
    film = read_radiograph(path)
    np.testing.assert_allclose(film.pixels, GREY / 255, atol=tolerance / 255 + 1e-7)
    assert film.warnings == ("colour_as_grey",)
    assert Work(None)(HeaderTask(str(path), False, thorough=True))["status"] is None


@pytest.mark.parametrize(
    "ds",
    [
        capture(COLOURS),
        capture(NEUTRAL),
        capture(RGB, "YBR_FULL"),
        compressed(capture(COLOURS, "YBR_FULL_422"), codes.JPEG_BASELINE, imagecodecs.jpeg8_encode(COLOURS)),
        capture(RGB, "CMYK"),
        capture(RGB, "RGB", SamplesPerPixel=1),
    ],
)
def test_colours_are_refused(ds: Dataset, tmp_path: Path) -> None:
    path = save(ds, tmp_path / "film.dcm")
    with pytest.raises(ColourImage):
        read_radiograph(path)
    header = Work(None)(HeaderTask(str(path), False, thorough=True))
    assert (header["status"], header["reason"]) == ("skipped", "colour")


def palette(red: np.ndarray, blue: np.ndarray | None = None, bits: int = 16) -> Dataset:
    ds = capture(GREY, "PALETTE COLOR", SamplesPerPixel=1)
    for name, table in (("Red", red), ("Green", red), ("Blue", red if blue is None else blue)):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(table), 0, bits])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", table.astype("<u2").tobytes())
    return ds


def test_palettes(tmp_path: Path) -> None:
    curve = np.arange(256) ** 2
    for ds, top in ((palette(curve), 65535), (palette(curve // 256, bits=8), 255)):
        table = np.frombuffer(ds.RedPaletteColorLookupTableData, "<u2")
        film = read_radiograph(save(ds, tmp_path / "film.dcm"))
        np.testing.assert_allclose(film.pixels, table[GREY] / top, atol=1e-6)
    with pytest.raises(Skipped):
        read_radiograph(save(palette(curve, curve[::-1]), tmp_path / "film.dcm"))
    segmented = palette(curve)
    segmented.add_new("SegmentedRedPaletteColorLookupTableData", "OW", bytes(8))
    with pytest.raises(UnsupportedSyntax):
        read_radiograph(save(segmented, tmp_path / "film.dcm"))
    empty = palette(curve)
    empty.RedPaletteColorLookupTableData = b""
    with pytest.raises(CorruptFile):
        read_radiograph(save(empty, tmp_path / "film.dcm"))
