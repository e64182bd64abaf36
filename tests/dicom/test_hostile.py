"""Damaged and malicious files: each is read or refused by name, in bounded memory, without a crash."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import cv2
import imagecodecs
import nibabel
import numpy as np
import pytest

from monai_cxr_vae.dicom.files import open_dataset
from monai_cxr_vae.errors import EmptyFile, FilmError, NotAFile, NotDicom, ReadFailed, TooLarge, TruncatedFile
from monai_cxr_vae.files import MAX_FILE_BYTES
from monai_cxr_vae.radiograph import read_radiograph
from tests.dicom import dx as codes
from tests.dicom.dx import compressed, dx, gradient, lut, save

LIMIT_MB = 2000
REASONS = {"corrupt", "truncated", "unsupported_syntax", "too_large", "bad_geometry", "multiframe", "colour"}
REASONS |= {"no_pixels", "not_dicom", "dicomdir", "out_of_memory", "empty"}


def read_in_a_process(folder: Path) -> dict:
    """Outcome of every file of the folder, from a process limited to LIMIT_MB of address space."""
    worker = Path(__file__).with_name("reader_worker.py")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(worker), str(folder), str(LIMIT_MB)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=550)
    assert result.returncode == 0, f"exit {result.returncode} at {result.stderr[-300:]}"
    return json.loads(result.stdout)


def write_bombs(folder: Path) -> None:
    """Small files that claim or unfold to gigabytes."""
    folder.mkdir()
    native = save(dx(), folder / "plain.dcm").read_bytes()
    tag = native.index(b"\xe0\x7f\x10\x00OW")
    (folder / "length.dcm").write_bytes(native[: tag + 8] + b"\xfe\xff\xff\xff" + native[tag + 12 :])
    save(dx(Rows=None), folder / "no rows.dcm")
    for name, size in (("huge", 65535), ("46341", 46341)):
        ds = dx()
        ds.Rows = ds.Columns = size
        save(ds, folder / f"{name}.dcm")
    deflated = save(dx(), folder / "deflated.dcm", codes.DEFLATED).read_bytes()
    start = deflated.index(codes.DEFLATED.encode()) + 22
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    (folder / "deflated bomb.dcm").write_bytes(deflated[:start] + zeros)

    big = np.zeros((10000, 10000), np.uint8)
    tiny = dx(gradient(8, 8, 8), BitsAllocated=8, BitsStored=8)
    save(compressed(tiny, codes.JPEG_LS, imagecodecs.jpegls_encode(big)), folder / "jpegls bomb.dcm")
    frame = bytearray(imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.uint8), codecformat="j2k", level=0))
    size = frame.index(b"\xff\x51") + 6
    frame[size : size + 8] = struct.pack(">2L", 60000, 60000)
    save(compressed(tiny, codes.J2K_LOSSLESS, bytes(frame)), folder / "j2k bomb.dcm")
    tiny.Rows = tiny.Columns = 60000
    save(tiny, folder / "j2k bomb, header agrees.dcm")

    opening = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (folder / "nested.dcm").write_bytes(native[:tag] + opening * 20000 + closing * 20000 + native[tag:])

    png = bytearray(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    png[16:24] = struct.pack(">2L", 60000, 60000)
    png[29:33] = struct.pack(">L", zlib.crc32(bytes(png[12:29])))
    (folder / "bomb.png").write_bytes(png)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    (folder / "bomb.gz").write_bytes(zeros)
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 1))
    header.set_data_dtype(np.float64)
    header["magic"] = b"n+1"
    (folder / "bomb.nii").write_bytes(header.binaryblock + bytes(64))
    (folder / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock) + zeros)


def test_bombs_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    write_bombs(tmp_path / "bombs")
    report = read_in_a_process(tmp_path / "bombs")
    outcomes = {name: outcome[:2] for name, outcome in report["outcomes"].items()}
    assert outcomes == {
        "plain.dcm": ["read", "dicom"],
        "deflated.dcm": ["read", "dicom"],
        "length.dcm": ["refused", "truncated"],
        "no rows.dcm": ["refused", "corrupt"],
        "huge.dcm": ["refused", "too_large"],
        "46341.dcm": ["refused", "too_large"],
        "deflated bomb.dcm": ["refused", "too_large"],
        "jpegls bomb.dcm": ["refused", "corrupt"],
        "j2k bomb.dcm": ["refused", "corrupt"],
        "j2k bomb, header agrees.dcm": ["refused", "too_large"],
        "nested.dcm": ["refused", "corrupt"],
        "bomb.png": ["refused", "too_large"],
        "bomb.gz": ["refused", "not_dicom"],
        "bomb.nii.gz": ["refused", "too_large"],
        "bomb.nii": ["refused", "too_large"],
    }
    assert report["peak_mb"] < LIMIT_MB


def mutant(data: bytes, random: np.random.Generator) -> bytes:
    """One damaged copy: bits, bytes, lengths, blocks or the end of the file."""
    pixels = data.find(b"\xe0\x7f\x10\x00")
    end = pixels + 12 if pixels > 0 and random.random() < 0.7 else len(data)  # mostly the header
    start = 128 if data[128:132] == b"DICM" else 0
    damaged = bytearray(data)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(start, max(start + 1, min(end, len(damaged)) - 8)))
        match random.integers(0, 8):
            case 0:
                damaged[at] ^= 1 << random.integers(0, 8)
            case 1:
                damaged[at] = random.integers(0, 256)
            case 2:
                damaged[at : at + 2] = struct.pack("<H", random.choice([0, 1, 0x7FFF, 0xFFFF]))
            case 3:
                damaged[at : at + 4] = struct.pack("<L", random.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]))
            case 4:
                del damaged[at : at + int(random.integers(1, 64))]
            case 5:
                damaged[at:at] = random.bytes(int(random.integers(1, 64)))
            case 6:
                damaged[at : at + 8] = damaged[at // 2 : at // 2 + 8]
            case 7:
                del damaged[int(random.integers(at, len(damaged))) :]
    return bytes(damaged)


def seeds(folder: Path) -> list[bytes]:
    """Sound files of every kind, from which mutants are made."""
    folder.mkdir()
    image8, image12 = gradient(bits=8).astype(np.uint8), gradient().astype(np.uint16)
    small = {"BitsAllocated": 8, "BitsStored": 8}
    paths = [
        save(dx(VOILUTSequence=lut(np.arange(4096))), folder / "explicit.dcm"),
        save(dx(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=3), folder / "implicit.dcm", codes.IMPLICIT),
        save(dx(ModalityLUTSequence=lut(np.arange(4096))), folder / "big.dcm", codes.BIG_ENDIAN),
        save(dx(WindowCenter=[1, 2], WindowWidth=[3, 4]), folder / "deflated.dcm", codes.DEFLATED),
    ]
    streams = {
        codes.JPEG_BASELINE: imagecodecs.jpeg8_encode(image8),
        codes.JPEG_LOSSLESS_SV1: imagecodecs.jpeg8_encode(image12, lossless=True, bitspersample=12),
        codes.JPEG_LS: imagecodecs.jpegls_encode(image12),
        codes.J2K_LOSSLESS: imagecodecs.jpeg2k_encode(image12, codecformat="j2k", level=0),
        codes.HTJ2K_LOSSLESS: imagecodecs.htj2k_encode(image12),
    }
    for syntax, frame in streams.items():
        ds = dx(gradient(bits=8), **small) if syntax == codes.JPEG_BASELINE else dx()
        paths.append(save(compressed(ds, syntax, frame), folder / f"{syntax}.dcm"))
    rle = dx(gradient(bits=8), **small)
    runs = b"".join(bytes([99]) + image8.tobytes()[start : start + 100] for start in range(0, 3000, 100))
    paths.append(save(compressed(rle, codes.RLE, struct.pack("<16L", 1, 64, *[0] * 14) + runs), folder / "rle.dcm"))
    for name, image in (("8.png", image8), ("16.png", image12), ("8.jpg", image8)):
        cv2.imwrite(str(folder / name), image)
        paths.append(folder / name)
    for name in ("film.nii", "film.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(image12.T.astype(np.int16), np.diag([-1, -1, 1, 1])), folder / name)
        paths.append(folder / name)
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants_are_read_or_refused(count: int, tmp_path: Path) -> None:
    random = np.random.default_rng(20240229 + count)
    sound = seeds(tmp_path / "seeds")
    for number in range(count):
        (tmp_path / f"{number:05d}").write_bytes(mutant(sound[number % len(sound)], random))
    report = read_in_a_process(tmp_path)
    assert report["peak_mb"] < LIMIT_MB
    assert {outcome[0] for name, outcome in report["outcomes"].items() if "seeds" in name} == {"read"}
    kinds = Counter(outcome[0] for outcome in report["outcomes"].values())
    assert set(kinds) == {"read", "refused"}, kinds
    assert min(kinds.values()) > count // 10, kinds
    for kind, reason, message in report["outcomes"].values():
        if kind == "refused":
            assert reason in REASONS
            assert "ZZPHI" not in message
            assert "\n" not in message


MALFORMED = {
    "DICOMDIR": "dicomdir",
    "empty.dcm": "empty",
    "test1.dcm": "not_dicom",
    "no_meta.dcm": "not_dicom",
    "2026-05-26-oob-monochrome-46341.dcm": "too_large",
    "chest_cut_midfile.dcm": "truncated",
    "MR_truncated.dcm": "truncated",
    "canon_dx_broken_j2k.dcm": "corrupt",
    "dwv-test_no-number-rows.dcm": "corrupt",
    "MultiframeWindowing.dcm": "multiframe",
    "chrJapMulti.dcm": "no_pixels",
    "reportsi.dcm": "no_pixels",
}
# a signed codestream with negative values under an unsigned header
CONTRADICTORY = {"TOSHIBA_J2K_SIZ1_PixRep0.dcm": "corrupt"}
DERIVED = {"canon12_no_photometric.dcm": "corrupt", "canon12_truncated_pixels.dcm": "truncated"}


def test_external_dicom_files(external_films: Path) -> None:
    folder = external_films / "dicom"
    if not folder.is_dir():
        pytest.skip("the external films hold no DICOM")
    report = read_in_a_process(folder)
    assert report["peak_mb"] < LIMIT_MB
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(report["outcomes"]) - 1  # the list itself is there too
    for row in rows:
        kind, reason, _ = report["outcomes"][row["file"]]
        place, name = row["file"].split("/")
        expected = MALFORMED.get(name) or DERIVED.get(name) or CONTRADICTORY.get(name)
        if place != "malformed" and expected is None:
            expected = expected_from(row)
        assert kind == ("refused" if expected or place == "malformed" else "read"), row["file"]
        if expected:
            assert reason == expected, row["file"]


def expected_from(row: dict[str, str]) -> str | None:
    """Why a sound file is refused, by what the list of files says about it."""
    if row["frames"].isdigit() and int(row["frames"]) > 1:
        return "multiframe"
    if row["file"].endswith("GH1146.dcm") or ("no pixel data" in row["decodes"] and row["bits_allocated"] != "64"):
        return "no_pixels"
    if not row["photometric"].startswith("MONOCHROME"):
        return "colour"
    if row["frames"] and not row["frames"].isdigit():
        return "corrupt"
    return None if row["bits_allocated"] in ("8", "16") else "unsupported_syntax"


# What is not a film at all


def test_files_that_are_no_films(tmp_path: Path) -> None:
    def written(data: bytes) -> Path:
        (tmp_path / "file").write_bytes(data)
        return tmp_path / "file"

    with pytest.raises(NotAFile):
        read_radiograph(tmp_path)
    with pytest.raises(ReadFailed):
        read_radiograph(tmp_path / "nowhere")
    with pytest.raises(EmptyFile):
        read_radiograph(written(b""))
    for data in (b"x", b"<html>" * 50, bytes(2000), gzip.compress(b"text" * 99), b"%PDF-1.7" + bytes(500)):
        with pytest.raises(NotDicom):
            read_radiograph(written(data))
    with (tmp_path / "file").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TooLarge):
        read_radiograph(tmp_path / "file")


@pytest.mark.parametrize("syntax", [codes.EXPLICIT, codes.IMPLICIT])
def test_without_preamble(syntax: str, tmp_path: Path) -> None:
    whole = save(dx(), tmp_path / "whole.dcm", syntax)
    data = whole.read_bytes()
    bare = data[data.index(b"\x08\0\x16\0") :]  # from SOP Class UID on
    (tmp_path / "bare").write_bytes(bare)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "bare").pixels, read_radiograph(whole).pixels)
    (tmp_path / "bare").write_bytes(data[132:])
    np.testing.assert_array_equal(read_radiograph(tmp_path / "bare").pixels, read_radiograph(whole).pixels)


def test_a_header_alone(tmp_path: Path) -> None:
    path = save(dx(), tmp_path / "film.dcm")
    header = open_dataset(path, pixels=False)
    assert header.Modality == "DX"
    assert "PixelData" not in header
    assert "PixelData" in open_dataset(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x28\0\x10\0") + 3])
    assert open_dataset(path, pixels=False).Modality == "DX"
    with pytest.raises(TruncatedFile):
        open_dataset(path)


def test_nothing_of_the_file_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    data = save(dx(), tmp_path / "film.dcm").read_bytes()
    for old, new in ((b"2.25.12\0", b"ZZPHI/12"), (b"4096", b"ZZ^!"), (b"CHEST ", b"chest\\"), (b"\0\0OW", b"\0\0QQ")):
        (tmp_path / "film.dcm").write_bytes(data.replace(old, new))
        with contextlib.suppress(FilmError):
            read_radiograph(tmp_path / "film.dcm")
    said = "".join(capfd.readouterr()) + caplog.text + "".join(str(warning.message) for warning in recwarn)
    assert "ZZ" not in said
    assert str(tmp_path) not in said
