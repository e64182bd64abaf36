"""Films of every format: what their pixels are, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes
from PIL import Image

from monai_cxr_vae import read_radiograph
from monai_cxr_vae.errors import BadGeometry, ColourImage, CorruptFile, MultiFrame, TruncatedFile, UnsupportedSyntax
from tests.dicom.dx import JPEG_LS, compressed, dx, gradient, save

GREY = gradient(bits=8).astype(np.uint8)
DEEP = gradient(bits=12).astype(np.uint16)


def png(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, format="PNG", **options)
    return path


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_a_film_tells_in_one_line_what_it_is(tmp_path: Path):
    film = read_radiograph(png(tmp_path / "film.png", DEEP))
    line = f"png, {film.rows} x {film.columns} pixels, 12 bits, view unknown, contrast {film.voi}"
    assert repr(film) == f"Radiograph({line}, warnings: {' '.join(film.warnings)})"
    film = read_radiograph(save(dx(gradient()), tmp_path / "dx.dcm"))
    row, column = film.spacing
    assert f"spacing {row:.3g} x {column:.3g} mm, view {film.view}" in repr(film)


# One film in four formats


def test_one_film_in_every_format(tmp_path: Path) -> None:
    """One acquisition as DX, CR, JPEG-LS, PNG, JPEG and NIfTI; each difference has its reason and its bound."""
    stored = gradient()
    film = read_radiograph(save(dx(stored), tmp_path / "dx.dcm")).pixels
    cr = dx(
        4095 - stored,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1",
        Modality="CR",
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape=None,
        WindowCenter=None,
        WindowWidth=None,
    )
    import imagecodecs

    packed = compressed(dx(stored), JPEG_LS, imagecodecs.jpegls_encode(stored.astype(np.uint16)))
    nifti(tmp_path / "film.nii.gz", stored.T.astype(np.int16), np.diag([-0.2, -0.2, 1, 1]))
    Image.fromarray(np.rint(film * 255).astype(np.uint8)).save(tmp_path / "film.jpg", quality=95)

    def difference(path: Path) -> float:
        return float(np.abs(read_radiograph(path).pixels - film).max())

    assert difference(save(packed, tmp_path / "packed.dcm")) == 0
    # the same values the other way round, shown over the full range, which the LINEAR window exceeds by half a level
    assert difference(save(cr, tmp_path / "cr.dcm")) < 1.01 * 0.5 / 4095 + 1e-6
    assert difference(png(tmp_path / "8.png", np.rint(film * 255).astype(np.uint8))) <= 0.5 / 255 + 1e-6
    assert difference(png(tmp_path / "16.png", stored.astype(np.uint16))) <= 1 / 4095
    assert difference(tmp_path / "film.jpg") < 0.06
    # 0.5 % of the pixels are cut off at either end: linear between, bounded by the grey levels cut off
    low, high = np.percentile(stored, [0.5, 99.5])
    expected = np.clip((stored - low) / (high - low), 0, 1)
    np.testing.assert_allclose(read_radiograph(tmp_path / "film.nii.gz").pixels, expected, atol=1e-5)
    assert difference(tmp_path / "film.nii.gz") < max(low, 4095 - high) / (high - low) + 1e-3


# The object


def test_a_radiograph_is_an_array(tmp_path: Path) -> None:
    film = read_radiograph(png(tmp_path / "film.png", GREY))
    assert np.shares_memory(np.asarray(film), film.pixels)
    assert np.array(film, dtype=np.float64).dtype == np.float64
    assert (film.rows, film.columns, film.format, film.view, film.affine) == (60, 50, "png", "unknown", None)
    assert film.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("attributes", "spacing", "aspect", "warnings"),
    [
        ({}, (0.2, 0.2), 1.0, ()),
        ({"PixelSpacing": [0.4, 0.2]}, (0.4, 0.2), 2.0, ()),
        ({"ImagerPixelSpacing": None}, None, 1.0, ()),
        ({"ImagerPixelSpacing": [0, 0]}, None, 1.0, ("spacing_invalid",)),
        ({"PixelSpacing": [0, 0]}, (0.2, 0.2), 1.0, ("spacing_invalid",)),
        ({"PixelSpacing": [100, 0.1]}, (0.2, 0.2), 1.0, ("spacing_invalid",)),
        ({"ImagerPixelSpacing": None, "NominalScannedPixelSpacing": [0.1, 0.2]}, (0.1, 0.2), 0.5, ()),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [3, 2]}, None, 1.5, ()),
        ({"PixelAspectRatio": [3, 2]}, (0.2, 0.2), 1.0, ()),
    ],
)
def test_spacing(attributes: dict, spacing: object, aspect: float, warnings: tuple, tmp_path: Path) -> None:
    film = read_radiograph(save(dx(**attributes), tmp_path / "film.dcm"))
    assert film.spacing == spacing
    assert film.pixel_aspect == pytest.approx(aspect)
    assert film.warnings == warnings


def test_no_patient_data_travels_along(tmp_path: Path) -> None:
    film = read_radiograph(save(dx(), tmp_path / "film.dcm"))
    assert "ZZPHI" not in repr(film)
    assert "2.25.1234" not in repr(film)


# PNG and JPEG


@pytest.mark.parametrize(
    ("highest", "bits"),
    [
        (200, 8),
        (255, 8),
        (256, 10),
        (900, 10),
        (1023, 10),
        (1024, 12),
        (4095, 12),
        (4096, 14),
        (16384, 16),
        (65535, 16),
    ],
)
def test_depth_of_a_16_bit_png(highest: int, bits: int, tmp_path: Path) -> None:
    image = (DEEP.astype(np.float64) / DEEP.max() * highest).astype(np.uint16)
    film = read_radiograph(png(tmp_path / "film.png", image))
    np.testing.assert_allclose(film.pixels, image / (2**bits - 1), atol=1e-6)
    assert (film.bits_stored, film.warnings) == (bits, ("depth_assumed",))


def test_a_set_of_pictures_is_scaled_alike_on_request(tmp_path: Path) -> None:
    for highest in (200, 900, 4095):
        image = (DEEP.astype(np.float64) / DEEP.max() * highest).astype(np.uint16)
        film = read_radiograph(png(tmp_path / "film.png", image), bits=12)
        np.testing.assert_allclose(film.pixels, image / 4095, atol=1e-6)
        assert (film.bits_stored, film.voi, film.warnings) == (12, "12 bits", ())
    with pytest.raises(CorruptFile, match="10 bits"):
        read_radiograph(tmp_path / "film.png", bits=10)
    np.testing.assert_array_equal(
        read_radiograph(png(tmp_path / "8.png", GREY), bits=12).pixels, GREY / np.float32(255)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8.png", "16.png", "8.jpg"])
def test_exif_orientation_is_applied(orientation: int, kind: str, tmp_path: Path) -> None:
    """TIFF 6.0: the two sides at which the stored first row and first column are seen."""
    image = DEEP if kind == "16.png" else GREY
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "plain", format="JPEG" if kind == "8.jpg" else "PNG")
    Image.fromarray(image).save(tmp_path / kind, exif=exif)
    upright = read_radiograph(tmp_path / "plain").pixels
    seen = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: a.T[:, ::-1],
        7: lambda a: a.T[::-1, ::-1],
        8: lambda a: a.T[::-1],
    }[orientation](upright)
    film = read_radiograph(tmp_path / kind)
    np.testing.assert_array_equal(film.pixels, seen)
    assert ("exif_orientation" in film.warnings) == (orientation != 1)


def test_a_damaged_jpeg_picture_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "film.jpg", quality=95)
    data = (tmp_path / "film.jpg").read_bytes()
    (tmp_path / "film.jpg").write_bytes(data[: len(data) * 2 // 3] + b"\xff\xd9")
    with pytest.raises(CorruptFile):
        read_radiograph(tmp_path / "film.jpg")


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b", b"____n+2\0"])
def test_a_preamble_may_look_like_anything(start: bytes, tmp_path: Path) -> None:
    path = save(dx(), tmp_path / "film.dcm")
    expected = read_radiograph(path).pixels
    path.write_bytes(start + path.read_bytes()[len(start) :])
    np.testing.assert_array_equal(read_radiograph(path).pixels, expected)


def test_grey_in_other_clothes(tmp_path: Path) -> None:
    expected = GREY / np.float32(255)
    opaque = np.full_like(GREY, 255)
    images = {
        "rgb": np.stack([GREY] * 3, -1),
        "rgba": np.stack([GREY, GREY, GREY, opaque], -1),
        "la": np.stack([GREY, opaque], -1),
    }
    for name, image in images.items():
        film = read_radiograph(png(tmp_path / f"{name}.png", image))
        np.testing.assert_array_equal(film.pixels, expected)
        assert film.warnings == (() if name == "la" else ("colour_as_grey",))
    Image.fromarray(GREY).convert("P").save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "palette.png").pixels, expected)
    Image.fromarray(GREY > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "bits.png").pixels, GREY > 99)
    Image.fromarray(images["rgb"]).save(tmp_path / "rgb.jpg", quality=98)
    assert read_radiograph(tmp_path / "rgb.jpg").warnings == ("colour_as_grey",)


def test_colour_and_transparency_are_refused(tmp_path: Path) -> None:
    half = np.full_like(GREY, 128)
    colours = np.stack([GREY, GREY[::-1], GREY], -1)
    for image in (colours, np.stack([GREY, half], -1), np.stack([GREY, GREY, GREY, half], -1)):
        with pytest.raises(ColourImage):
            read_radiograph(png(tmp_path / "film.png", image))
    with pytest.raises(ColourImage):
        read_radiograph(png(tmp_path / "film.png", GREY, transparency=int(GREY[3, 3])))
    deep = b"\0" + struct.pack(">3H", 7, 7, 7)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">2L5B", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(deep)),
        (b"IEND", b""),
    ):
        data += struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
    (tmp_path / "deep.png").write_bytes(data)
    with pytest.raises(ColourImage):
        read_radiograph(tmp_path / "deep.png")
    Image.fromarray(GREY).convert("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(ColourImage):
        read_radiograph(tmp_path / "cmyk.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_cut_short_are_refused(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "film").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CorruptFile):
            read_radiograph(tmp_path / "film")


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    with pytest.raises(MultiFrame):
        read_radiograph(tmp_path / "film.png")


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "film.png")
    (tmp_path / "film.png").rename(tmp_path / "film.dcm")
    assert read_radiograph(tmp_path / "film.dcm").format == "png"


# NIfTI

RAS_SIGNS = [(x, y) for x in (-1, 1) for y in (-1, 1)]


@pytest.mark.parametrize("signs", RAS_SIGNS)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_nifti_is_turned_to_the_screen(signs: tuple[int, int], swapped: bool, plane: str, tmp_path: Path) -> None:
    """The array is built from the film and the affine backwards, with nibabel's own axis codes as the judge."""
    film = gradient().astype(np.int16)  # rows down, columns to the patient's left
    array = film.T if not swapped else film
    world = {"x": 0, "y": 1, "z": 2}
    across, down = (world[plane[1]], world[plane[0]]) if swapped else (world[plane[0]], world[plane[1]])
    affine = np.zeros((4, 4))
    affine[across, 0], affine[down, 1] = 0.3 * signs[0], 0.2 * signs[1]
    affine[3 - across - down, 2] = affine[3, 3] = 1
    affine[:3, 3] = [5, -7, 11]
    codes = aff2axcodes(affine)
    stored = array[:: 1 if codes[0] in "LPI" else -1, :: 1 if codes[1] in "LPI" else -1]
    shown = read_radiograph(nifti(tmp_path / "film.nii", stored, affine))
    low, high = np.percentile(film, [0.5, 99.5])
    np.testing.assert_allclose(shown.pixels, np.clip((film - low) / (high - low), 0, 1), atol=1e-5)
    assert shown.spacing == pytest.approx((0.3, 0.2) if swapped else (0.2, 0.3))
    for row, column in ((0, 0), (59, 0), (13, 37)):  # where a pixel lies in the patient has not changed
        place = (shown.row_major_affine @ [row, column, 0, 1])[:3]
        index = np.rint(np.linalg.inv(affine) @ [*place, 1])[:2].astype(int)
        assert stored[tuple(index)] == film[row, column]


def test_nifti_without_a_place_is_only_transposed(tmp_path: Path) -> None:
    film = gradient().astype(np.int16)
    shown = read_radiograph(nifti(tmp_path / "film.nii", film.T, None))
    low, high = np.percentile(film, [0.5, 99.5])
    np.testing.assert_allclose(shown.pixels, np.clip((film - low) / (high - low), 0, 1), atol=1e-5)
    assert "affine_missing" in shown.warnings


def test_nifti_scaling_and_trailing_axes(tmp_path: Path) -> None:
    film = gradient().astype(np.float32)
    affine = np.diag([-1, -1, 1, 1])
    expected = read_radiograph(nifti(tmp_path / "film.nii", film.T, affine)).pixels
    for array in (film.T[..., None], film.T[..., None, None], film.T * -0.001):
        shown = read_radiograph(nifti(tmp_path / "film.nii.gz", array, affine)).pixels
        np.testing.assert_allclose(shown, expected if array.min() >= 0 else 1 - expected, atol=1e-5)


@pytest.mark.parametrize("affine", [np.diag([0.2, 0.2, 0, 1]), np.diag([1e3, 1e-3, 1, 1]), np.ones((4, 4))])
def test_nifti_whose_place_makes_no_sense(affine: np.ndarray, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(gradient().T.astype(np.int16), None)
    image.header.set_sform(affine, code=1)
    nibabel.save(image, tmp_path / "film.nii")
    film = read_radiograph(tmp_path / "film.nii")
    assert "affine_missing" in film.warnings
    assert np.linalg.matrix_rank(film.row_major_affine) == 4


def test_nifti_that_is_no_film(tmp_path: Path) -> None:
    affine = np.eye(4)
    path = tmp_path / "film.nii"
    with pytest.raises(MultiFrame):
        read_radiograph(nifti(path, np.ones((5, 6, 2), np.int16), affine))
    with pytest.raises(CorruptFile):
        read_radiograph(nifti(path, np.ones((5, 6), np.int16), affine))
    with pytest.raises(CorruptFile):
        read_radiograph(nifti(path, np.array([[1, np.nan], [2, 3]], np.float32), affine))
    with pytest.raises(ColourImage):
        read_radiograph(nifti(path, np.ones((5, 6), np.complex64), affine))
    with pytest.raises(BadGeometry):
        read_radiograph(nifti(path, np.ones(5, np.int16), affine))
    nifti(path, gradient().astype(np.int16), affine)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TruncatedFile):
        read_radiograph(path)
    nibabel.save(nibabel.Nifti1Pair(gradient().astype(np.int16), affine), tmp_path / "pair.img")
    with pytest.raises(UnsupportedSyntax):
        read_radiograph(tmp_path / "pair.hdr")
