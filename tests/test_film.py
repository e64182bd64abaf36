"""What a file is, is told by its bytes, the same from a path and from what was read of it."""

from __future__ import annotations

import gzip
import hashlib
import io

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_cxr_vae.errors import CorruptFile, NotDicom
from monai_cxr_vae.film import header_of, kind_of, look_at, read_film
from tests.inference.standins import write_film


def picture(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


NIFTI = nibabel.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)).to_bytes()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (picture("PNG"), "png"),
        (picture("JPEG"), "jpeg"),
        (NIFTI, "nifti"),
        (gzip.compress(NIFTI, mtime=0), "nifti"),
        (b"\xff\xd8\xff".ljust(128, b"\0") + b"DICM", "dicom"),
        (b"\x89PNG\r\n\x1a\n".ljust(128, b"\0") + b"DICM", "dicom"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "dicom"),
    ],
)
def test_kind(data, kind):
    assert kind_of(data) == kind


@pytest.mark.parametrize("data", [b"", b"notes", b"GIF89a", gzip.compress(b"notes", mtime=0), b"PK\x03\x04"])
def test_what_is_no_film(data):
    with pytest.raises(NotDicom):
        kind_of(data)


def test_a_damaged_packed_file_is_damaged():
    with pytest.raises(CorruptFile):
        kind_of(b"\x1f\x8b" + bytes(50))


@pytest.mark.parametrize("changes", [{}, {"Modality": "CT"}, {"SOPInstanceUID": "x"}, {"ViewPosition": "LL"}])
def test_a_path_and_its_bytes_say_the_same(tmp_path, changes):
    path = write_film(tmp_path / "film", 1, **changes)
    film = read_film(path)
    looked = look_at(path, digest=True)
    assert looked == header_of(film)
    assert looked["input_sha256"] == film.sha256
    assert looked["identity"] == list(film.identity)


def test_a_header_tells_that_there_are_no_pixels(tmp_path):
    path = write_film(tmp_path / "film", 1)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xe0\x7f\x10\x00")])
    assert (look_at(path)["status"], look_at(path)["reason"]) == ("skipped", "no_pixels")


def test_a_header_tells_that_the_transfer_syntax_is_not_read(tmp_path):
    path = write_film(tmp_path / "film", 1)
    known, other = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"
    assert path.read_bytes().count(known) == 1
    path.write_bytes(path.read_bytes().replace(known, other))
    assert (look_at(path)["status"], look_at(path)["reason"]) == ("failed", "unsupported_syntax")


@pytest.mark.parametrize("data", [b"", b"notes", b"\x1f\x8b" + bytes(50)])
def test_what_is_refused_has_its_digest(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    header = look_at(tmp_path / "f")
    assert header["status"]
    assert header["input_sha256"] == hashlib.sha256(data).hexdigest()


def test_patient_is_told_only_where_it_is_asked_for(tmp_path):
    path = write_film(tmp_path / "film", 1, PatientID="ZZID")
    assert look_at(path, patient=True)["patient"] == "ZZID"
    assert "ZZID" not in str(look_at(path))
