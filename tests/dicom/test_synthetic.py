"""Drawn films as DICOM: what dciodvfy, dcmtk and pydicom find in them."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from monai_cxr_vae.dicom.objects import Provenance, is_own_output
from monai_cxr_vae.dicom.synthetic import synthetic_film
from tests.dicom.judges import dciodvfy, dcm2pnm

PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2")


@pytest.fixture
def film() -> np.ndarray:
    return np.linspace(0, 1, 256 * 256, dtype=np.float32).reshape(256, 256)


def test_it_says_that_it_shows_nobody(film: np.ndarray, tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(synthetic_film(film, PROVENANCE))
    ds = pydicom.dcmread(path)
    assert ds[0x0008001C].value == "YES"  # Synthetic Data
    assert ds.PatientID.startswith("SYNTHETIC-")
    assert ds.ConversionType == "SYN"
    assert PROVENANCE.model_sha256 in ds.DerivationDescription
    assert is_own_output(ds)  # a folder run leaves it alone
    assert ds.SeriesDescription.startswith("Research AI: drawn film")
    assert np.abs(ds.pixel_array / 4095 - film).max() <= 0.5 / 4095 + 1e-6


def test_uids_belong_to_the_content(film: np.ndarray):
    same, again = (synthetic_film(film, PROVENANCE) for _ in range(2))
    assert same == again
    other = film.copy()
    other[5, 5] += 0.1
    uids = [
        [ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID]
        for data in (same, synthetic_film(other, PROVENANCE), synthetic_film(film, Provenance("c" * 64, "b" * 64, "1")))
        for ds in [pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))]
    ]
    assert len({uid for film_uids in uids for uid in film_uids}) == 12


def test_what_is_no_film_is_refused():
    for image in (np.zeros((2, 2, 2)), np.full((64, 64), np.nan)):
        with pytest.raises(ValueError, match="finite"):
            synthetic_film(image, PROVENANCE)


@pytest.mark.interop
def test_others_read_it(film: np.ndarray, tmp_path, tool):
    path = tmp_path / "film.dcm"
    path.write_bytes(synthetic_film(film, PROVENANCE))
    assert not dciodvfy(tool("dciodvfy"), path, "SCImage", synthetic=True)
    assert np.abs(dcm2pnm(tool("dcm2pnm"), path, "+Wi", "1") - film).max() < 1 / 2048
