"""The spool of a node: every film that came and every result that is to go, in files and a journal on the disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_cxr_vae.errors import InputError, OutputError, Reason
from monai_cxr_vae.files import PRIVATE_FOLDER, write_whole
from monai_cxr_vae.inference.rows import Row

# What the machine may be to blame for; a film is tried again after a while, this often.
PASSING = frozenset((Reason.TIMEOUT, Reason.OUT_OF_MEMORY, Reason.CRASHED, Reason.READ_ERROR, Reason.CHANGED))
FILM_TRIES = 3
FILM_PAUSE = 60.0
# Free space, in bytes, below which no film is taken: results and journal need some, or what has come is stuck.
RESERVE = 256 * 2**20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS films (
    id INTEGER PRIMARY KEY, sop_uid TEXT NOT NULL, sha256 TEXT NOT NULL, file TEXT, peer TEXT NOT NULL,
    received REAL NOT NULL, current INTEGER NOT NULL DEFAULT 1, status TEXT NOT NULL DEFAULT 'waiting', reason TEXT,
    warnings TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0, next REAL NOT NULL DEFAULT 0, finished REAL
);
CREATE INDEX IF NOT EXISTS films_by_uid ON films (sop_uid);
CREATE INDEX IF NOT EXISTS films_by_status ON films (status, reason);
CREATE TABLE IF NOT EXISTS objects (
    uid TEXT PRIMARY KEY, film INTEGER NOT NULL REFERENCES films, kind TEXT NOT NULL, path TEXT NOT NULL, withdrawn REAL
);
CREATE INDEX IF NOT EXISTS objects_by_film ON objects (film);
CREATE INDEX IF NOT EXISTS objects_withdrawn ON objects (withdrawn) WHERE withdrawn IS NOT NULL;
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL REFERENCES objects, destination TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting', tries INTEGER NOT NULL DEFAULT 0, next REAL NOT NULL DEFAULT 0,
    error TEXT, created REAL NOT NULL, UNIQUE (uid, destination)
);
CREATE INDEX IF NOT EXISTS deliveries_by_status ON deliveries (destination, status, next);
"""


@dataclass(frozen=True)
class Received:
    """What has become of a received film: its number, whether it is to be run, results that it makes invalid.

    ``withdrawn`` has pairs of SOP Instance UID and destination where the result is already.
    """

    film: int
    is_new: bool
    replaces: int | None = None
    withdrawn: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class WaitingFilm:
    """A film to be run."""

    number: int
    path: str
    sha256: str


@dataclass(frozen=True)
class Delivery:
    """A result on its way to one destination."""

    number: int
    uid: str
    path: Path
    tries: int
    error: str | None


class Spool:
    """A folder of films and results with their journal; safe to use from several threads.

    The journal (SQLite, each change on the disk before it is acted on) is the truth: files that it does not know were
    never acknowledged or never sent, and are removed when the next node starts. Another process may read and requeue
    while a node is at work. The folder must lie on a disk of this machine.

    Args:
        folder: made when missing, for its user alone.

    Raises:
        OutputError: here and in all methods, if the spool cannot be read or written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.results = self.folder / "results"
        self._films = self.folder / "films"
        self._scratch = self.folder / "tmp"
        self._lock = threading.RLock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for part in (self.results, self._films):
                part.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(f"the spool cannot be written: {error.strerror}") from error
        with _as_output_error():
            self._db = sqlite3.connect(
                self.folder / "journal.sqlite", timeout=60, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # every commit is on the disk when it returns
            self._db.executescript(_SCHEMA)

    @classmethod
    def existing(cls, folder: str | os.PathLike) -> Spool:
        """A spool that a node has made.

        Raises:
            InputError: there is none.
        """
        if not (Path(folder) / "journal.sqlite").is_file():
            raise InputError(f"there is no spool in {os.fspath(folder)}")
        return cls(folder)

    def close(self) -> None:
        """Leave the journal."""
        with self._lock:
            self._db.close()

    def take(self, stack: contextlib.ExitStack) -> None:
        """Keep other nodes out until ``stack`` ends, and remove what a killed one has left half done.

        Raises:
            InputError: another node is at work here.
        """
        with _as_output_error():
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another node is at work in {self.folder}") from error
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.rmtree(self.results / PRIVATE_FOLDER, ignore_errors=True)
        with self._lock, _as_output_error():
            known = {
                self._films / row["file"] for row in self._db.execute("SELECT file FROM films WHERE file NOT NULL")
            }
            known |= {self.results / row["path"] for row in self._db.execute("SELECT path FROM objects")}
            for part in (self._films, self.results):
                for path in part.rglob("*"):
                    if path.is_file() and path not in known:
                        path.unlink()

    def has_room(self) -> bool:
        """Whether a film may be taken without risk to those that have come."""
        with _as_output_error():
            return shutil.disk_usage(self.folder).free >= RESERVE

    def receive(self, sop_uid: str, data: bytes, peer: str) -> Received:
        """Store a film; it is on the disk when this returns. The last bytes of a SOP Instance UID are the film.

        Args:
            sop_uid: SOP Instance UID.
            data: a DICOM file.
            peer: who sent it.
        """
        digest, name, now = hashlib.sha256(data).hexdigest(), f"{uuid.uuid4().hex}.dcm", time.time()
        write_whole(self._films / name, data, self._scratch)
        superfluous: str | None = name  # unless the journal comes to know it
        try:
            with self._transaction() as db:
                received, spared = self._enter(db, sop_uid, digest, name, peer, now)
            superfluous = spared
        finally:
            if superfluous:
                (self._films / superfluous).unlink(missing_ok=True)
        return received

    def _enter(
        self, db: sqlite3.Connection, sop_uid: str, digest: str, name: str, peer: str, now: float
    ) -> tuple[Received, str | None]:
        """Enter a film, and say which file is needed no more."""
        old = db.execute("SELECT * FROM films WHERE sop_uid = ? AND current", (sop_uid,)).fetchone()
        if old and old["sha256"] == digest:
            if old["status"] != "failed":
                return Received(old["id"], False), name
            anew = "status = 'waiting', reason = NULL, tries = 0, next = 0, file = ?"
            db.execute(f"UPDATE films SET {anew} WHERE id = ?", (name, old["id"]))
            return Received(old["id"], True), old["file"]
        withdrawn = self._withdraw(db, old["id"], now) if old else ()
        number = db.execute(
            "INSERT INTO films (sop_uid, sha256, file, peer, received) VALUES (?, ?, ?, ?, ?)",
            (sop_uid, digest, name, peer, now),
        ).lastrowid
        return Received(number or 0, True, old and old["id"], withdrawn), None

    def waiting_films(self, without: Collection[int], limit: int) -> list[WaitingFilm]:
        """The oldest films whose time has come, apart from those ``without``."""
        with self._lock, _as_output_error():
            rows = self._db.execute(
                "SELECT id, file, sha256 FROM films WHERE status = 'waiting' AND next <= ? ORDER BY id LIMIT ?",
                (time.time(), limit + len(without)),
            ).fetchall()
        films = [WaitingFilm(r["id"], str(self._films / r["file"]), r["sha256"]) for r in rows]
        return [film for film in films if film.number not in without][:limit]

    def finish(self, film: int, row: Row, destinations: Iterable[str]) -> str:
        """Record what a film has given, and queue it for the destinations.

        Returns:
            What has become of the film: ``done``, ``skipped`` or ``failed`` as the row says, ``waiting`` if it is
            tried again later, ``replaced`` if a newer one has come meanwhile, and nothing of it is sent.
        """
        now = time.time()
        status, reason = str(row["status"]), row["reason"]
        with self._transaction() as db:
            known = db.execute("SELECT current, tries FROM films WHERE id = ?", (film,)).fetchone()
            tries = known["tries"] + 1
            if not known["current"]:
                db.execute("UPDATE films SET status = 'replaced', finished = ? WHERE id = ?", (now, film))
                return "replaced"
            if reason in PASSING and tries < FILM_TRIES:
                pause = now + FILM_PAUSE * 4 ** (tries - 1)
                db.execute("UPDATE films SET tries = ?, next = ? WHERE id = ?", (tries, pause, film))
                return "waiting"
            db.execute(
                "UPDATE films SET status = ?, reason = ?, warnings = ?, tries = ?, finished = ? WHERE id = ?",
                (status, reason, " ".join(row["warnings"]), tries, now, film),
            )
            for output in row["outputs"]:
                # A UID means its bytes: one that is there already is the same result, perhaps of bytes that came back.
                db.execute(
                    "INSERT INTO objects (uid, film, kind, path) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (uid) DO UPDATE SET film = excluded.film, withdrawn = NULL",
                    (output["uid"], film, output["kind"], output["path"]),
                )
                for destination in destinations:
                    db.execute(
                        "INSERT INTO deliveries (uid, destination, created) VALUES (?, ?, ?) "
                        "ON CONFLICT (uid, destination) DO UPDATE SET status = 'waiting', tries = 0, next = 0 "
                        "WHERE status = 'withdrawn'",
                        (output["uid"], destination, now),
                    )
        return status

    def due(self, destination: str, limit: int) -> list[Delivery]:
        """Results whose time to be sent has come, the oldest first."""
        with self._lock, _as_output_error():
            rows = self._db.execute(
                "SELECT d.*, o.path FROM deliveries d JOIN objects o USING (uid) "
                "WHERE destination = ? AND status = 'waiting' AND next <= ? ORDER BY d.id LIMIT ?",
                (destination, time.time(), limit),
            ).fetchall()
        return [Delivery(r["id"], r["uid"], self.results / r["path"], r["tries"], r["error"]) for r in rows]

    def delivered(self, delivery: int, note: str | None = None) -> bool:
        """The result is there; ``note`` is what the destination remarked. False if it has been withdrawn meanwhile."""
        with self._transaction() as db:
            db.execute("UPDATE deliveries SET status = 'delivered', error = ? WHERE id = ?", (note, delivery))
            query = "SELECT withdrawn FROM objects JOIN deliveries USING (uid) WHERE id = ?"
            return db.execute(query, (delivery,)).fetchone()["withdrawn"] is None

    def refused(self, delivery: int, error: str) -> None:
        """The destination will never take the result; it is set aside until somebody requeues it."""
        self._settle(delivery, "status = 'refused', error = ?", error)

    def postponed(self, delivery: int, error: str, pause: float) -> None:
        """The result is tried again after ``pause`` seconds."""
        self._settle(delivery, "tries = tries + 1, error = ?, next = ?", error, time.time() + pause)

    def requeue(self, deliveries: Collection[int] = ()) -> int:
        """Send again what was set aside, these deliveries or all, and then run films again that have failed.

        Returns:
            How many results and films that were.
        """
        with self._transaction() as db:
            anew, which = "tries = 0, next = 0, status = 'waiting'", ", ".join("?" * len(deliveries))
            if deliveries:
                query = f"UPDATE deliveries SET {anew} WHERE status = 'refused' AND id IN ({which})"
                return db.execute(query, tuple(deliveries)).rowcount
            count = db.execute(f"UPDATE deliveries SET {anew} WHERE status = 'refused'").rowcount
            films = "status = 'failed' AND current AND file NOT NULL"
            return count + db.execute(f"UPDATE films SET {anew}, reason = NULL WHERE {films}").rowcount

    def tidy(self, keep: float) -> int:
        """Remove the files of films that were finished ``keep`` seconds ago and whose results have all been delivered.

        Their lines stay in the journal: the film may come again, as it was or corrected.

        Returns:
            How many films that were.
        """
        with self._lock, _as_output_error():
            films = self._db.execute(
                "SELECT id, file FROM films f WHERE finished < ? AND status != 'waiting' AND file NOT NULL "
                "AND NOT EXISTS (SELECT 1 FROM objects JOIN deliveries d USING (uid) WHERE film = f.id "
                "AND d.status IN ('waiting', 'refused'))",
                (time.time() - keep,),
            ).fetchall()
        for film in films:
            with self._transaction() as db:
                for row in db.execute("SELECT path FROM objects WHERE film = ?", (film["id"],)).fetchall():
                    path = self.results / row["path"]
                    path.unlink(missing_ok=True)
                    for folder in (path.parent, path.parent.parent):
                        with contextlib.suppress(OSError):  # it holds other results
                            folder.rmdir()
                (self._films / film["file"]).unlink(missing_ok=True)
                db.execute("UPDATE films SET file = NULL WHERE id = ?", (film["id"],))
        return len(films)

    def summary(self) -> dict[str, Any]:
        """Counts of films by status and reason, of results by destination and status, and what waits longest."""
        with self._lock, _as_output_error():
            ask: Callable[..., sqlite3.Cursor] = self._db.execute
            films = ask(
                "SELECT status, reason, count(*) AS n, min(received) AS oldest FROM films GROUP BY 1, 2"
            ).fetchall()
            sent = ask(
                "SELECT destination, status, count(*) AS n, min(created) AS oldest FROM deliveries GROUP BY 1, 2"
            ).fetchall()
            gone = ask("SELECT count(*) FROM objects WHERE withdrawn NOT NULL").fetchone()[0]
        count = {s: sum(r["n"] for r in films if r["status"] == s) for s in ("waiting", "done", "skipped", "replaced")}
        oldest = [row["oldest"] for row in films if row["status"] == "waiting"]
        destinations: dict[str, dict[str, Any]] = {}
        for row in sent:
            entry = destinations.setdefault(row["destination"], _no_deliveries())
            entry[row["status"]] = row["n"]
            if row["status"] == "waiting":
                entry["oldest_waiting"] = row["oldest"]
        return {
            "received": sum(row["n"] for row in films),
            **count,
            "failed": {row["reason"]: row["n"] for row in films if row["status"] == "failed"},
            "oldest_waiting": min(oldest, default=None),
            "withdrawn": gone,
            "destinations": destinations,
        }

    def outbox(self) -> Iterator[dict[str, Any]]:
        """What is not as it should be: results that wait, were refused or withdrawn, and films that have failed.

        Yields:
            ``status`` and, where they apply, ``number`` of the delivery, ``film``, ``uid``, ``destination``, ``error``,
            ``tries`` and ``replaced_by``, the number of the film that made a result invalid.
        """
        with self._lock, _as_output_error():
            for row in self._db.execute(
                "SELECT d.status, d.id AS number, uid, destination, error, tries, film FROM deliveries d "
                "JOIN objects o USING (uid) WHERE d.status IN ('waiting', 'refused') ORDER BY d.status, d.id"
            ).fetchall():
                yield dict(row)
            for row in self._db.execute(
                "SELECT 'withdrawn' AS status, uid, destination, film, (SELECT max(n.id) FROM films n "
                "WHERE n.sop_uid = f.sop_uid) AS replaced_by FROM objects o JOIN deliveries d USING (uid) "
                "JOIN films f ON f.id = o.film WHERE o.withdrawn NOT NULL AND d.status = 'delivered' ORDER BY d.id"
            ).fetchall():
                yield dict(row)
            for row in self._db.execute(
                "SELECT status, id AS film, reason AS error, tries FROM films WHERE status = 'failed' AND current "
                "ORDER BY id"
            ).fetchall():
                yield dict(row)

    def _withdraw(self, db: sqlite3.Connection, film: int, now: float) -> tuple[tuple[str, str], ...]:
        """Nothing of a film counts any more; the results that have been delivered, and where."""
        db.execute(
            "UPDATE films SET current = 0, finished = coalesce(finished, ?), "
            "status = CASE status WHEN 'waiting' THEN 'replaced' ELSE status END WHERE id = ?",
            (now, film),
        )
        of_film = "(SELECT uid FROM objects WHERE film = ?)"
        db.execute("UPDATE objects SET withdrawn = ? WHERE film = ?", (now, film))
        db.execute(
            f"UPDATE deliveries SET status = 'withdrawn' WHERE status IN ('waiting', 'refused') AND uid IN {of_film}",
            (film,),
        )
        query = f"SELECT uid, destination FROM deliveries WHERE status = 'delivered' AND uid IN {of_film}"
        return tuple((row["uid"], row["destination"]) for row in db.execute(query, (film,)))

    def _settle(self, delivery: int, change: str, *values: object) -> None:
        with self._transaction() as db:
            db.execute(f"UPDATE deliveries SET {change} WHERE id = ? AND status = 'waiting'", (*values, delivery))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the body's changes are on the disk when it ends, or none."""
        with self._lock, _as_output_error():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _no_deliveries() -> dict[str, Any]:
    return {"waiting": 0, "delivered": 0, "refused": 0, "withdrawn": 0, "oldest_waiting": None}


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(f"the spool cannot be used: {error}") from error
    except OSError as error:
        raise OutputError(f"the spool cannot be used: {error.strerror or type(error).__name__}") from error
