"""A node among real peers: the tools of dcmtk, Orthanc with users, TLS by openssl; and the command as a service."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
import torch
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass

from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.service import outbox
from monai_cxr_vae.service.outbox import StorageSCP, StowService
from monai_cxr_vae.service.receiver import MAX_ASSOCIATIONS
from monai_cxr_vae.service.tls import Certificates
from tests.inference.standins import write_film
from tests.interop.conftest import orthanc_server
from tests.interop.servers import ask
from tests.service.peers import HERE, Web, node, send, until

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("own_network")]
PORT, HEALTH, ARCHIVE = 11112, 11113, 11104
UNTIL_TAKEN = f"""
for film; do until "$0" -aet SENDER -aec CXRVAE {HERE} {PORT} "$film"; do sleep 0.2; done; done
"""


def films(folder: Path, count: int, start: int = 0) -> list[Path]:
    return [write_film(folder / f"{i}.dcm", i, PatientID=f"P{i}") for i in range(start, start + count)]


def number(ds: pydicom.Dataset) -> int:
    """Of the film that a result was made of."""
    return int(ds.SourceImageSequence[0].ReferencedSOPInstanceUID.rsplit(".", 1)[1]) - 1


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HERE, port), 1):
        return True
    return False


@contextlib.contextmanager
def storescp(tool, folder: Path, *options: str, port: int = ARCHIVE) -> Iterator[subprocess.Popen]:
    folder.mkdir(exist_ok=True)
    command = [tool("storescp"), "-aet", "ARCHIVE", "-od", str(folder), *options, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: answers(port))
            yield process
        finally:
            process.kill()


def stored(folder: Path) -> list[pydicom.Dataset]:
    """What storescp has received; a file that it is still at does not count yet."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(Exception):
            ds = pydicom.dcmread(path)
            ds.PixelData  # noqa: B018
            found.append(ds)
    return found


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=check)


def test_compressed_films_come_as_they_are_and_results_arrive(tool, tmp_path):
    """Sent as a modality would; storescu stops at the first compressed film unless it is told not to."""
    sent = films(tmp_path / "films", 5)
    tools = (("dcmcjpeg", "+e1"), ("dcmcjpeg", "+eb", "+un"), ("dcmcjpls",), ("dcmcrle",))
    for path, (program, *options) in zip(sent, tools, strict=False):
        if "+eb" in options:  # eight bits
            ds = pydicom.dcmread(path)
            ds.PixelData = (ds.pixel_array >> 4).astype("uint8").tobytes()
            ds.BitsStored, ds.HighBit, ds.BitsAllocated = 8, 7, 8
            ds.WindowCenter, ds.WindowWidth = 128, 256
            ds.save_as(path)
        run(tool(program), *options, str(path), str(path))
    syntaxes = {str(pydicom.dcmread(path).file_meta.TransferSyntaxUID) for path in sent}
    assert len(syntaxes) == 5
    there = tmp_path / "archive"
    with storescp(tool, there), node(tmp_path / "spool", [StorageSCP("CXRVAE", "ARCHIVE", HERE, ARCHIVE)]) as made:
        target = [HERE, str(made.receiver.port)]
        names = ["-aet", "SENDER", "-aec", "CXRVAE"]
        run(
            tool("dcmsend"),
            "--no-halt",
            "--decompress-never",
            *names,
            *target,
            "--scan-directories",
            str(tmp_path / "films"),
        )
        until(lambda: len(stored(there)) == 5)
        kept = [pydicom.dcmread(film) for film in (tmp_path / "spool" / "films").iterdir()]
        assert {str(ds.file_meta.TransferSyntaxUID) for ds in kept} == syntaxes
        assert sorted(map(number, stored(there))) == list(range(5))
        for ds in stored(there):
            assert ds.PatientID == f"P{number(ds)}"
            result = next((tmp_path / "spool" / "results").rglob(f"{ds.SOPInstanceUID}.dcm"))
            assert pydicom.dcmread(result) == ds
        run(tool("echoscu"), *names, *target)
        assert run(tool("echoscu"), "-aet", "NOBODY", *names[2:], *target, check=False).returncode
        assert run(tool("echoscu"), *names[:2], "-aec", "OTHER", *target, check=False).returncode


def test_an_archive_that_goes_away_and_comes_back(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "pause", lambda tries: 0.2)
    there = tmp_path / "archive"
    with node(tmp_path / "spool", [StorageSCP("CXRVAE", "ARCHIVE", HERE, ARCHIVE)]) as made:
        for start in (0, 2, 4):
            assert send(made.receiver.port, *films(tmp_path / "films", 2, start)) == [0, 0]
            until(lambda: made.status()["destinations"]["ARCHIVE@127.0.0.1:11104"]["last_error"])
            with storescp(tool, there):
                until(lambda count=start + 2: len(stored(there)) == count)
        assert sorted(map(number, stored(there))) == list(range(6))


@pytest.fixture(scope="module")
def guarded(own_network, tool, tmp_path_factory):
    """Orthanc that wants to know who asks."""
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"node": "word"}, "LuaScripts": []}
    with orthanc_server(tool, tmp_path_factory.mktemp("guarded"), 18043, 14243, **users) as server:
        yield server


def test_an_archive_with_users(guarded, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "pause", lambda tries: 0.2)
    file = tmp_path / "credentials"
    file.write_text("machine 127.0.0.1 login node password wrong")
    file.chmod(0o600)
    url = f"{guarded.url}/dicom-web"
    with node(tmp_path / "spool", [StowService(url, file)]) as made:
        assert send(made.receiver.port, *films(tmp_path / "films", 3)) == [0] * 3
        until(lambda: (made.status()["destinations"][url]["last_error"] or {}).get("text") == "HTTP 401")
        file.write_text("machine 127.0.0.1 login node password word")
        until(lambda: made.status()["destinations"][url]["delivered"] == 3)
        results = [pydicom.dcmread(path) for path in made.spool.results.rglob("*.dcm")]
    client = DICOMwebClient(url, session=create_session_from_user_pass("node", "word"))
    for result in results:
        uids = (result.StudyInstanceUID, result.SeriesInstanceUID, result.SOPInstanceUID)
        assert client.retrieve_instance(*uids) == result
    login = {"Authorization": "Basic " + base64.b64encode(b"node:word").decode()}
    assert ask(f"{guarded.url}/statistics", headers=login).json()["CountInstances"] == 3


def test_what_orthanc_refuses_is_set_aside(guarded, tmp_path):
    """An object that it cannot read, among others; STOW-RS answers for each."""
    file = tmp_path / "credentials"
    file.write_text("machine 127.0.0.1 login node password word")
    file.chmod(0o600)
    url = f"{guarded.url}/dicom-web"
    with node(tmp_path / "spool", []) as made:
        assert send(made.receiver.port, *films(tmp_path / "films", 3, start=50)) == [0] * 3
        until(lambda: made.status()["done"] == 3)
    paths = sorted((tmp_path / "spool" / "results").rglob("*.dcm"))
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    deliveries = [outbox.Delivery(i, path.stem, path, 0, None) for i, path in enumerate(paths)]
    kinds = [outcome.kind for _, outcome in StowService(url, file).send(deliveries)]
    assert kinds[1] != "delivered"
    assert kinds[::2] == ["delivered"] * 2


@dataclass(frozen=True)
class Authority:
    """Makes certificates."""

    folder: Path
    openssl: str

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str) -> tuple[Path, Path]:
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        run(self.openssl, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(request),
            "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")  # fmt: skip
        run(self.openssl, "x509", "-req", "-in", str(request), "-CA", str(self.file), "-days", "2", "-CAkey",
            str(self.folder / "ca.key"), "-out", str(certificate), "-copy_extensions", "copy")  # fmt: skip
        return certificate, key


@pytest.fixture(scope="module")
def authorities(tool, tmp_path_factory):
    """One that is trusted and one that is not."""
    made = []
    for name in ("house", "stranger"):
        folder = tmp_path_factory.mktemp(name)
        run(tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "ca.key"),
            "-out", str(folder / "ca.pem"), "-subj", f"/CN={name}", "-days", "2")  # fmt: skip
        made.append(Authority(folder, tool("openssl")))
    return made


def test_tls_on_both_sides(authorities, tool, tmp_path):
    house, stranger = authorities
    own = Certificates(*house.issue("node"), house.file)
    certificate, key = house.issue("archive")
    options = ["+tls", str(key), str(certificate), "+cf", str(house.file)]
    archive = StorageSCP("CXRVAE", "ARCHIVE", HERE, ARCHIVE, own.client())
    (film,) = films(tmp_path / "films", 1)
    there = tmp_path / "archive"
    with storescp(tool, there, *options), node(tmp_path / "spool", [archive], certificates=own) as made:
        target = ["-aet", "SENDER", "-aec", "CXRVAE", HERE, str(made.receiver.port)]
        certificate, key = stranger.issue("modality")
        trusting = ["+cf", str(house.file)]
        for wrong in ([], ["+tla", *trusting], ["+tls", str(key), str(certificate), *trusting]):
            assert run(tool("storescu"), *wrong, *target, str(film), check=False).returncode, wrong
        with socket.create_connection((HERE, made.receiver.port)):  # one that never says a word
            certificate, key = house.issue("modality")
            run(tool("storescu"), "+tls", str(key), str(certificate), *trusting, *target, str(film))
        assert made.status()["received"] == 1
        until(lambda: len(stored(there)) == 1)


def test_an_archive_whose_certificate_is_not_trusted_gets_nothing(authorities, tool, tmp_path):
    house, stranger = authorities
    certificate, key = stranger.issue("archive")
    archive = StorageSCP("CXRVAE", "ARCHIVE", HERE, ARCHIVE, Certificates(authority=house.file).client())
    there = tmp_path / "archive"
    with storescp(tool, there, "+tls", str(key), str(certificate), "-ic"), node(tmp_path / "spool", [archive]) as made:
        assert send(made.receiver.port, *films(tmp_path / "films", 1)) == [0]
        until(lambda: made.status()["destinations"][archive.name]["last_error"])
        assert made.status()["destinations"][archive.name]["waiting"] == 1
    assert stored(there) == []


def test_stow_over_tls(authorities, tmp_path):
    house, _ = authorities
    certificate, key = house.issue("web")
    web = Web(lambda uid, headers: (200, b""))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(house.file)
    context.verify_mode = ssl.CERT_REQUIRED
    web._server.socket = context.wrap_socket(web._server.socket, server_side=True)
    url = web.url.replace("http://", "https://")
    try:
        with node(tmp_path / "spool", [StowService(url, None, Certificates(*house.issue("node"), house.file))]) as made:
            assert send(made.receiver.port, *films(tmp_path / "films", 1)) == [0]
            until(lambda: made.status()["destinations"][url]["delivered"] == 1)
        delivery = outbox.Delivery(1, "1.2", next(made.spool.results.rglob("*.dcm")), 0, None)
        for wrong in (Certificates(), Certificates(authority=house.file)):  # nobody to trust, nothing to show
            with contextlib.suppress(outbox.Away):
                ((_, outcome),) = StowService(url, None, wrong).send([delivery])
                assert outcome.kind == "postponed"
        assert len(web.asked) == 1
    finally:
        web.stop()


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    """What was acknowledged is whole, what was not leaves nothing, and with room again all goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk), check=False).returncode:
        pytest.skip("only root may mount a small disk")
    monkeypatch.setattr("monai_cxr_vae.service.spool.RESERVE", 0)
    try:
        large = [pydicom.dcmread(film) for film in films(tmp_path / "films", 30)]
        for ds in large:
            ds.Rows = ds.Columns = 200
            ds.PixelData = (ds.PixelData * 14)[: 200 * 200 * 2]
        with node(disk / "spool") as made:
            statuses = send(made.receiver.port, *large)
            taken = statuses.count(0)
            assert set(statuses) == {0, 0xA700}
            kept = [pydicom.dcmread(path) for path in (disk / "spool" / "films").iterdir()]
            assert sorted(number_of(ds) for ds in kept) == [i for i, s in enumerate(statuses) if s == 0]
            assert all(ds.PixelData == large[number_of(ds)].PixelData for ds in kept)
            run("mount", "-o", "remount,size=50m", str(disk))
            assert send(made.receiver.port, *large) == [0] * 30
            until(lambda: made.status()["done"] == 30)
            assert 0 < taken < 30
            assert made.status()["failed"] == {}
    finally:
        run("umount", "-l", str(disk))


def number_of(ds: pydicom.Dataset) -> int:
    return int(ds.SOPInstanceUID.rsplit(".", 1)[1]) - 1


# The command, as a service runs it.


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_model(RadiographVAE(image_size=32, channels=(8, 8), latent_size=8), path)
    return path


@contextlib.contextmanager
def service(spool: Path, weights: Path, *options: str) -> Iterator[subprocess.Popen]:
    """``cxr-vae serve``, ready; its log goes beside the spool."""
    command = [sys.executable, "-m", "monai_cxr_vae", "serve", str(spool), "--weights", str(weights)]
    command += ["--objects", "sc", "--workers", "1", "--peer", f"SENDER@{HERE}", *options]
    with Path(f"{spool}.log").open("a") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            until(lambda: process.poll() is not None or answers(PORT))
            assert process.poll() is None, Path(f"{spool}.log").read_text()[-3000:]
            yield process
        finally:
            process.kill()


def health() -> dict:
    with urllib.request.urlopen(f"http://{HERE}:{HEALTH}/health") as answer:
        return json.load(answer)


def memory(process: subprocess.Popen) -> int:
    """Resident MiB."""
    (line,) = [r for r in Path(f"/proc/{process.pid}/status").read_text().splitlines() if r.startswith("VmRSS")]
    return int(line.split()[1]) >> 10


def test_killed_again_and_again_every_result_arrives_once(tool, tmp_path, weights):
    """Four senders, each trying until its films are taken; the archive is away at first."""
    count, senders = 24, 4
    paths = films(tmp_path / "films", count)
    there = tmp_path / "archive"
    options = ("--send", f"ARCHIVE@{HERE}:{ARCHIVE}")
    with contextlib.ExitStack() as stack:
        sending = []
        for i in range(senders):
            words = ["bash", "-c", UNTIL_TAKEN, tool("storescu"), *map(str, paths[i::senders])]
            sending.append(stack.enter_context(subprocess.Popen(words, stderr=subprocess.DEVNULL)))
            stack.callback(sending[-1].kill)  # they try for ever
        for kill in range(3):
            with service(tmp_path / "spool", weights, *options) as process:
                if kill == 1:
                    stack.enter_context(storescp(tool, there))
                if kill < 2:
                    wanted = (kill + 1) * count // 4
                    until(lambda least=wanted: health()["received"] >= least)
                    process.kill()
                    continue
                for sender in sending:
                    assert sender.wait(600) == 0
                until(lambda: health()["destinations"][f"ARCHIVE@{HERE}:{ARCHIVE}"]["delivered"] == count)
                process.send_signal(signal.SIGTERM)
                assert process.wait(120) == 0
        assert sorted(map(number, stored(there))) == list(range(count))
        assert sorted(ds.PatientID for ds in stored(there)) == sorted(f"P{i}" for i in range(count))


def test_the_command(tool, tmp_path, weights):
    """Two on one spool, what its log and status say, the outbox from outside, SIGTERM."""
    spool = tmp_path / "spool"
    command = [sys.executable, "-m", "monai_cxr_vae"]
    with service(spool, weights, "--send", f"ARCHIVE@{HERE}:{ARCHIVE}") as process:
        second = [
            *command,
            "serve",
            str(spool),
            "--peer",
            "A@127.0.0.1",
            "--send",
            "B@127.0.0.1:104",
            "--port",
            "11200",
        ]
        done = run(*second, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"error: another node is at work in {spool}"
        assert "Traceback" not in done.stderr
        film = write_film(tmp_path / "ZZPATH.dcm", 0, PatientName="ZZNAME^CANARY", PatientID="ZZID77")
        broken = write_film(tmp_path / "broken.dcm", 1, Rows=7, PatientID="ZZID78")
        assert send(PORT, film, broken) == [0, 0]
        until(lambda: health()["done"] + sum(health()["failed"].values()) == 2)
        until(lambda: health()["destinations"][f"ARCHIVE@{HERE}:{ARCHIVE}"]["last_error"])
        listed = run(*command, "outbox", str(spool)).stdout
        assert "status=waiting" in listed
        assert "status=failed" in listed
        assert run(*command, "outbox", str(spool), "--requeue").stdout == "1 are tried again\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    log = Path(f"{spool}.log").read_text()
    events = [line for line in log.splitlines() if "film" in line]
    assert events
    assert all(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S") for line in events)
    told = log + (spool / "status.json").read_text() + listed
    told += " ".join(str(path.relative_to(spool)) for path in spool.rglob("*"))
    assert "ZZ" not in told
    assert not [path for path in spool.rglob("*") if path.stat().st_mode & 0o077]


def test_what_callers_do_does_not_fill_the_memory(tool, tmp_path, weights):
    """An object of 300 MB, two hundred callers at once, and still it works."""
    with service(tmp_path / "spool", weights, "--send", f"ARCHIVE@{HERE}:{ARCHIVE}") as process:
        assert send(PORT, *films(tmp_path / "films", 2)) == [0, 0]
        before = memory(process)
        huge = pydicom.dcmread(write_film(tmp_path / "huge.dcm", 90))
        huge.Rows = huge.Columns = 12250
        huge.PixelData = bytes(12250 * 12250 * 2)
        huge.save_as(tmp_path / "huge.dcm")
        target = ["-aet", "SENDER", "-aec", "CXRVAE", HERE, str(PORT)]
        assert run(tool("storescu"), *target, str(tmp_path / "huge.dcm"), check=False).returncode
        until(lambda: memory(process) < before + 150)
        callers = []
        for _ in range(200):
            with contextlib.suppress(OSError):
                callers.append(socket.create_connection((HERE, PORT), 10))
        echo = [tool("echoscu"), *target]
        calls = [subprocess.Popen(echo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(20)]
        assert memory(process) < before + 150
        for caller in callers:
            caller.close()
        for call in calls:
            call.wait(120)
        until(lambda: send(PORT, *films(tmp_path / "films", 1, start=5)) == [0])
        until(lambda: health()["done"] == 3)
        assert memory(process) < before + 150
    assert MAX_ASSOCIATIONS < 20


def test_the_unit_is_one_that_systemd_takes(tool, tmp_path):
    unit = (Path(__file__).parents[2] / "examples" / "pacs" / "cxr-vae.service").read_text()
    (tmp_path / "cxr-vae.service").write_text(unit.replace("/opt/cxr-vae/bin/cxr-vae", sys.executable))
    done = run(tool("systemd-analyze"), "verify", str(tmp_path / "cxr-vae.service"), check=False)
    assert (done.returncode, done.stderr) == (0, "")
