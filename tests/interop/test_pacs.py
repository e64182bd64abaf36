"""A real Orthanc server in a network of its own: films in, results back, everything found again, nothing twice."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pydicom
import pytest
import torch

from tests.inference.standins import write_film

pytestmark = pytest.mark.interop
EXAMPLE = Path(__file__).parents[2] / "examples" / "pacs"
HTTP, DICOM, COUNT = 18042, 14242, 3
URL = f"http://127.0.0.1:{HTTP}"
_CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="module")
def own_network(tool):
    """A network namespace with nothing but a loopback, for this thread and the processes that it starts."""
    ip, libc = tool("ip"), ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as outside:
        if libc.unshare(_CLONE_NEWNET):
            message = f"no network namespace: {os.strerror(ctypes.get_errno())}"
            pytest.fail(message) if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1" else pytest.skip(message)
        subprocess.run([ip, "link", "set", "lo", "up"], check=True)
        yield
        libc.setns(outside.fileno(), _CLONE_NEWNET)


@pytest.fixture(scope="module")
def orthanc(own_network, tool, tmp_path_factory):
    """The server of the example, its storage and ports apart."""
    folder = tmp_path_factory.mktemp("orthanc")
    settings = json.loads((EXAMPLE / "orthanc.json").read_text())
    settings |= {"HttpPort": HTTP, "DicomPort": DICOM}
    settings |= dict.fromkeys(("StorageDirectory", "IndexDirectory"), str(folder / "storage"))
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([tool("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log)
    for _ in range(600):
        try:
            http("/system")
            break
        except OSError:
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
    yield folder
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def routed(orthanc, tool, tmp_path_factory):
    """Films sent by C-STORE and routed once; the spool."""
    from monai_cxr_vae.model import RadiographVAE, save_model

    spool, films = orthanc / "spool", orthanc / "films"
    for i in range(COUNT):
        variant = ("dx_mono2_12", "cr_mono1", "japanese")[i]
        write_film(films / f"{i}.dcm", i, variant=variant, PatientID=f"P{i}")
    torch.manual_seed(0)
    save_model(RadiographVAE(image_size=32, channels=(8, 8), latent_size=8), orthanc / "model.pt")
    subprocess.run([tool("storescu"), "-aec", "ORTHANC", "127.0.0.1", str(DICOM), "+sd", str(films)], check=True)
    said = route(orthanc)
    assert f"{COUNT} films came, {COUNT} results delivered" in said
    return spool


def http(path, accept="*/*"):
    with urllib.request.urlopen(urllib.request.Request(URL + path, headers={"Accept": accept}), timeout=30) as answer:
        return answer.read()


def route(folder):
    reconstruct = [sys.executable, "-m", "monai_cxr_vae", "reconstruct", "--weights", str(folder / "model.pt")]
    command = [sys.executable, str(EXAMPLE / "route.py"), str(folder / "spool"), "--orthanc", URL, "--once", "--"]
    return subprocess.run([*command, *reconstruct], capture_output=True, text=True, check=True).stdout


def results(spool):
    objects = [pydicom.dcmread(path) for path in (spool / "out").rglob("*.dcm")]
    assert len(objects) == COUNT
    return objects


def test_server_holds_films_and_results(routed):
    assert json.loads(http("/statistics"))["CountInstances"] == 2 * COUNT
    assert json.loads(http("/statistics"))["CountStudies"] == COUNT


def test_results_are_found_and_fetched_by_dimse(routed, tool, tmp_path):
    for ds in results(routed):
        keys = [f"StudyInstanceUID={ds.StudyInstanceUID}", "SeriesInstanceUID=", "SeriesDescription=", "Modality=OT"]
        query = [word for key in ("QueryRetrieveLevel=SERIES", *keys) for word in ("-k", key)]
        peer = ["-aec", "ORTHANC", "127.0.0.1", str(DICOM)]
        found = subprocess.run([tool("findscu"), "-S", *query, *peer], capture_output=True, text=True, check=True)
        assert ds.SeriesInstanceUID in found.stdout + found.stderr
        assert "not for diagnosis" in found.stdout + found.stderr
        target = tmp_path / ds.SOPInstanceUID
        target.mkdir()
        keys = [f"{level}InstanceUID={ds[level + 'InstanceUID'].value}" for level in ("Study", "Series", "SOP")]
        query = [word for key in ("QueryRetrieveLevel=IMAGE", *keys) for word in ("-k", key)]
        subprocess.run([tool("getscu"), "-S", *query, "-od", str(target), *peer], check=True, capture_output=True)
        (fetched,) = target.iterdir()
        assert pydicom.dcmread(fetched) == ds


def test_results_are_found_and_fetched_by_dicomweb(routed):
    for ds in results(routed):
        series = f"/dicom-web/studies/{ds.StudyInstanceUID}/series"
        assert len(json.loads(http(series, "application/dicom+json"))) == 2  # the film's and the result's
        instance = f"{series}/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        answer = http(instance, 'multipart/related; type="application/dicom"')
        assert ds.PixelData in answer
        assert http(f"{instance}/rendered", "image/jpeg").startswith(b"\xff\xd8")
        (identity,) = json.loads(http_post("/tools/lookup", ds.SOPInstanceUID))
        assert http(f"/instances/{identity['ID']}/preview").startswith(b"\x89PNG")


def test_result_belongs_to_the_right_patient(routed):
    for ds in results(routed):
        source = int(ds.SourceImageSequence[0].ReferencedSOPInstanceUID.rsplit(".", 1)[1]) - 1
        assert ds.PatientID == f"P{source}"
        study = json.loads(http(f"/dicom-web/studies?StudyInstanceUID={ds.StudyInstanceUID}", "application/dicom+json"))
        assert study[0]["00100020"]["Value"] == [f"P{source}"]


def test_second_round_stores_nothing_new(routed, orthanc, tool):
    """Even after a script that was killed before it could note what it had delivered."""
    (routed / "delivered").unlink()
    assert f"0 films came, {COUNT} results delivered" in route(orthanc)
    peer = ["-aec", "ORTHANC", "127.0.0.1", str(DICOM)]
    subprocess.run([tool("storescu"), *peer, "+sd", "+r", "+sp", "*.dcm", str(routed / "out")], check=True)
    assert json.loads(http("/statistics"))["CountInstances"] == 2 * COUNT


def test_spool_names_no_patient(routed):
    names = " ".join(str(path.relative_to(routed)) for path in routed.rglob("*"))
    assert not re.search(r"P\d|ller|Yamada", names)


def http_post(path, body):
    with urllib.request.urlopen(urllib.request.Request(URL + path, body.encode()), timeout=30) as answer:
        return answer.read()
