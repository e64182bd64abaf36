"""What stands around a node in its tests: senders, archives that answer as they are told, a small network."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, evt

from monai_cxr_vae.service.outbox import Destination, StorageSCP
from monai_cxr_vae.service.receiver import Peer
from monai_cxr_vae.service.server import Node, NodeOptions
from monai_cxr_vae.service.spool import Spool
from tests.inference.standins import evaluator

HERE = "127.0.0.1"
PATIENCE = 120.0


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, what or condition
        time.sleep(0.02)
    return found


class Archive:
    """A C-STORE destination on a port that it keeps; ``status`` decides what a result is answered with.

    A status of None ends the connection in place of an answer.
    """

    def __init__(self, status: Callable[[str], int | None] = lambda uid: 0) -> None:
        self.status = status
        self.stored: list[pydicom.Dataset] = []
        self.asked: list[str] = []
        self._server: Any = None
        self.port = 0
        self.start()

    def start(self) -> None:
        ae = AE("ARCHIVE")
        for sop_class in ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33"):
            ae.add_supported_context(sop_class)
        ae.add_supported_context("1.2.840.10008.1.1")
        ae.require_called_aet = True
        self._server = ae.start_server((HERE, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        self._server.ae.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.asked.append(uid)
        status = self.status(uid)
        if status is None:
            event.assoc.abort()
            return 0x0110
        if status == 0:
            result = event.dataset
            result.file_meta = event.file_meta
            self.stored.append(result)
        return status

    @property
    def uids(self) -> list[str]:
        return [str(result.SOPInstanceUID) for result in self.stored]

    def destination(self, peer: str = "ARCHIVE") -> StorageSCP:
        return StorageSCP("CXRVAE", peer, HERE, self.port)


@contextlib.contextmanager
def archive(status: Callable[[str], int | None] = lambda uid: 0) -> Iterator[Archive]:
    server = Archive(status)
    try:
        yield server
    finally:
        server.stop()


class Web:
    """A STOW-RS service; ``answer`` gives HTTP status and body for a result and the request's headers."""

    def __init__(self, answer: Callable[[str, Any], tuple[int, bytes]]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                boundary = re.search("boundary=(.*)", self.headers["Content-Type"]).group(1)
                part = body.split(b"\r\n\r\n", 1)[1].rsplit(f"\r\n--{boundary}--".encode(), 1)[0]
                uid = str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(part)).SOPInstanceUID)
                web.asked.append(uid)
                status, answer = web.answer(uid, self.headers)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((HERE, 0), Handler)
        self.url = f"http://{HERE}:{self._server.server_port}/dicom-web"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def web(answer: Callable[[str, Any], tuple[int, bytes]]) -> Iterator[Web]:
    server = Web(answer)
    try:
        yield server
    finally:
        server.stop()


def stow_answer(uid: str, failure: int | None = None) -> bytes:
    """The body of an answer (PS3.18 10.5.3) about one result."""
    item = {"00081155": {"vr": "UI", "Value": [uid]}}
    if failure is None:
        return json.dumps({"00081199": {"vr": "SQ", "Value": [item]}}).encode()
    item["00081197"] = {"vr": "US", "Value": [failure]}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@contextlib.contextmanager
def node(folder: Path, destinations: Sequence[Destination] = (), **options: Any) -> Iterator[Node]:
    """A node with a small network, at work in a thread."""
    spool = Spool(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(spool.close)
        spool.take(stack)
        engine = evaluator(folder / "nothing", spool.results)
        peers = options.pop("peers", (Peer("STORESCU", HERE), Peer("SENDER", HERE)))
        options = {"port": 0, "health_port": 0, "num_workers": 1, "timeout": 60, **options}
        chosen = NodeOptions("CXRVAE", peers, **options)
        with Node(spool, engine.chain, engine.provenance, destinations, chosen) as made:
            thread = threading.Thread(target=made.run)
            thread.start()
            try:
                yield made
            finally:
                made.stop()
                thread.join()


def send(port: int, *films: Path | pydicom.Dataset, caller: str = "SENDER", called: str = "CXRVAE") -> list[int | None]:
    """Statuses that a node answers to films; None for each where the association came to nothing."""
    datasets = [film if isinstance(film, pydicom.Dataset) else pydicom.dcmread(film) for film in films]
    ae = AE(caller)
    for sop_class, syntax in dict.fromkeys((ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets):
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate(HERE, port, ae_title=called)
    if not association.is_established:
        return [None] * len(films)
    answers = [association.send_c_store(ds) for ds in datasets]
    if association.is_established:
        association.release()
    return [answer.get("Status") for answer in answers]
