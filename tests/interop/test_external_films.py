"""A run over real and broken files: every file accounted for, every object as valid as its source."""

from __future__ import annotations

import collections
import hashlib

import pydicom
import pytest

from tests.dicom.judges import dciodvfy
from tests.inference.standins import rows
from tests.inference.test_scored_run import engine

pytestmark = pytest.mark.interop


@pytest.mark.filterwarnings("ignore")
def test_real_folder(external_films, tool, tmp_path):
    folder = external_films / "dicom"
    job = engine(folder, tmp_path / "out", objects=["sc", "overlay", "sr"], num_workers=2)
    job.run()
    assert job.exit_code == 8
    result = rows(folder, tmp_path / "out")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert set(result) == {str(path.relative_to(folder)) for path in files}
    digests = collections.Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    assert collections.Counter(row["input_sha256"] for row in result.values()) == digests
    reasons = collections.Counter(row["reason"] for row in result.values())
    assert not set(reasons) & {"internal", "crashed", "timeout", "out_of_memory"}
    assert reasons[None] >= 20
    for name, row in result.items():
        inherited = set(dciodvfy(tool("dciodvfy"), folder / name)) if row["outputs"] else set()
        for output in row["outputs"]:
            path = tmp_path / "out" / output["path"]
            assert set(dciodvfy(tool("dciodvfy"), path)) <= inherited, name
            ds, source = pydicom.dcmread(path), pydicom.dcmread(folder / name, force=True, stop_before_pixels=True)
            assert (ds.get("PatientID") or "", ds.StudyInstanceUID) == (
                source.get("PatientID") or "",
                source.StudyInstanceUID,
            )
            assert ds.SOPInstanceUID != source.SOPInstanceUID
