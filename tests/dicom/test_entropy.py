"""Damage in JPEG data: what a plain decoder of the codes, bit by bit, can tell is told."""

from __future__ import annotations

import io
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
    for share in (0.5, 0.7, 0.9, 0.99):
        cut = data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9"
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
