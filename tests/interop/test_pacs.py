"""Orthanc as the archive on both sides of a node: films in, results back, everything found again, nothing twice."""

from __future__ import annotations

import io
import json
import re
import subprocess

import pydicom
import pytest

from monai_cxr_vae.service.outbox import StorageSCP
from monai_cxr_vae.service.receiver import Peer
from tests.inference.standins import write_film
from tests.inference.test_scored_run import engine as scored_run
from tests.interop.servers import ask
from tests.service.peers import HERE, node, until

pytestmark = pytest.mark.interop
COUNT = 3


@pytest.fixture(scope="module")
def spool(orthanc, tool):
    """The spool of a node beside the archive: films sent to the archive by C-STORE, results come back into it."""
    films, spool = orthanc.folder / "films", orthanc.folder / "spool"
    for i in range(COUNT):
        variant = ("dx_mono2_12", "cr_mono1", "japanese")[i]
        write_film(films / f"{i}.dcm", i, variant=variant, PatientID=f"P{i}")
    archive = StorageSCP("CXRVAE", "ORTHANC", HERE, orthanc.dicom_port)
    with node(spool, [archive], peers=(Peer("ORTHANC", HERE),), port=11112):
        subprocess.run([tool("storescu"), *peer(orthanc), "+sd", str(films)], check=True)
        until(lambda: ask(f"{orthanc.url}/statistics").json()["CountInstances"] == 2 * COUNT)
        yield spool


def peer(orthanc):
    return ["-aec", "ORTHANC", "127.0.0.1", str(orthanc.dicom_port)]


def results(spool):
    objects = [pydicom.dcmread(path) for path in (spool / "results").rglob("*.dcm")]
    assert len(objects) == COUNT
    return objects


def test_only_this_computer_is_listened_to(orthanc, tool):
    listening = subprocess.run([tool("ss"), "-Hltn"], capture_output=True, text=True, check=True).stdout
    addresses = {line.split()[3] for line in listening.splitlines()}
    assert addresses == {f"127.0.0.1:{orthanc.dicom_port}", orthanc.url.removeprefix("http://")}


@pytest.mark.parametrize(
    ("program", "name"),
    [("storescu", "FINDSCU"), ("findscu", "STORESCU"), ("getscu", "STORESCU")]
    + [(program, "ANYBODY") for program in ("echoscu", "storescu", "findscu", "getscu")],
)
def test_only_known_peers_are_answered(spool, orthanc, tool, tmp_path, program, name):
    """And they for nothing but their own kind of request, which other tests make."""
    before = ask(f"{orthanc.url}/statistics").json()
    write_film(tmp_path / "film.dcm", 99)
    stored = pydicom.dcmread(next((orthanc.folder / "films").iterdir()))
    query = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={stored.StudyInstanceUID}"]
    options = {"findscu": query, "getscu": [*query, "-od", str(tmp_path)]}.get(program, [])
    films = [str(tmp_path / "film.dcm")] if program == "storescu" else []
    command = [tool(program), "-aet", name, *options, *peer(orthanc), *films]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert ("Association Rejected" in said) == (name == "ANYBODY")
    assert "Pending" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["film.dcm"]
    assert ask(f"{orthanc.url}/statistics").json() == before


@pytest.mark.parametrize("path", ["/patients", "/dicom-web/studies"])
def test_web_pages_of_other_sites_are_refused(spool, orthanc, path):
    """Whether they name themselves or come under a name that points to this computer."""
    for header in ({"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}, {"Origin": "null"}):
        assert ask(orthanc.url + path, headers=header).status == 403
    assert ask(orthanc.url + path, headers={"Origin": orthanc.url}).status == 200


def test_server_holds_films_and_results(spool, orthanc):
    statistics = ask(f"{orthanc.url}/statistics").json()
    assert statistics["CountInstances"] == 2 * COUNT
    assert statistics["CountStudies"] == COUNT


def test_results_are_found_and_fetched_by_dimse(spool, orthanc, tool, tmp_path):
    for ds in results(spool):
        keys = [f"StudyInstanceUID={ds.StudyInstanceUID}", "SeriesInstanceUID=", "SeriesDescription=", "Modality=OT"]
        query = [word for key in ("QueryRetrieveLevel=SERIES", *keys) for word in ("-k", key)]
        command = [tool("findscu"), "-S", *query, *peer(orthanc)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ds.SeriesInstanceUID in found.stdout + found.stderr
        assert "Research AI: reconstruction" in found.stdout + found.stderr
        target = tmp_path / ds.SOPInstanceUID
        target.mkdir()
        keys = [f"{level}InstanceUID={ds[level + 'InstanceUID'].value}" for level in ("Study", "Series", "SOP")]
        query = [word for key in ("QueryRetrieveLevel=IMAGE", *keys) for word in ("-k", key)]
        subprocess.run(
            [tool("getscu"), "-S", *query, "-od", str(target), *peer(orthanc)], check=True, capture_output=True
        )
        (fetched,) = target.iterdir()
        assert pydicom.dcmread(fetched) == ds


def test_results_are_found_and_fetched_by_dicomweb(spool, orthanc):
    for ds in results(spool):
        series = f"{orthanc.url}/dicom-web/studies/{ds.StudyInstanceUID}/series"
        assert len(ask(series, accept="application/dicom+json").json()) == 2  # the film's and the result's
        instance = f"{series}/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        answer = ask(instance, accept='multipart/related; type="application/dicom"')
        assert ds.PixelData in answer.body
        assert ask(f"{instance}/rendered", accept="image/jpeg").body.startswith(b"\xff\xd8")
        (identity,) = ask(f"{orthanc.url}/tools/lookup", ds.SOPInstanceUID.encode()).json()
        assert ask(f"{orthanc.url}/instances/{identity['ID']}/preview").body.startswith(b"\x89PNG")


def test_result_belongs_to_the_right_patient(spool, orthanc):
    for ds in results(spool):
        source = int(ds.SourceImageSequence[0].ReferencedSOPInstanceUID.rsplit(".", 1)[1]) - 1
        assert ds.PatientID == f"P{source}"
        query = f"{orthanc.url}/dicom-web/studies?StudyInstanceUID={ds.StudyInstanceUID}"
        study = ask(query, accept="application/dicom+json").json()
        assert study[0]["00100020"]["Value"] == [f"P{source}"]


def test_second_round_stores_nothing_new(spool, orthanc, tool):
    """Neither films that come again, nor results that a killed node could not note as delivered."""
    (node,) = [each for each in ask(f"{orthanc.url}/modalities").json() if each == "node"]
    for instance in ask(f"{orthanc.url}/instances").json():
        modality = ask(f"{orthanc.url}/instances/{instance}/content/0008-0060").body.decode().strip()
        if modality in ("CR", "DX"):
            assert ask(f"{orthanc.url}/modalities/{node}/store", instance.encode()).status == 200
    storescu = [tool("storescu"), *peer(orthanc), "+sd", "+r", "+sp", "*.dcm", str(spool / "results")]
    subprocess.run(storescu, check=True)
    assert json.loads((spool / "status.json").read_text())["received"] == COUNT
    assert ask(f"{orthanc.url}/statistics").json()["CountInstances"] == 2 * COUNT


def test_spool_names_no_patient(spool):
    names = " ".join(str(path.relative_to(spool)) for path in spool.rglob("*"))
    assert not re.search(r"P\d|ller|Yamada", names)


def test_overlays_and_reports_come_back_as_they_were(orthanc, tool, tmp_path):
    for i, variant in enumerate(("cr_mono1", "japanese")):
        write_film(tmp_path / "films" / str(i), 40 + i, variant=variant)
    scored_run(tmp_path / "films", tmp_path / "out").run()
    subprocess.run([tool("storescu"), *peer(orthanc), "+sd", "+r", "+sp", "*.dcm", str(tmp_path / "out")], check=True)
    sent = [pydicom.dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    assert sorted(ds.Modality for ds in sent) == ["OT", "OT", "SR", "SR"]
    for ds in sent:
        (identity,) = ask(f"{orthanc.url}/tools/lookup", ds.SOPInstanceUID.encode()).json()
        assert pydicom.dcmread(io.BytesIO(ask(f"{orthanc.url}/instances/{identity['ID']}/file").body)) == ds
        series = f"{orthanc.url}/dicom-web/studies/{ds.StudyInstanceUID}/series?Modality={ds.Modality}"
        (found,) = ask(series, accept="application/dicom+json").json()
        assert found["0020000E"]["Value"] == [ds.SeriesInstanceUID]
