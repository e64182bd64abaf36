"""A node (`cxr-vae serve`) beside `cxr-vae score` over the same folder: films per minute, and how soon one is there.

Both make heat maps and Structured Reports of the same films with the shipped weights. The node's films come in one
association, and the time ends when the last object is at a C-STORE destination on this computer; the command's time is
that of a folder less that of one film, so that its start does not count. For one film the command starts anew, while
the node waits for it.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, evt
from side_by_side import Row, row

from monai_cxr_vae.data.phantom import write_phantoms

HERE = "127.0.0.1"
OBJECTS = ["--objects", "overlay", "sr"]
COMMAND = [sys.executable, "-m", "monai_cxr_vae"]
PATIENCE = 600.0


class Archive:
    """Counts the objects that arrive."""

    def __init__(self) -> None:
        self.count = 0
        ae = AE("ARCHIVE")
        for sop_class in ("1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33"):
            ae.add_supported_context(sop_class)
        self.server: Any = ae.start_server((HERE, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])

    def _store(self, event: Any) -> int:
        self.count += 1
        return 0


def wait_for(condition: Any) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the node does not answer")
        time.sleep(0.002)


@contextlib.contextmanager
def node(spool: Path, archive: Archive) -> Iterator[int]:
    """A node of its own process that is ready; its port."""
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    to = f"ARCHIVE@{HERE}:{archive.server.server_address[1]}"
    command = [*COMMAND, "serve", str(spool), "--port", str(port), "--peer", f"SENDER@{HERE}", "--send", to, *OBJECTS]

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{HERE}:{port + 1}/health"):
            return True
        return False

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(answers)
            time.sleep(5)  # its processes start beside it
            yield port
        finally:
            process.terminate()


def send(port: int, films: Sequence[pydicom.Dataset], archive: Archive) -> float:
    """Milliseconds from the first film to the last object at the destination, or for one film from its answer on."""
    ae = AE("SENDER")
    ae.add_requested_context(films[0].SOPClassUID, films[0].file_meta.TransferSyntaxUID)
    association = ae.associate(HERE, port, ae_title="CXRVAE")
    wanted = archive.count + 2 * len(films)
    start = time.perf_counter()
    for film in films:
        if association.send_c_store(film).Status:
            raise RuntimeError("the node refuses a film")
    if len(films) == 1:
        start = time.perf_counter()
    wait_for(lambda: archive.count >= wanted)
    association.release()
    return 1000 * (time.perf_counter() - start)


def score(folder: Path, output: Path) -> float:
    """Milliseconds of the command."""
    start = time.perf_counter()
    command = [*COMMAND, "score", str(folder), "--output", str(output), *OBJECTS]
    subprocess.run(command, check=True, capture_output=True)
    return 1000 * (time.perf_counter() - start)


def measure(count: int = 60, single: int = 10) -> list[Row]:
    """Milliseconds per film of ``count`` films, and for each of ``single`` films that come alone."""
    archive = Archive()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_phantoms(scratch / "in", count + single, 0)
        paths = sorted((scratch / "in").rglob("*.dcm"))
        films = [pydicom.dcmread(path) for path in paths]
        for path in paths[count:]:
            path.unlink()
        (scratch / "one").mkdir()
        (scratch / "one" / "film").write_bytes(paths[0].read_bytes())
        with node(scratch / "spool", archive) as port:
            latencies = [send(port, [film], archive) for film in films[count:]]
            burst = send(port, films[:count], archive) / count
        alone = score(scratch / "one", scratch / "out one")
        folder = (score(scratch / "in", scratch / "out") - alone) / max(count - 1, 1)
    archive.server.ae.shutdown()
    latency = statistics.median(latencies)
    rate = row("a folder at once / cxr-vae score", folder / burst, None, count, burst, folder, "ms/film")
    rate["films_per_minute"] = 60000 / burst
    first = row("one film / cxr-vae score of one", alone / latency, None, single, latency, alone, "ms")
    return [rate, first | {"slowest": max(latencies)}]
