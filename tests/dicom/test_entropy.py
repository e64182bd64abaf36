"""Damage in JPEG data: what a plain decoder of the codes, bit by bit, can tell is told."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from monai_cxr_vae.dicom.entropy import is_whole
from monai_cxr_vae.errors import CorruptFile
from monai_cxr_vae.radiograph import read_radiograph
from tests.dicom import dx as codes
from tests.dicom.dx import compressed, dx, gradient, save


def noisy(bits: int) -> np.ndarray:
    random = np.random.default_rng(bits)
    image = gradient(211, 173, bits) + random.normal(0, 2 ** (bits - 6), (211, 173))
    return np.clip(np.rint(image), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


def picture(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


COLOURS = np.stack([noisy(8), noisy(8)[::-1], noisy(8)[:, ::-1]], -1)
SOUND = {
    **{f"baseline {quality}": imagecodecs.jpeg8_encode(noisy(8), level=quality) for quality in (20, 75, 98)},
    "extended": imagecodecs.jpeg8_encode(noisy(12), level=95, bitspersample=12),
    "restarts": picture(noisy(8), quality=90, restart_marker_rows=2),
    "restarts in colour": picture(COLOURS, quality=90, restart_marker_blocks=7),
    "optimised": picture(noisy(8), quality=90, optimize=True),
    **{f"colour {subsampling}": picture(COLOURS, quality=90, subsampling=subsampling) for subsampling in (0, 1, 2)},
    **{
        f"lossless {bits} by {predictor}": imagecodecs.jpeg8_encode(
            noisy(bits), lossless=True, bitspersample=bits, predictor=predictor
        )
        for bits in (8, 12, 16)
        for predictor in range(1, 8)
    },
    "progressive, of which nothing is known": picture(noisy(8), quality=90, progressive=True),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("fill", [b"", b"\xff\xff", b"\0"])
def test_what_is_whole_is_whole(name: str, fill: bytes) -> None:
    data = SOUND[name][:-2] + fill + SOUND[name][-2:]
    assert is_whole(data, imagecodecs.jpeg8_decode(data))


@pytest.mark.parametrize("name", [name for name in SOUND if "progressive" not in name])
def test_what_is_cut_is_not(name: str) -> None:
    data = SOUND[name]
    for share, fill in ((0.5, b""), (0.7, b"\0"), (0.9, b""), (0.99, b"\0")):
        cut = data[: int(len(data) * share)].rstrip(b"\xff") + fill + b"\xff\xd9"
        assert not is_whole(cut, imagecodecs.jpeg8_decode(cut))


@pytest.mark.parametrize("name", ["baseline 75", "baseline 98", "extended", "lossless 8 by 1", "lossless 12 by 6"])
def test_what_the_codes_tell_of_one_changed_byte_is_told(name: str) -> None:
    """The judge follows the codes one by one in plain Python."""
    data, random = SOUND[name], np.random.default_rng(5)
    noticed = 0
    for _ in range(20):
        damaged = bytearray(data)
        damaged[random.integers(len(data) // 3, len(data) - 9)] ^= random.integers(1, 256)
        try:
            pixels = imagecodecs.jpeg8_decode(bytes(damaged))
        except imagecodecs.Jpeg8Error:
            continue
        whole = is_whole(bytes(damaged), pixels)
        followed = follow(bytes(damaged))
        # a lossless sample beyond its bits is damage too, which lengths alone do not tell
        assert whole == followed or ("lossless" in name and followed)
        noticed += not whole
    assert noticed > 2


def segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The segments of a JPEG, by marker, to the start of its scan; and all that follows."""
    found, position = [], 2
    while not found or found[-1][0] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        found.append((data[position + 1], data[position + 4 : position + 2 + length]))
        position += 2 + length
    return found, data[position:]


def joined(parts: list[tuple[int, bytes]], scan: bytes, fill: bytes = b"") -> bytes:
    """A JPEG of :func:`segments`."""
    heads = [fill + bytes([0xFF, marker]) + struct.pack(">H", len(part) + 2) + part for marker, part in parts]
    return b"\xff\xd8" + b"".join(heads) + scan


def check(data: bytes, expected: np.ndarray | None = None) -> None:
    """Another decoder reads it, and it is whole, but neither with something missing nor with something added."""
    pixels = imagecodecs.jpeg8_decode(data)
    if expected is not None:
        np.testing.assert_array_equal(pixels, expected)
    assert is_whole(data, pixels)
    for damaged in (data[: len(data) * 9 // 10].rstrip(b"\xff") + data[-2:], data[:-2] + b"\x55" * 9 + data[-2:]):
        assert not is_whole(damaged, pixels)


@pytest.mark.parametrize("name", ["baseline 75", "colour 2", "lossless 12 by 1"])
def test_tables_may_share_a_segment_and_markers_may_follow_fill_bytes(name: str) -> None:
    """T.81 B.2.4.2 and B.1.1.2."""
    parts, scan = segments(SOUND[name])
    tables = b"".join(part for marker, part in parts if marker == 0xC4)
    others = [(marker, part) for marker, part in parts if marker != 0xC4]
    expected = imagecodecs.jpeg8_decode(SOUND[name])
    check(joined([*others[:-1], (0xC4, tables), others[-1]], scan), expected)
    for fill in (b"\xff", b"\xff\xff"):
        check(joined(parts, scan, fill), expected)


@pytest.mark.parametrize("shift", [1, 3])
def test_a_point_transform_of_a_lossless_picture(shift: int) -> None:
    """T.81 H.1.2.1: it shortens the samples before they are predicted, so that the codes are those of short ones."""
    image = noisy(12)
    parts, scan = segments(imagecodecs.jpeg8_encode(image >> shift, lossless=True, bitspersample=12 - shift))
    (frame,) = [part for marker, part in parts if marker == 0xC3]
    changed = {0xC3: bytes([12]) + frame[1:], 0xDA: parts[-1][1][:-1] + bytes([shift])}
    check(joined([(marker, changed.get(marker, part)) for marker, part in parts], scan), image >> shift << shift)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_restart_intervals_of_a_lossless_picture(predictor: int) -> None:
    """T.81 H.1.2.1: each begins as a picture does, so that those of equal parts have equal codes."""
    image = noisy(12)[:9]
    encoded = imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=12, predictor=predictor)
    parts, scan = segments(encoded)
    (frame,) = [part for marker, part in parts if marker == 0xC3]
    frame = frame[:1] + struct.pack(">H", 27) + frame[3:]
    parts = [(0xDD, struct.pack(">H", image.size)), *((m, frame if m == 0xC3 else part) for m, part in parts)]
    expected = np.concatenate([image] * 3)
    intervals = [scan[:-2] + bytes([0xFF, 0xD0]), scan[:-2] + bytes([0xFF, 0xD1]), scan]
    check(joined(parts, b"".join(intervals)), expected)
    for wrong in (intervals[1:], [*intervals[:2], *intervals], [b"\xff\xd0", *intervals[1:]]):
        assert not is_whole(joined(parts, b"".join(wrong)), expected)


def test_the_largest_step_between_samples_and_many_rows() -> None:
    """T.81 H.1.2.2: the difference of 32768 has a category of its own, without more bits."""
    steps = np.tile(np.array([[0, 32768], [32768, 0]], np.uint16), (20, 25))
    check(imagecodecs.jpeg8_encode(steps, lossless=True, bitspersample=16), steps)
    high = np.tile(noisy(8)[:, :9], (3, 1))
    check(imagecodecs.jpeg8_encode(high, lossless=True, bitspersample=8), high)


def test_codes_of_one_bit() -> None:
    flat = np.full((64, 640), 77, np.uint8)
    check(picture(flat, optimize=True))
    check(imagecodecs.jpeg8_encode(flat, lossless=True, bitspersample=8), flat)


def test_less_than_a_byte_of_ones_fills_up_the_last_one() -> None:
    """T.81 F.1.2.3, over pictures that end at all places of a byte."""
    random = np.random.default_rng(3)
    for _ in range(40):
        data = imagecodecs.jpeg8_encode(random.integers(0, 256, (8, 8), dtype=np.uint8), level=50)
        pixels = imagecodecs.jpeg8_decode(data)
        assert is_whole(data, pixels)
        assert not is_whole(data[:-2] + b"\xff\0" + data[-2:], pixels)


@pytest.mark.parametrize(("last", "whole"), [("001", True), ("11001", False), ("111001", False)])
def test_a_run_of_zeros_that_leaves_the_block_is_damage(last: str, whole: bool) -> None:
    """T.81 F.1.2.2 and table K.5: 62 coefficients of one bit without a zero before them, then one after 0, 1 or 2."""
    parts, _ = segments(imagecodecs.jpeg8_encode(noisy(8)[:8, :8]))
    bits = "00" + 62 * "001" + last
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = joined(parts, data + b"\xff\xd9")
    assert is_whole(frame, imagecodecs.jpeg8_decode(frame)) == follow(frame) == whole


@pytest.mark.parametrize("name", ["restarts", "restarts in colour", "a restart at each block"])
def test_a_restart_interval_that_is_missing_empty_or_too_many_is_damage(name: str) -> None:
    data = picture(noisy(8)[:40, :40], restart_marker_blocks=1) if name not in SOUND else SOUND[name]
    pixels = imagecodecs.jpeg8_decode(data)
    assert is_whole(data, pixels)
    parts, scan = segments(data)
    intervals = re.split(rb"(?<=\xff[\xd0-\xd7])", scan)
    for wrong in (intervals[1:], [*intervals[:3], *intervals], [b"\xff\xd0", *intervals[1:]]):
        assert not is_whole(joined(parts, b"".join(wrong)), pixels)


@pytest.mark.parametrize("name", ["baseline 75", "lossless 12 by 1"])
def test_segments_that_do_not_hold_what_they_announce_are_damage(name: str) -> None:
    parts, scan = segments(SOUND[name])
    pixels = imagecodecs.jpeg8_decode(SOUND[name])
    short = [(marker, part[:-3] if marker == 0xC4 else part) for marker, part in parts]
    assert not is_whole(joined(short, scan), pixels)
    assert not is_whole(SOUND[name][:40], pixels)
    assert not is_whole(SOUND[name][:2] + b"\0" + SOUND[name][2:], pixels)


def test_of_codes_that_are_taken_for_granted_nothing_is_known() -> None:
    """An abbreviated format (T.81 B.5) has its tables elsewhere."""
    parts, scan = segments(SOUND["baseline 75"])
    pixels = imagecodecs.jpeg8_decode(SOUND["baseline 75"])
    assert is_whole(joined([(marker, part) for marker, part in parts if marker != 0xC4], scan[:99] + scan[-2:]), pixels)


def follow(data: bytes) -> bool:
    """Decode lengths code by code (T.81 F.2.2, H.2): true if they end where the data ends."""
    codes, position = {}, 2
    while data[position + 1] != 0xDA:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker == 0xC4:
            while segment:
                number, at, code = segment[0], 17, 0
                for bits, count in enumerate(segment[1:17], 1):
                    for _ in range(count):
                        codes[number, f"{code:0{bits}b}"] = segment[at]
                        at, code = at + 1, code + 1
                    code *= 2
                segment = segment[at:]
        elif marker in (0xC0, 0xC1, 0xC3):
            lossless = marker == 0xC3
            rows, columns = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
        position += 2 + length
    body = data[position + 2 + int.from_bytes(data[position + 2 : position + 4], "big") : -2]
    if any(body[i] == 0xFF and body[i + 1 : i + 2] != b"\0" for i in range(len(body))):
        return False
    bits = "".join(f"{byte:08b}" for byte in body.replace(b"\xff\0", b"\xff"))
    at = 0

    def symbol(number: int) -> int | None:
        nonlocal at
        for size in range(1, 17):
            if (number, bits[at : at + size]) in codes and len(bits[at : at + size]) == size:
                at += size
                return codes[number, bits[at - size : at]]
        return None

    for _ in range(rows * columns if lossless else -(-rows // 8) * -(-columns // 8)):
        size = symbol(0)
        if size is None or (size > 15 and not lossless):
            return False
        at += size % 16
        place = 64 if lossless else 1
        while place < 64:
            pair = symbol(16)
            if pair is None:
                return False
            zeros, size = divmod(pair, 16)
            at += size
            place = 64 if size == 0 and zeros < 15 else place + zeros + 1
        if place > 64:
            return False
    return len(bits) - at >= 0 and set(bits[at:]) <= {"1"} and len(bits) - at < 8


def test_a_damaged_film_is_refused(tmp_path: Path) -> None:
    for syntax, name, bits in (
        (codes.JPEG_BASELINE, "baseline 98", 8),
        (codes.JPEG_EXTENDED, "extended", 12),
        (codes.JPEG_LOSSLESS_SV1, "lossless 12 by 1", 12),
    ):
        data = bytearray(SOUND[name])
        ds = dx(noisy(bits).astype(np.int32), BitsAllocated=8 if bits == 8 else 16, BitsStored=bits)
        read_radiograph(save(compressed(ds, syntax, bytes(data)), tmp_path / "film.dcm"))
        half = bytes(data[: len(data) // 2]).rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(CorruptFile, match="damaged"):
            read_radiograph(save(compressed(ds, syntax, half), tmp_path / "film.dcm"))
