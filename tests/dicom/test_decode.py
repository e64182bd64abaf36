"""Stored pixels through every transfer syntax and decoder, and streams that must be refused."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from monai_cxr_vae.dicom import decode as decoding
from monai_cxr_vae.dicom.decode import DECODERS, PixelFormat, check_pixels, decode, pixel_format, stored_values
from monai_cxr_vae.dicom.files import open_dataset
from monai_cxr_vae.errors import (
    ColourImage,
    CorruptFile,
    DicomDirectory,
    FilmError,
    MultiFrame,
    NoPixels,
    TooLarge,
    TruncatedFile,
    UnsupportedSyntax,
)
from monai_cxr_vae.radiograph import read_radiograph
from tests.dicom import dx as codes
from tests.dicom.dx import compressed, dx, gradient, save, set_pixels


def words(bits: int) -> np.ndarray:
    return gradient(bits=bits).astype(np.uint8 if bits <= 8 else np.uint16)


def j2k(image: np.ndarray, level: float = 0) -> bytes:
    return imagecodecs.jpeg2k_encode(image, level=level, codecformat="j2k", reversible=level == 0)


def rle(image: np.ndarray) -> bytes:
    """PS3.5 G: one segment per byte, most significant first, here as literal runs alone."""
    planes = [(image >> shift).astype(np.uint8).tobytes() for shift in range(8 * image.itemsize - 8, -1, -8)]
    segments = []
    for plane in planes:
        runs = [plane[start : start + 128] for start in range(0, len(plane), 128)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.cumsum([64] + [len(segment) for segment in segments])[:-1]
    header = struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def jpeg12(image: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(image, level=100, bitspersample=12)


# name -> transfer syntax, encoder, bits, largest error in grey levels
STREAMS: dict[str, tuple[str, Callable[[np.ndarray], bytes], int, int]] = {
    "RLE 8": (codes.RLE, rle, 8, 0),
    "RLE 12": (codes.RLE, rle, 12, 0),
    "RLE 16": (codes.RLE, rle, 16, 0),
    "JPEG baseline": (codes.JPEG_BASELINE, lambda image: imagecodecs.jpeg8_encode(image, level=98), 8, 8),
    "JPEG extended 12": (codes.JPEG_EXTENDED, jpeg12, 12, 60),
    "JPEG lossless 8": (codes.JPEG_LOSSLESS_SV1, lambda image: imagecodecs.jpeg8_encode(image, lossless=True), 8, 0),
    "JPEG lossless 12": (
        codes.JPEG_LOSSLESS_SV1,
        lambda image: imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=12),
        12,
        0,
    ),
    "JPEG lossless 16": (
        codes.JPEG_LOSSLESS,
        lambda image: imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=16),
        16,
        0,
    ),
    "JPEG-LS 8": (codes.JPEG_LS, imagecodecs.jpegls_encode, 8, 0),
    "JPEG-LS 16": (codes.JPEG_LS, imagecodecs.jpegls_encode, 16, 0),
    "JPEG-LS near": (codes.JPEG_LS_NEAR, lambda image: imagecodecs.jpegls_encode(image, level=3), 12, 3),
    "JPEG 2000 8": (codes.J2K_LOSSLESS, j2k, 8, 0),
    "JPEG 2000 12": (codes.J2K_LOSSLESS, j2k, 12, 0),
    "JPEG 2000 16": (codes.J2K_LOSSLESS, j2k, 16, 0),
    "JPEG 2000 lossy": (codes.J2K, lambda image: j2k(image, 90), 12, 12),
    "HTJ2K 8": (codes.HTJ2K_LOSSLESS, imagecodecs.htj2k_encode, 8, 0),
    "HTJ2K 16": (codes.HTJ2K_LOSSLESS, imagecodecs.htj2k_encode, 16, 0),
}
# what a fallback is known not to decode; it must then refuse, never guess
CANNOT = {("JPEG extended 12", "gdcm")}
FALLBACKS = [
    (name, decoder)
    for name, (syntax, *_) in STREAMS.items()
    for decoder in DECODERS[decoding._FAMILY[syntax]]
    if (name, decoder) not in CANNOT
]


def film(name: str, fragments: int = 1) -> tuple[Dataset, np.ndarray, int]:
    syntax, encoder, bits, tolerance = STREAMS[name]
    image = words(bits)
    ds = dx(image.astype(np.int32), BitsAllocated=8 if bits == 8 else 16, BitsStored=bits)
    return compressed(ds, syntax, encoder(image), fragments), image, tolerance


@pytest.mark.parametrize(("name", "decoder"), FALLBACKS)
def test_every_decoder_gives_the_stored_pixels(
    name: str, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, image, tolerance = film(name)
    family = decoding._FAMILY[STREAMS[name][0]]
    monkeypatch.setitem(DECODERS, family, {decoder: DECODERS[family][decoder]})
    ds = open_dataset(save(ds, tmp_path / "film.dcm"))
    pixels, by = decode(ds, pixel_format(ds))
    assert by == decoder
    assert pixels.dtype == image.dtype
    np.testing.assert_allclose(pixels.astype(int), image, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", STREAMS)
def test_fragments_are_joined(name: str, tmp_path: Path) -> None:
    whole, broken = film(name)[0], film(name, fragments=5)[0]
    expected = read_radiograph(save(whole, tmp_path / "whole.dcm"))
    shown = read_radiograph(save(broken, tmp_path / "broken.dcm"))
    assert shown.decoder == "imagecodecs"
    np.testing.assert_array_equal(shown.pixels, expected.pixels)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_truncated_streams_are_refused(name: str, share: float, tmp_path: Path) -> None:
    syntax, encoder, bits, _ = STREAMS[name]
    image = words(bits)
    frame = encoder(image)
    ds = dx(image.astype(np.int32), BitsAllocated=8 if bits == 8 else 16, BitsStored=bits)
    path = save(compressed(ds, syntax, frame[: int(len(frame) * share)]), tmp_path / "film.dcm")
    with pytest.raises((TruncatedFile, CorruptFile)):
        read_radiograph(path)


@pytest.mark.parametrize("name", STREAMS)
def test_a_file_cut_short_is_truncated(name: str, tmp_path: Path) -> None:
    path = save(film(name)[0], tmp_path / "film.dcm")
    data = path.read_bytes()
    for size in (len(data) - 4, len(data) * 2 // 3, data.index(b"\xe0\x7f\x10\x00") + 9):
        path.write_bytes(data[:size])
        with pytest.raises(TruncatedFile):
            read_radiograph(path)


OTHER_SIZES = [
    (name, size)
    for name in STREAMS
    for size in ({"Rows": 61}, {"Columns": 49}, {"Rows": 50, "Columns": 60}, {"Rows": 6000})
    if not ("RLE" in name and size == {"Rows": 50, "Columns": 60})  # runs do not tell rows from columns
]


@pytest.mark.parametrize(("name", "attributes"), OTHER_SIZES)
def test_another_size_than_the_header_says_is_refused_before_decoding(
    name: str, attributes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, _, _ = film(name)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    path = save(ds, tmp_path / "film.dcm")
    if "RLE" not in name:  # runs carry no size; there the decoded length tells

        def never(*args: object) -> None:
            raise AssertionError("decoded without a check")

        family = decoding._FAMILY[STREAMS[name][0]]
        monkeypatch.setitem(DECODERS, family, dict.fromkeys(DECODERS[family], never))
    with pytest.raises(CorruptFile, match="another size"):
        read_radiograph(path)


def test_colours_and_bits_beyond_the_header_are_refused(tmp_path: Path) -> None:
    grey = words(8)
    colour = compressed(
        dx(grey.astype(np.int32), BitsAllocated=8, BitsStored=8),
        codes.JPEG_BASELINE,
        imagecodecs.jpeg8_encode(np.stack([grey] * 3, axis=-1)),
    )
    with pytest.raises(CorruptFile, match="colours"):
        read_radiograph(save(colour, tmp_path / "colour.dcm"))
    deep = compressed(
        dx(grey.astype(np.int32), BitsAllocated=8, BitsStored=8), codes.JPEG_LS, STREAMS["JPEG-LS 16"][1](words(16))
    )
    with pytest.raises(CorruptFile, match="bits"):
        read_radiograph(save(deep, tmp_path / "deep.dcm"))


@pytest.mark.parametrize("name", [name for name in STREAMS if "RLE" not in name])
@pytest.mark.parametrize("fill", [bytes(2), bytes(500), b"\xff" * 300, b"\0\xff" * 400])
def test_what_fills_up_the_end_is_not_damage(name: str, fill: bytes, tmp_path: Path) -> None:
    syntax, encoder, bits, _ = STREAMS[name]
    expected = read_radiograph(save(film(name)[0], tmp_path / "plain.dcm")).pixels
    ds = dx(words(bits).astype(np.int32), BitsAllocated=8 if bits == 8 else 16, BitsStored=bits)
    for fragments in (1, 3):
        filled = compressed(ds, syntax, encoder(words(bits)) + fill, fragments)
        np.testing.assert_array_equal(read_radiograph(save(filled, tmp_path / "filled.dcm")).pixels, expected)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (codes.JPEG_BASELINE, imagecodecs.jpeg8_encode(words(8))),
        (codes.J2K_LOSSLESS, j2k(words(8))),
        (codes.JPEG_LS, imagecodecs.jpegls_encode(words(8))),
        (codes.HTJ2K_LOSSLESS, imagecodecs.htj2k_encode(words(8))),
        (codes.JPEG_LS, imagecodecs.jpegls_encode(words(12) << 4)),
        (codes.JPEG_LOSSLESS, imagecodecs.jpeg8_encode(words(16), lossless=True, bitspersample=16)),
        (codes.J2K, j2k(words(16), 90)),
        (codes.J2K_LOSSLESS, j2k(words(12).astype(np.int16) - 2048)),
    ],
)
def test_a_stream_of_other_samples_than_the_header_says_is_refused(syntax: str, frame: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="bits"):
        read_radiograph(save(compressed(dx(), syntax, frame), tmp_path / "film.dcm"))


def test_a_lossless_stream_of_few_bits_but_more_than_a_byte_is_read(tmp_path: Path) -> None:
    """Its encoder has looked for the largest value."""
    frame = imagecodecs.jpeg8_encode(words(9), lossless=True, bitspersample=9)
    ds = open_dataset(save(compressed(dx(), codes.JPEG_LOSSLESS_SV1, frame), tmp_path / "film.dcm"))
    np.testing.assert_array_equal(decode(ds, pixel_format(ds))[0], words(9))


def test_an_overlay_in_the_unused_bits_is_no_contradiction(tmp_path: Path) -> None:
    expected = read_radiograph(save(dx(), tmp_path / "plain.dcm")).pixels
    ds = compressed(dx(), codes.JPEG_LS, imagecodecs.jpegls_encode(words(12) | np.uint16(0x8000)))
    ds.add_new((0x6000, 0x0102), "US", 15)
    np.testing.assert_array_equal(read_radiograph(save(ds, tmp_path / "film.dcm")).pixels, expected)


def test_more_frames_than_the_header_says_are_refused(tmp_path: Path) -> None:
    ds = dx()
    ds.PixelData = ds.PixelData * 2
    streams = [imagecodecs.jpegls_encode(words(12)) for _ in range(2)]
    packed = compressed(dx(), codes.JPEG_LS, streams[0])
    packed.PixelData = encapsulate(streams)
    table = compressed(dx(), codes.RLE, rle(words(12)))
    table.PixelData = encapsulate([rle(words(12))] * 2)
    bare = compressed(dx(), codes.JPEG_LS, streams[0])
    bare.PixelData = encapsulate(streams, has_bot=False)
    dot = dx(np.array([[7]]))
    dot.PixelData = dot.PixelData * 2
    for film in (ds, packed, table, bare, dot):
        with pytest.raises(CorruptFile, match="more frames"):
            read_radiograph(save(film, tmp_path / "film.dcm"))
    padded = dx()
    expected = read_radiograph(save(padded, tmp_path / "film.dcm")).pixels
    padded.PixelData += bytes(100)
    np.testing.assert_array_equal(read_radiograph(save(padded, tmp_path / "film.dcm")).pixels, expected)


@pytest.mark.parametrize("name", ["JPEG lossless 12", "JPEG 2000 12", None])
def test_the_encoding_is_that_of_the_element_whatever_the_label(name: str | None, tmp_path: Path) -> None:
    """Each data set once more under a transfer syntax that claims the other encoding."""
    ds = dx() if name is None else film(name)[0]
    path = save(ds, tmp_path / "film.dcm")
    expected = read_radiograph(path).pixels
    syntax = ds.file_meta.TransferSyntaxUID
    for implicit in (True, False):
        body = DicomBytesIO()
        body.is_implicit_VR, body.is_little_endian = implicit, True
        write_dataset(body, ds)
        data = path.read_bytes()
        meta = data[: data.index(b"\x08\0\x16\0")]
        other = codes.EXPLICIT if implicit else codes.IMPLICIT
        if name is None and not implicit:  # a label of another length
            meta = meta.replace(b"UI\x14\0" + syntax.encode() + b"\0", b"UI\x12\0" + other.encode() + b"\0")
        path.with_name("other.dcm").write_bytes(meta + body.getvalue())
        np.testing.assert_array_equal(read_radiograph(path.with_name("other.dcm")).pixels, expected)


def test_class_and_instance_from_the_file_meta_information(tmp_path: Path) -> None:
    ds = dx()
    del ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(tmp_path / "film.dcm", enforce_file_format=False)
    header = open_dataset(tmp_path / "film.dcm", pixels=False)
    assert (header.SOPClassUID, header.SOPInstanceUID) == (codes.dx().SOPClassUID, "2.25.1234")


def test_a_file_on_which_a_fallback_ends_the_process_is_only_damaged(tmp_path: Path) -> None:
    """GDCM aborts on a damaged Huffman table; it must not be asked after another decoder has called it that."""
    frame = bytearray(imagecodecs.jpeg8_encode(words(8)))
    table = frame.index(b"\xff\xc4")
    frame[table + 5 : table + 21] = b"\xff" * 16
    ds = compressed(dx(gradient(bits=8), BitsAllocated=8, BitsStored=8), codes.JPEG_BASELINE, bytes(frame))
    with pytest.raises(CorruptFile, match="damaged"):
        read_radiograph(save(ds, tmp_path / "film.dcm"))


@pytest.mark.parametrize("syntax", [codes.J2K_LOSSLESS, codes.JPEG_LS, codes.RLE])
def test_signed_samples(syntax: str, tmp_path: Path) -> None:
    stored = gradient(low=-2048)
    encoder = {codes.J2K_LOSSLESS: j2k, codes.JPEG_LS: imagecodecs.jpegls_encode, codes.RLE: rle}[syntax]
    native = dx(stored, PixelRepresentation=1, WindowCenter=0)
    expected = read_radiograph(save(native, tmp_path / "native.dcm")).pixels
    for image in (stored.astype(np.int16), (stored & 0xFFF).astype(np.uint16)):
        if image.dtype == np.int16 and syntax == codes.JPEG_LS:
            image = image.view(np.uint16)
        frame = encoder(image if syntax != codes.RLE else image.view(np.uint16))
        packed = compressed(dx(stored, PixelRepresentation=1, WindowCenter=0), syntax, frame)
        np.testing.assert_array_equal(read_radiograph(save(packed, tmp_path / "packed.dcm")).pixels, expected)


@pytest.mark.parametrize("decoder", ["imagecodecs", "gdcm", "itk"])
def test_lossy_overshoot_does_not_wrap_round(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = words(10).astype(np.int32) + 2  # 1024 and 1025 do not fit into 10 bits
    frame = imagecodecs.jpegls_encode(beyond.astype(np.uint16))
    ds = compressed(dx(gradient(bits=10), BitsStored=10), codes.JPEG_LS_NEAR, frame)
    monkeypatch.setitem(DECODERS, "jpegls", {decoder: DECODERS["jpegls"][decoder]})
    ds = open_dataset(save(ds, tmp_path / "film.dcm"))
    np.testing.assert_array_equal(decode(ds, pixel_format(ds))[0], np.minimum(beyond, 1023))


def test_falls_back_when_a_decoder_is_missing_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(film("JPEG 2000 12")[0], tmp_path / "film.dcm")
    expected = read_radiograph(path).pixels
    first, *others = DECODERS["jpeg2000"].items()

    def missing(*args: object) -> None:
        raise ImportError

    def failing(*args: object) -> None:
        raise RuntimeError("ZZPHI")

    monkeypatch.setitem(DECODERS, "jpeg2000", {first[0]: missing, **dict(others)})
    shown = read_radiograph(path)
    assert shown.decoder == others[0][0]
    np.testing.assert_array_equal(shown.pixels, expected)
    monkeypatch.setitem(DECODERS, "jpeg2000", {first[0]: failing, **dict(others)})
    with pytest.raises(CorruptFile, match="damaged") as caught:
        read_radiograph(path)
    assert "ZZPHI" not in str(caught.value)
    monkeypatch.setitem(DECODERS, "jpeg2000", {"a": missing})
    with pytest.raises(UnsupportedSyntax):
        read_radiograph(path)


@pytest.mark.interop
@pytest.mark.parametrize(
    "command",
    [
        "dcmcjpeg +e1",
        "dcmcjpeg +el",
        "dcmcjpeg +ee",
        "dcmcjpls +el",
        "dcmcjpls +en",
        "dcmcrle",
        "gdcmconv --j2k",
        "gdcmconv --jpegls",
        "gdcmconv --jpeg",
        "gdcmconv --rle",
        "gdcmconv --deflated",
        "dcmconv +tb",
        "dcmconv +ti",
        "dcmconv +td",
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_other_programs_compress(
    command: str, photometric: str, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    program, *options = command.split()
    source = save(
        dx(PhotometricInterpretation=photometric, WindowCenter=1800, WindowWidth=2500), tmp_path / "native.dcm"
    )
    subprocess.run([tool(program), *options, source, tmp_path / "packed.dcm"], check=True, capture_output=True)
    shown, expected = read_radiograph(tmp_path / "packed.dcm"), read_radiograph(source)
    assert shown.transfer_syntax != expected.transfer_syntax
    lossy = command in ("dcmcjpeg +ee", "dcmcjpls +en")
    np.testing.assert_allclose(shown.pixels, expected.pixels, rtol=0, atol=0.05 if lossy else 0)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"Rows": None}, CorruptFile),
        ({"Rows": 0}, CorruptFile),
        ({"Rows": 65535, "Columns": 65535}, TooLarge),
        ({"Columns": 51}, TruncatedFile),
        ({"BitsAllocated": 32}, UnsupportedSyntax),
        ({"BitsAllocated": 1, "BitsStored": 1}, UnsupportedSyntax),
        ({"BitsStored": 17}, CorruptFile),
        ({"BitsStored": 0}, CorruptFile),
        ({"HighBit": 5}, CorruptFile),
        ({"HighBit": 16}, CorruptFile),
        ({"PixelRepresentation": 7}, CorruptFile),
        ({"PhotometricInterpretation": None}, CorruptFile),
        ({"PhotometricInterpretation": "MONOCHROME3"}, CorruptFile),
        ({"PhotometricInterpretation": "RGB"}, ColourImage),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ColourImage),
        ({"SamplesPerPixel": 3}, ColourImage),
        ({"NumberOfFrames": 2}, MultiFrame),
    ],
)
def test_headers_that_cannot_be_read(attributes: dict, error: type[FilmError], tmp_path: Path) -> None:
    ds = dx()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    with pytest.raises(error) as caught:
        read_radiograph(save(ds, tmp_path / "film.dcm"))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"HighBit": None}, {}),
        ({"PixelRepresentation": None}, {}),
        ({"SamplesPerPixel": None}, {}),
        ({"NumberOfFrames": 1}, {}),
        ({"PixelRepresentation": 1}, {"signed": True}),
        ({"BitsStored": 1}, {"bits_stored": 1, "high_bit": 0}),
        ({"BitsStored": 16}, {"bits_stored": 16, "high_bit": 15}),
        ({"HighBit": 15}, {"high_bit": 15}),
        ({"BitsAllocated": 8, "BitsStored": 8}, {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7}),
        ({"Rows": 1, "Columns": 1}, {"rows": 1, "columns": 1}),
        ({"Rows": 8000, "Columns": 8000}, {"rows": 8000, "columns": 8000}),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, {"photometric": "RGB", "samples": 3}),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, {"photometric": "PALETTE COLOR"}),
    ],
)
def test_the_format_is_what_the_header_says(attributes: dict, expected: dict) -> None:
    ds = dx()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
        if value is None:
            delattr(ds, keyword)
    if "BitsStored" in attributes:
        ds.HighBit = ds.BitsStored - 1
    plain = PixelFormat(60, 50, 16, 12, 11, False, "MONOCHROME2", codes.EXPLICIT)
    assert pixel_format(ds) == dataclasses.replace(plain, **expected)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"Rows": 8001, "Columns": 8000}, TooLarge),
        ({"Columns": 0}, CorruptFile),
        ({"PixelRepresentation": 2}, CorruptFile),
        ({"NumberOfFrames": 2}, MultiFrame),
        ({"PhotometricInterpretation": "", "SamplesPerPixel": 3}, ColourImage),
        ({"PhotometricInterpretation": "HSV", "SamplesPerPixel": 3}, ColourImage),
        ({"PhotometricInterpretation": "XYB", "SamplesPerPixel": 3}, ColourImage),
        ({"PhotometricInterpretation": "CMYK", "SamplesPerPixel": 4}, ColourImage),
        ({"PhotometricInterpretation": "ARGB", "SamplesPerPixel": 3}, ColourImage),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "BitsAllocated": 32}, ColourImage),
        ({"BitsAllocated": 32}, UnsupportedSyntax),
    ],
)
def test_formats_that_are_not_read(attributes: dict, error: type[FilmError]) -> None:
    ds = dx()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    with pytest.raises(error) as caught:
        pixel_format(ds)
    assert type(caught.value) is error
    assert error is not TooLarge or str(caught.value) == "the image claims more than 64 million pixels"


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("DirectoryRecordSequence", [], DicomDirectory),
        ("FloatPixelData", b"\0" * 4, UnsupportedSyntax),
        ("DoubleFloatPixelData", b"\0" * 8, UnsupportedSyntax),
        ("PixelData", b"", NoPixels),
        ("PatientID", "1", NoPixels),
    ],
)
def test_what_holds_no_pixels_of_whole_numbers(keyword: str, value: object, error: type[FilmError]) -> None:
    check_pixels(dx())
    ds = Dataset()
    setattr(ds, keyword, value)
    with pytest.raises(error):
        check_pixels(ds)


def test_an_offset_table_of_one_frame_is_one_of_one_frame(tmp_path: Path) -> None:
    for has_bot in (False, True):
        ds = compressed(dx(), codes.JPEG_LS, bytes(2))
        ds.PixelData = encapsulate([imagecodecs.jpegls_encode(words(12))], has_bot=has_bot)
        assert struct.unpack_from("<L", ds.PixelData, 4) == (4 * has_bot,)
        ds = open_dataset(save(ds, tmp_path / "film.dcm"))
        np.testing.assert_array_equal(decode(ds, pixel_format(ds))[0], words(12))


def test_compressed_pixels_of_no_known_syntax_are_refused() -> None:
    ds = compressed(dx(), codes.JPEG_LS, imagecodecs.jpegls_encode(words(12)))
    with pytest.raises(UnsupportedSyntax, match="nothing says how"):
        decode(ds, dataclasses.replace(pixel_format(ds), transfer_syntax=None))
    native = dx()
    pixels, by = decode(native, dataclasses.replace(pixel_format(native), transfer_syntax=None))
    np.testing.assert_array_equal(pixels, words(12))
    assert by == "numpy"


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (60, 50)])
@pytest.mark.parametrize("syntax", [codes.EXPLICIT, codes.IMPLICIT, codes.BIG_ENDIAN])
@pytest.mark.parametrize("bits", [8, 16])
def test_native_pixels_of_every_size_and_order(bits: int, syntax: str, shape: tuple, tmp_path: Path) -> None:
    """An odd number of bytes has one more (PS3.5 8.1.1), and words of big endian hold two turned round (8.2)."""
    stored = gradient(*shape, bits=bits) if shape > (1, 1) else np.array([[200]])
    ds = open_dataset(save(dx(stored, BitsAllocated=bits, BitsStored=bits), tmp_path / "film.dcm", syntax))
    np.testing.assert_array_equal(decode(ds, pixel_format(ds))[0], stored)


@pytest.mark.parametrize(
    ("group", "element", "read"),
    [
        (0x6000, 0x0102, True),
        (0x6002, 0x0102, True),
        (0x601E, 0x0102, True),
        (0x6020, 0x0102, False),
        (0x5FFE, 0x0102, False),
        (0x6000, 0x0103, False),
        (0x6000, 0x3000, False),
    ],
)
def test_only_an_overlay_without_data_of_its_own_lies_in_the_unused_bits(
    group: int, element: int, read: bool, tmp_path: Path
) -> None:
    """PS3.3 C.9.2 of 2004: groups 6000 to 601E; the element of another number makes none."""
    ds = compressed(dx(), codes.JPEG_LS, imagecodecs.jpegls_encode(words(12) | np.uint16(0x8000)))
    if element == 0x3000:
        ds.add_new((group, 0x0102), "US", 15)
    ds.add_new((group, element), "OW" if element == 0x3000 else "US", b"\0\0" if element == 0x3000 else 15)
    path = save(ds, tmp_path / "film.dcm")
    if read:
        assert read_radiograph(path).rows == 60
    else:
        with pytest.raises(CorruptFile, match="bits"):
            read_radiograph(path)


@pytest.mark.parametrize(
    ("low", "high", "signed", "lossy", "read"),
    [
        (0, 1023, False, False, True),
        (0, 1024, False, False, False),
        (0, 1023 + 127, False, True, True),
        (0, 1023 + 128, False, True, False),
        (-512, 511, True, False, True),
        (-513, 511, True, False, False),
        (-512, 512, True, False, False),
        (-512 - 127, 511 + 127, True, True, True),
        (-512 - 128, 511, True, True, False),
        (-1, 511 + 128, True, True, False),
        (0, 511, True, False, True),
    ],
)
def test_values_beyond_the_samples(low: int, high: int, signed: bool, lossy: bool, read: bool) -> None:
    """Ten bits; an eighth of their range is 127.9."""
    syntax = codes.J2K if lossy else codes.J2K_LOSSLESS
    form = PixelFormat(1, 4, 16, 10, 9, signed, "MONOCHROME2", syntax)
    pixels = np.array([[low, high, 0, 1]], np.int16)
    if read:
        limits = (-512, 511) if signed else (0, 1023)
        np.testing.assert_array_equal(decoding._within_samples(pixels, form), np.clip(pixels, *limits))
    else:
        with pytest.raises(CorruptFile, match="bits stored and sign"):
            decoding._within_samples(pixels, form)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_twos_complement_in_a_stream_without_a_sign(kind: type) -> None:
    """Cut to the sample's ten bits, or drawn out to the word's sixteen; what is neither is refused."""
    form = PixelFormat(1, 4, 16, 10, 9, True, "MONOCHROME2", codes.J2K_LOSSLESS)
    stored = np.array([[-512, -1, 0, 511]])
    for bits in (10, 16):
        found = decoding._within_samples((stored & ((1 << bits) - 1)).astype(kind), form)
        np.testing.assert_array_equal(stored_values(found.astype(np.uint16), 10, 9, True), stored)
    with pytest.raises(CorruptFile, match="bits stored and sign"):
        decoding._within_samples(np.array([[0, 1024, 0, 0]]).astype(kind), form)


def test_fill_bytes_before_a_marker_and_a_picture_off_the_origin(tmp_path: Path) -> None:
    """T.81 B.1.1.2; T.800 A.5.1: the size is that of the grid without its offset."""
    frame = imagecodecs.jpeg8_encode(words(8))
    filled = frame[:2] + b"\xff\xff" + frame[2:]
    ds = compressed(dx(gradient(bits=8), BitsAllocated=8, BitsStored=8), codes.JPEG_BASELINE, filled)
    ds = open_dataset(save(ds, tmp_path / "film.dcm"))
    np.testing.assert_array_equal(decode(ds, pixel_format(ds))[0], imagecodecs.jpeg8_decode(frame))
    shifted = bytearray(j2k(words(16)))
    at = shifted.index(b"\xff\x51") + 6
    for place, size in enumerate((50, 60, 0, 0, 50, 60, 0, 0)):
        assert struct.unpack_from(">L", shifted, at + 4 * place) == (size,)
    struct.pack_into(">8L", shifted, at, 50 + 64, 60 + 32, 64, 32, 50, 60, 64, 32)
    assert decoding._jpeg2000_size(bytes(shifted)) == (60, 50, 1, 16, False)
    assert imagecodecs.jpeg2k_decode(bytes(shifted)).shape == (60, 50)


@pytest.mark.parametrize("marker", [0xC2, 0xC5, 0xC6, 0xC9, 0xCA, 0xCD, 0xCE])
def test_the_size_is_found_in_a_frame_of_any_process(marker: int) -> None:
    """T.81 table B.1: these are made of discrete cosines; C3, C7, CB, CF and JPEG-LS (F7) are not."""
    table = b"\xff\xc4\0\3\0" + b"\xff\xc8\0\3\0" + b"\xff\xcc\0\3\0"
    for one, cosines in ((marker, True), (0xC0, True), (0xC3, False), (0xC7, False), (0xCB, False), (0xF7, False)):
        frame = b"\xff\xd8" + table + bytes([0xFF, one]) + struct.pack(">HBHHB", 11, 12, 60, 50, 1)
        assert decoding._jpeg_size(frame) == (60, 50, 1, 12, cosines)
    assert not decoding._jpeg_size(frame.replace(b"\xff\xf7", b"\xff\xcf"))[-1]


def test_one_frame_is_not_several(tmp_path: Path) -> None:
    assert read_radiograph(save(dx(NumberOfFrames=1), tmp_path / "film.dcm")).rows == 60


def test_no_pixels(tmp_path: Path) -> None:
    ds = dx()
    del ds.PixelData
    with pytest.raises(NoPixels):
        read_radiograph(save(ds, tmp_path / "film.dcm"))


def test_the_transfer_syntax_must_fit_the_pixel_data(tmp_path: Path) -> None:
    native = save(dx(), tmp_path / "native.dcm").read_bytes()
    packed = save(film("JPEG 2000 12")[0], tmp_path / "packed.dcm").read_bytes()
    for data, old, new in (
        (native, codes.EXPLICIT.encode() + b"\0", codes.RLE.encode() + b"\0"),
        (packed, codes.J2K_LOSSLESS.encode(), codes.EXPLICIT.encode() + b"\0" * 3),
        (packed, codes.J2K_LOSSLESS.encode(), b"1.2.840.10008.1.2.4.99"),
    ):
        assert data.count(old) == 1
        assert len(old) == len(new)
        (tmp_path / "film.dcm").write_bytes(data.replace(old, new))
        with pytest.raises((CorruptFile, UnsupportedSyntax)):
            read_radiograph(tmp_path / "film.dcm")


@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (12, 13), (10, 9), (16, 15), (8, 7), (1, 0)])
@pytest.mark.parametrize("signed", [False, True])
def test_stored_values(bits: int, high: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    stored = gradient(bits=bits, low=low)
    ds = dx(stored, BitsStored=bits, HighBit=high, PixelRepresentation=int(signed))
    set_pixels(ds, stored, dirt=0xFFFF)
    raw = np.frombuffer(ds.PixelData, "<u2").reshape(stored.shape)
    np.testing.assert_array_equal(stored_values(raw, bits, high, signed), stored)
