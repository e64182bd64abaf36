"""The node: what is received is run by warm processes and queued to be sent, until somebody ends it."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.errors import OutputError, WorkerError
from monai_cxr_vae.files import bundle_root, write_whole
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.rows import Row, lost
from monai_cxr_vae.inference.worker import FilmTask, HeaderTask, Work
from monai_cxr_vae.pool import IsolatedPool, LostTask
from monai_cxr_vae.service.health import Health
from monai_cxr_vae.service.outbox import Destination, Sender, pause
from monai_cxr_vae.service.receiver import Peer, Receiver
from monai_cxr_vae.service.spool import Spool, WaitingFilm
from monai_cxr_vae.service.tls import Certificates
from monai_cxr_vae.version import __version__

logger = logging.getLogger(__name__)

# Seconds between two looks at what a clock or another process may have made due, two reports, two tidyings.
LOOK, REPORT, TIDY = 2.0, 10.0, 3600.0
# Films that wait in memory; the others wait in the journal.
_AHEAD = 16


@dataclass(frozen=True)
class NodeOptions:
    """How a node works.

    Attributes:
        aet: its AE title.
        bind, port: where it listens; port 0 takes a free one.
        health_port: of ``GET /health`` on this computer.
        peers: who may send.
        certificates: for TLS; with a certificate nothing is received in the clear.
        keep: days after which the files of delivered films are removed.
        num_workers: processes; None takes one per CPU core up to four.
        timeout: seconds per film.
        memory_limit: GiB per process beyond what it starts with.
    """

    aet: str
    peers: tuple[Peer, ...]
    bind: str = "127.0.0.1"
    port: int = 11112
    health_port: int = 11113
    certificates: Certificates = field(default_factory=Certificates)
    keep: float = 7.0
    num_workers: int | None = None
    timeout: float = 120
    memory_limit: float | None = 3


def film_chain(
    results: Path, objects: Sequence[str], weights: str | os.PathLike | None = None
) -> tuple[FilmChain, Provenance]:
    """What ``cxr-vae reconstruct`` and ``cxr-vae score`` do with a film, by the same config.

    Args:
        results: folder that the objects go to.
        objects: of ``sc``, ``overlay`` and ``sr``.
        weights: file or preset; None takes the shipped weights.

    Raises:
        InputError: the weights cannot be used, or do not give these objects.
    """
    config = ConfigParser(ConfigParser.load_config_file(Path(bundle_root()) / "configs" / "inference.json"))
    settings = {"dataset_dir": results, "output_dir": results, "device": "cpu", "objects": list(objects)}
    config.update(settings | ({} if weights is None else {"weights": Path(weights)}))
    evaluator = config.get_parsed_content("evaluator")
    return evaluator.chain, evaluator.provenance


class Node:
    """A node on a spool; it receives and sends while its ``with`` block lasts, and works while :meth:`run` does.

    Args:
        spool: that no other node works on (:meth:`Spool.take`).
        chain: what is done with a film, writing into ``spool.results``.
        provenance: the weights and settings behind it.
        destinations: where results go.
        options: how it works.

    Raises:
        InputError: on entering, if a port cannot be listened to or a peer has no address.
    """

    def __init__(
        self,
        spool: Spool,
        chain: FilmChain,
        provenance: Provenance,
        destinations: Sequence[Destination],
        options: NodeOptions,
    ) -> None:
        self.spool, self.options, self._provenance = spool, options, provenance
        self._pool = IsolatedPool(Work(chain), options.num_workers, options.timeout, options.memory_limit, in_flight=1)
        self._senders = [Sender(spool, destination) for destination in destinations]
        self._bell, self._rope = Pipe(duplex=False)
        self._rung, self._ringing = False, threading.RLock()
        self._stopping = threading.Event()
        self._at_work: dict[str, WaitingFilm] = {}
        self._tasks: deque[Any] = deque()
        self._error: str | None = None
        self._started = time.time()

    def __enter__(self) -> Node:
        options = self.options
        with contextlib.ExitStack() as stack:
            stack.callback(self._pool.close)
            self._pool.start()
            self.health = stack.enter_context(Health(options.health_port, self.status))
            address, tls = (options.bind, options.port), options.certificates.server()
            receiver = Receiver(self.spool, options.aet, address, options.peers, self.ring, tls)
            self.receiver = stack.enter_context(receiver)
            for sender in self._senders:
                sender.start()
                stack.callback(sender.stop)
            housekeeper = threading.Thread(target=self._keep_house, name="housekeeper", daemon=True)
            housekeeper.start()
            stack.callback(housekeeper.join)
            stack.callback(self._stopping.set)
            self._warn_of_orphans()
            self._cleanup = stack.pop_all()
        how = " over TLS" if tls else ""
        logger.info("%s listens to %s:%d%s", options.aet, options.bind, self.receiver.port, how)
        return self

    def __exit__(self, *_: object) -> None:
        with self._cleanup:
            logger.info("ending: the films and results at hand are finished")
        self._report()

    def run(self) -> None:
        """Run films as they come, until :meth:`stop` is called; those at hand are finished."""
        failures = 0
        while not self._stopping.is_set():
            try:
                self._refill()
                for task, result in self._pool.map(self._tasks, self._bell):
                    if task is None:
                        self._rung = False
                    else:
                        self._take(task, result)
                    self._refill()
                failures, self._error = 0, None
                if self._bell.poll(LOOK):
                    self._bell.recv_bytes()
                    self._rung = False
            except (OutputError, WorkerError) as error:
                # No fault of a film: those at work are run again, when there is room again.
                self._pool.close()
                self._tasks.clear()
                self._at_work.clear()
                self._error = str(error)
                logger.error("films cannot be run now, will be tried again: %s", error)
                self._stopping.wait(pause(failures))
                failures += 1

    def stop(self) -> None:
        """End :meth:`run` soon; may be called from a signal handler or another thread."""
        self._stopping.set()
        self.ring()

    def ring(self) -> None:
        """There may be a film to run."""
        with self._ringing:
            if not self._rung:
                self._rung = True
                self._rope.send_bytes(b".")

    def status(self) -> dict[str, Any]:
        """How the node fares; see ``docs/howto/node.md``."""
        try:
            summary = self.spool.summary()
        except OutputError as error:
            summary, self._error = {"destinations": {}}, str(error)
        for sender in self._senders:
            entry = summary["destinations"].setdefault(
                sender.destination.name, {"waiting": 0, "delivered": 0, "refused": 0}
            )
            last = sender.last_error
            entry["last_error"] = last and {"time": _iso(last["time"]), "text": last["text"]}
        for entry in (summary, *summary["destinations"].values()):
            entry["oldest_waiting"] = _iso(entry.get("oldest_waiting"))
        return {
            "time": _iso(time.time()),
            "started": _iso(self._started),
            "version": __version__,
            "model_sha256": self._provenance.model_sha256,
            "error": self._error,
            **summary,
        }

    def _refill(self) -> None:
        """Keep some films ready for the processes."""
        if self._stopping.is_set():
            self._tasks.clear()
        elif len(self._at_work) < _AHEAD:
            numbers = {film.number for film in self._at_work.values()}
            for film in self.spool.waiting_films(numbers, _AHEAD - len(numbers)):
                self._at_work[film.path] = film
                self._tasks.append(HeaderTask(film.path, strict_view=False))

    def _take(self, task: Any, result: Any) -> None:
        film = self._at_work[task.path]
        if isinstance(result, LostTask):
            result = lost(result, film.path, None)
        if isinstance(task, HeaderTask) and not result["status"]:
            self._tasks.appendleft(FilmTask(film.path, False, film.sha256))
            return
        del self._at_work[task.path]
        row: Row = {"outputs": [], **result}
        status = self.spool.finish(film.number, row, [sender.destination.name for sender in self._senders])
        why = f": {' '.join([row['reason'] or '', *row['warnings']]).strip()}" if status != "done" else ""
        kinds = " ".join(output["kind"] for output in row["outputs"])
        logger.info("film %d %s%s%s", film.number, status, why, f": {kinds}" if status == "done" else "")
        for sender in self._senders:
            sender.wake()

    def _keep_house(self) -> None:
        tidied = reported = 0.0
        while not self._stopping.wait(LOOK):
            now = time.monotonic()
            try:
                self.ring()
                if now - reported >= REPORT:
                    reported = now
                    self._report()
                if now - tidied >= TIDY:
                    tidied = now
                    count = self.spool.tidy(self.options.keep * 86400)
                    if count:
                        logger.info(
                            "removed the files of %d films that were finished %g days ago", count, self.options.keep
                        )
            except OutputError as error:
                logger.error("%s", error)

    def _report(self) -> None:
        with contextlib.suppress(OutputError):  # whoever reads it sees that it is old
            write_whole(self.spool.folder / "status.json", json.dumps(self.status(), indent=1).encode())

    def _warn_of_orphans(self) -> None:
        names = {sender.destination.name for sender in self._senders}
        for name, entry in self.spool.summary()["destinations"].items():
            if name not in names and entry["waiting"]:
                logger.warning("%d results wait for %s, which is no destination any more", entry["waiting"], name)


def serve(
    folder: str | os.PathLike,
    options: NodeOptions,
    destinations: Sequence[Destination],
    objects: Sequence[str] = ("sc", "sr"),
    weights: str | os.PathLike | None = None,
) -> None:
    """Run a node on a spool folder until SIGTERM or SIGINT.

    Args:
        folder: of the spool, made when missing; a lock keeps a second node out.
        options: how it works.
        destinations: where results go.
        objects: what is made of each film, see :func:`film_chain`.
        weights: see :func:`film_chain`.

    Raises:
        InputError: something given cannot be used, or another node is at work there.
    """
    os.umask(0o077)
    spool = Spool(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(spool.close)
        spool.take(stack)
        chain, provenance = film_chain(spool.results, objects, weights)
        node = stack.enter_context(Node(spool, chain, provenance, destinations, options))
        gc.freeze()  # libraries are no garbage; the receiver looks for some twice a minute
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: node.stop()))
        node.run()


def _iso(seconds: float | None) -> str | None:
    return seconds and datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")  # type: ignore[return-value]
