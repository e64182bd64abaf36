"""A run over a folder: which films are to be done, every result stored at once, a killed run continued."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monai_cxr_vae.data.writers import PRIVATE_FOLDER, file_sha256, strip_file, write_atomically
from monai_cxr_vae.dicom.derive import Provenance
from monai_cxr_vae.errors import InputError, OutputError, Reason, WarningCode
from monai_cxr_vae.inference.batches import FixedBatches
from monai_cxr_vae.inference.film_chain import FilmChain, failed
from monai_cxr_vae.inference.folder import Entry, FilmFolder, read_header, read_picture
from monai_cxr_vae.inference.manifest import COLUMNS, OPTIONAL, Journal, Row, write_csv
from monai_cxr_vae.inference.pool import Fault, IsolatedPool
from monai_cxr_vae.inference.ranks import Ranks
from monai_cxr_vae.inference.report import write_report
from monai_cxr_vae.machine import cpu_count

# Imported once by the server that the worker processes are forked from.
_PRELOAD = ("monai_cxr_vae.inference.folder_run", "monai_cxr_vae.model", "monai.inferers", "monai.transforms")


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is run; none of this changes the bytes of a result.

    Attributes:
        num_workers: processes; None takes one per CPU core up to four.
        timeout: seconds per film.
        memory_limit: GiB per process beyond what it starts with, None for no limit.
        strict_view: skip films of which nothing says that they are frontal.
        force: do everything again.
        retry_failed: try failed films again.
        manifest_paths: put input paths, which may name patients, into the manifest and the report.
        report: write ``report.html``, which shows the films.
        progress: show progress bars.
    """

    num_workers: int | None = None
    timeout: float = 120
    memory_limit: float | None = 3
    strict_view: bool = False
    force: bool = False
    retry_failed: bool = False
    manifest_paths: bool = False
    report: bool = False
    progress: bool = False

    def pool(self, function: Any, in_flight: int = 2) -> IsolatedPool:
        workers = self.num_workers or min(4, cpu_count())
        return IsolatedPool(function, workers, self.timeout, self.memory_limit, _PRELOAD, in_flight)


@dataclass(frozen=True)
class _HeaderTask:
    path: str
    strict_view: bool
    digest: bool
    thorough: bool = False


@dataclass(frozen=True)
class _PictureTask:
    path: str


@dataclass(frozen=True)
class _FilmTask:
    path: str


@dataclass(frozen=True)
class _Prepared:
    """A film on its way to the network. The parent process has no use for ``data``, and leaves it packed."""

    row: Row
    image: np.ndarray
    data: bytes


@dataclass(frozen=True)
class _PrepareTask:
    path: str


@dataclass(frozen=True)
class _CompleteTask:
    path: str
    film: _Prepared
    prediction: np.ndarray


class _Work:
    """What a worker process does."""

    def __init__(self, chain: FilmChain | None) -> None:
        self._chain = chain

    def __call__(self, task: Any) -> Any:
        if isinstance(task, _HeaderTask):
            options = {"strict_view": task.strict_view, "digest": task.digest, "thorough": task.thorough}
            return read_header(task.path, **options)
        if isinstance(task, _PictureTask):
            return read_picture(task.path)
        if self._chain is None:
            raise TypeError("no chain to run films through")
        if isinstance(task, _PrepareTask):
            row, data = self._chain.prepare(task.path)
            return row if data is None else _Prepared(row, data["image"].as_tensor().numpy(), pickle.dumps(data))
        if isinstance(task, _CompleteTask):
            prediction = torch.from_numpy(task.prediction)
            return self._chain.complete(task.film.row, pickle.loads(task.film.data), prediction)
        return self._chain(task.path)


def scan(folder: str | os.PathLike, options: FolderOptions | None = None) -> Iterator[Row]:
    """Tell for every file of a folder what a run would make of it; nothing is written.

    Yields:
        In the order of the paths, ``{"path", "status", "reason", "format", "view", "warnings"}``; ``status`` is
        ``eligible``, ``skipped`` or ``failed``.

    Raises:
        InputError: there is no such folder.
    """
    options = options or FolderOptions()
    entries = FilmFolder(folder).entries()
    headers: dict[str, Row] = {entry.path: _no_file(entry.path) for entry in entries if entry.size < 0}
    tasks = [_HeaderTask(entry.path, options.strict_view, True, thorough=True) for entry in entries if entry.size >= 0]
    with options.pool(_Work(None)) as pool:
        for task, result in tqdm(pool.map(deque(tasks)), "headers", len(tasks), disable=not options.progress):
            headers[task.path] = _fault(result) if isinstance(result, Fault) else result
    seen: set[tuple[Any, ...]] = set()
    for entry in entries:
        header = headers[entry.path]
        status, reason = header["status"] or "eligible", header["reason"]
        # The same file by another name, or the same bytes; a copy with the same UID needs its pixels to be judged.
        keys: list[tuple[Any, ...]] = [("file", entry.device, entry.inode)] if entry.inode else []
        keys += [("bytes", header["input_sha256"])] if not header["status"] else []
        if any(key in seen for key in keys):
            status, reason = "skipped", Reason.DUPLICATE
        seen.update(keys)
        yield {
            "path": entry.path,
            "status": status,
            "reason": reason,
            "format": header.get("format"),
            "view": header.get("view"),
            "warnings": header["warnings"],
        }


class FolderRun:
    """The state of an output folder while a run works on it; a context manager.

    Entering takes the folder, lists the inputs and reads the headers that are new; iterating yields a row per pending
    film, which :meth:`record` stores; leaving writes ``manifest.csv`` and the report.

    Several ranks share the films and one output folder: the first one does what is done once, and each takes its part
    of the films. They all add to one manifest.

    Args:
        folder: the films.
        output_dir: where the results go.
        chain: what is done with a film.
        provenance: the weights and settings that the folder belongs to.
        options: how it is done.
        batches: where the network runs; None runs it in each worker process, film by film.
        ranks: the processes that share the run.

    Raises:
        InputError: the folders cannot be used for this run.
        OutputError: the output cannot be written.
    """

    def __init__(
        self,
        folder: FilmFolder,
        output_dir: str | os.PathLike,
        chain: FilmChain,
        provenance: Provenance,
        options: FolderOptions,
        batches: FixedBatches | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.folder = folder
        self.output_dir = Path(output_dir)
        self.private = self.output_dir / PRIVATE_FOLDER
        self.provenance = provenance
        self.options = options
        self.ranks = ranks or Ranks()
        self._batches = batches
        self._pool = options.pool(_Work(chain), in_flight=1 if batches else 2)
        self._cleanup = contextlib.ExitStack()
        self._index: dict[str, int] = {}
        self._aliases: dict[int, list[int]] = defaultdict(list)
        self._groups: list[list[int]] = []
        self._digests: dict[int, str] = {}

    def __enter__(self) -> FolderRun:
        with contextlib.ExitStack() as stack:
            stack.callback(self._pool.close)
            groups, self._aliases = self.ranks.from_first(lambda: self._begin(stack))
            if not self.ranks.first:
                self._open_journals(stack)
            self._groups = self.ranks.share(groups)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._cleanup:
            if self.ranks.first:
                if self.ranks.size > 1:
                    self._manifest.load()
                write_csv(self.output_dir, self.rows)
                if self.options.report:
                    write_report(self.output_dir, self.rows, self.provenance)

    def gather(self) -> None:
        """Wait until the films of all ranks are done, and take over their rows."""
        if self.ranks.size > 1:
            self.ranks.wait()
            self._manifest.load()

    def _begin(self, stack: contextlib.ExitStack) -> tuple[list[list[int]], dict[int, list[int]]]:
        """What one rank does for all: films to run, by what claims to be one film, and other names of the same file."""
        self._take_output_dir(stack)
        self._open_journals(stack)
        if self._manifest.current and not self._inputs.current:
            raise InputError(f"{self.output_dir} holds a manifest without its {PRIVATE_FOLDER} folder; take another")
        groups = self._read_folder()
        return groups, self._aliases

    def _open_journals(self, stack: contextlib.ExitStack) -> None:
        self._manifest = Journal(self.output_dir / "manifest.jsonl")
        stack.callback(self._manifest.close)
        self._inputs = Journal(self.private / "inputs.jsonl", mode=0o600)
        stack.callback(self._inputs.close)

    def __len__(self) -> int:
        """Number of rows that iterating will yield."""
        return sum(map(len, self._groups))

    def __iter__(self) -> Iterator[Row]:
        queues = [group for group in self._groups if len(group) == 1]
        queues += yield from self._compare([group for group in self._groups if len(group) > 1])
        while queues:
            others = {first: rest for first, *rest in queues}
            queues = []
            for row in self._run_films(others):
                yield row
                rest = others[row["index"]]
                if row["status"] == "done":
                    yield from (_duplicate(index, row["index"], self._digests[index]) for index in rest)
                elif rest:
                    queues.append(rest)

    def _compare(self, groups: list[list[int]]) -> Generator[Row, None, list[list[int]]]:
        """Settle files that claim to be one film (equal SOP instance UID or equal bytes).

        Those that cannot be read fail on their own account. If the others do not show the same picture, nobody can tell
        which is right, and they fail as a conflict; else they are returned, and one that runs will stand for all.
        """
        pictures: dict[int, Row] = {}
        for row in self._run(_PictureTask, [index for group in groups for index in group]):
            if row["status"]:
                yield row
            else:
                pictures[row["index"]] = row
        queues = []
        for group in groups:
            readable = [pictures[index] for index in group if index in pictures]
            if len({row.pop("picture") for row in readable}) > 1:
                yield from ({**row, "status": "failed", "reason": Reason.CONFLICT} for row in readable)
            elif readable:
                queues.append([row["index"] for row in readable])
        self._digests = {row["index"]: row["input_sha256"] for row in pictures.values()}
        return queues

    def _run_films(self, indices: Iterable[int]) -> Iterator[Row]:
        if self._batches is None:
            yield from self._run(_FilmTask, indices)
            return
        index = {self._path(i): i for i in indices}
        tasks: deque[Any] = deque(map(_PrepareTask, index))
        prepared: list[tuple[str, _Prepared]] = []
        while tasks or prepared:
            for task, result in self._pool.map(tasks):
                if isinstance(result, _Prepared):
                    prepared.append((task.path, result))
                    if len(prepared) == self._batches.size:
                        yield from self._predict(prepared, tasks, index)
                else:
                    row = _fault(result, task.path) if isinstance(result, Fault) else result
                    yield {"index": index[task.path], **row}
            yield from self._predict(prepared, tasks, index)  # nothing is left that could fill the batch

    def _predict(
        self, prepared: list[tuple[str, _Prepared]], tasks: deque[Any], index: dict[str, int]
    ) -> Iterator[Row]:
        """Turn prepared films into tasks, to be done before others, and into rows where the network fails."""
        if not prepared or self._batches is None:
            return
        predictions = self._batches([film.image for _, film in prepared])
        for (path, film), prediction in zip(prepared, predictions, strict=True):
            if isinstance(prediction, Exception):
                yield {"index": index[path], **failed(film.row, prediction)}
            else:
                tasks.appendleft(_CompleteTask(path, film, prediction))
        prepared.clear()

    def _run(self, kind: type[_PictureTask | _FilmTask], indices: Iterable[int]) -> Iterator[Row]:
        """Rows of a task per input, as they come."""
        tasks = {kind(self._path(index)): index for index in indices}
        for task, result in self._pool.map(deque(tasks)):
            row = _fault(result, task.path) if isinstance(result, Fault) else result
            yield {"index": tasks[task], **row}

    @property
    def rows(self) -> Collection[Row]:
        """The current rows."""
        return self._manifest.current.values()

    def record(self, row: Row) -> None:
        """Store a row, and those of other names of the same file."""
        index = row["index"]
        entry = self._inputs.current[index]
        header = entry.get("header") or {}
        row = {**header, **{key: value for key, value in row.items() if value is not None}}
        row["warnings"] = list(dict.fromkeys([*header.get("warnings", []), *row["warnings"]]))
        row["model_sha256"], row["config_sha256"] = self.provenance.model_sha256, self.provenance.config_sha256
        if self.options.manifest_paths:
            row["path"] = entry["path"]
        row["replaces"] = self._replaced(index, row)
        row = {column: row.get(column) for column in COLUMNS if column not in OPTIONAL or row.get(column) is not None}
        if not row.get("replaces"):
            row.pop("replaces", None)
        self._manifest.add(row)
        self._record_aliases(index)

    def exit_code(self) -> int:
        """0 all eligible films done, 2 nothing eligible, 4 every eligible film failed, 8 some done and some failed."""
        count = Counter(row["status"] for row in self.rows)
        if not count["failed"]:
            return 0 if count["done"] else 2
        return 8 if count["done"] else 4

    def _take_output_dir(self, stack: contextlib.ExitStack) -> None:
        """Lock the output folder for this run and check that it belongs to this model and these settings."""
        output, source = (Path(os.path.realpath(p)) for p in (self.output_dir, self.folder.root))
        if output == source or output in source.parents or source in output.parents:
            raise InputError("the output folder and the input folder must not lie within each other")
        try:
            self.private.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.private / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutputError(f"the output cannot be written: {os.strerror(error.errno or 0)}") from error
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another run is at work in {self.output_dir}") from error
        scratch = self.private / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        owner = {"model_sha256": self.provenance.model_sha256, "config_sha256": self.provenance.config_sha256}
        file = self.private / "owner.json"
        if not file.exists():
            write_atomically(file, json.dumps(owner).encode(), scratch)
        elif file.read_bytes() != json.dumps(owner).encode():
            raise InputError(f"{self.output_dir} holds results of another model or other settings; take another folder")

    def _read_folder(self) -> list[list[int]]:
        """Take stock of the inputs, and return the films to run."""
        entries = self.folder.entries()
        self._index = {row["path"]: index for index, row in self._inputs.current.items()}
        changed = set()
        number = max([-1, *self._inputs.current, *self._manifest.current])
        for entry in entries:
            if entry.path not in self._index:
                number += 1
                self._index[entry.path] = number
                self._inputs.add(_input_row(number, entry, None))
            elif not _same_file(self._inputs.current[self._index[entry.path]], entry):
                changed.add(self._index[entry.path])
        present = {self._index[entry.path]: entry for entry in entries}
        self._find_aliases(present)
        self._read_headers(present, changed)
        self._mark_gone(present)
        groups = self._pending_groups(present)
        for index in set(self._aliases) - {index for group in groups for index in group}:
            self._record_aliases(index)
        return groups

    def _find_aliases(self, present: dict[int, Entry]) -> None:
        """Of several names of one file, the first in byte order stands for all."""
        first: dict[tuple[int, int], int] = {}
        for index, entry in present.items():
            if entry.size >= 0 and entry.inode:
                leader = first.setdefault((entry.device, entry.inode), index)
                if leader != index:
                    self._aliases[leader].append(index)

    def _read_headers(self, present: dict[int, Entry], changed: set[int]) -> None:
        """Read the headers that are not known yet; what is no film gets its row at once."""
        aliases = {index for names in self._aliases.values() for index in names}
        tasks = {}
        for index, entry in present.items():
            known = self._inputs.current[index].get("header")
            if index in aliases:
                continue
            if known and index not in changed and not self._judged_anew(known):
                if known["status"] and index not in self._manifest.current:  # a kill or a full disk came between
                    self.record({"index": index, "outputs": [], **known})
                continue
            if entry.size < 0:
                self._store_header(index, entry, _no_file(entry.path))
            else:
                tasks[_HeaderTask(entry.path, self.options.strict_view, index in changed)] = index
        results = self._pool.map(deque(tasks))
        for task, result in tqdm(results, "headers", len(tasks), disable=not self.options.progress):
            header = _fault(result, task.path) if isinstance(result, Fault) else result
            self._store_header(tasks[task], present[tasks[task]], header)

    def _judged_anew(self, header: Row) -> bool:
        """Whether these options may say something else of a header than was said before."""
        if self.options.force or (self.options.retry_failed and header["status"] == "failed"):
            return True
        if self.options.strict_view:
            return not header["status"] and header.get("view") == "unknown"
        return header["reason"] == Reason.VIEW_UNKNOWN

    def _store_header(self, index: int, entry: Entry, header: Row) -> None:
        self._inputs.add(_input_row(index, entry, header))
        if header["status"]:
            row = self._manifest.current.get(index)
            told = row and (row["status"], row["reason"], row["input_sha256"])
            if self.options.force or told != (header["status"], header["reason"], header["input_sha256"]):
                self.record({"index": index, "outputs": [], **header})

    def _mark_gone(self, present: dict[int, Entry]) -> None:
        """An input that has vanished keeps its row, with a warning while it is away."""
        root = os.fspath(self.folder.root.resolve())
        for index, entry in self._inputs.current.items():
            if entry["path"] != root and not entry["path"].startswith(root.rstrip("/") + "/"):
                continue
            row = self._manifest.current.get(index)
            if row is None:
                if index not in present:
                    self.record({"index": index, **_read_error(), "warnings": [WarningCode.INPUT_GONE]})
            elif (index not in present) != (WarningCode.INPUT_GONE in row["warnings"]):
                others = [code for code in row["warnings"] if code != WarningCode.INPUT_GONE]
                self._manifest.add(
                    {**row, "warnings": others if index in present else [*others, WarningCode.INPUT_GONE]}
                )

    def _pending_groups(self, present: dict[int, Entry]) -> list[list[int]]:
        """Films to run; files that claim to be one film are one task, done again together if any of them is new."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for index in present:
            header = self._inputs.current[index].get("header")
            if header and not header["status"]:
                groups[header.get("sop_uid") or header["input_sha256"]].append(index)
        return [group for group in groups.values() if any(self._is_pending(i, group, present) for i in group)]

    def _is_pending(self, index: int, group: list[int], present: Collection[int]) -> bool:
        row, digest = self._manifest.current.get(index), self._inputs.current[index]["header"]["input_sha256"]
        if row is None or self.options.force or (digest and digest != row["input_sha256"]):
            return True
        if row["status"] == "failed":
            return self.options.retry_failed
        if row["reason"] == Reason.DUPLICATE:  # of a film that is another one by now, or was not done after all
            original = row["duplicate_of"]
            return self._status(original) != "done" or (original in present and original not in group)
        if row["reason"] == Reason.VIEW_UNKNOWN:  # the header, judged by the present options, no longer says so
            return True
        if self.options.report and row["status"] == "done":
            return not (self._is_whole(row) and strip_file(self.output_dir, row["input_sha256"]).exists())
        return not self._is_whole(row)

    def _status(self, index: int) -> str | None:
        return self._manifest.current[index]["status"] if index in self._manifest.current else None

    def _is_whole(self, row: Row) -> bool:
        """Whether the results of a row are there, at the size at which they were written; older rows tell none."""
        for output in row["outputs"]:
            try:
                if (self.output_dir / output["path"]).stat().st_size != output.get("size"):
                    return False
            except OSError:
                return False
        return True

    def _record_aliases(self, leader: int) -> None:
        row = self._manifest.current.get(leader)
        if row is None:
            return
        for index in self._aliases.get(leader, ()):
            current = self._manifest.current.get(index, {})
            if (current.get("duplicate_of"), current.get("input_sha256")) != (leader, row["input_sha256"]):
                self.record(_duplicate(index, leader, row["input_sha256"]))

    def _replaced(self, index: int, row: Row) -> list[str]:
        """Paths of earlier results that stay on disk but no longer stand for this input."""
        before = self._manifest.current.get(index, {})
        earlier = [*before.get("replaces", []), *(output["path"] for output in before.get("outputs", []))]
        now = {output["path"] for output in row["outputs"]}
        return [path for path in dict.fromkeys(earlier) if path not in now]

    def _path(self, index: int) -> str:
        return str(self._inputs.current[index]["path"])


def _input_row(index: int, entry: Entry, header: Row | None) -> Row:
    return {
        "index": index,
        "path": entry.path,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "inode": entry.inode,
        "header": header,
    }


def _same_file(known: Row, entry: Entry) -> bool:
    return (known["size"], known["mtime_ns"]) == (entry.size, entry.mtime_ns)


def _no_file(path: str) -> Row:
    """The row of a pipe, a device, a link to no file; or of a folder, which is an entry only if it cannot be listed."""
    if Path(path).is_dir() and not Path(path).is_symlink():
        return _read_error()
    return {"status": "skipped", "reason": Reason.NOT_A_FILE, "warnings": [], "input_sha256": None}


def _duplicate(index: int, original: int, digest: str | None) -> Row:
    row = {"index": index, "status": "skipped", "reason": Reason.DUPLICATE, "duplicate_of": original}
    return {**row, "input_sha256": digest, "warnings": [], "outputs": []}


def _read_error() -> Row:
    return {"status": "failed", "reason": Reason.READ_ERROR, "warnings": [], "input_sha256": None, "outputs": []}


def _fault(fault: Fault, path: str | None = None) -> Row:
    """The row of a file whose process was lost; its digest is taken here, which needs no parser."""
    digest = None
    if path is not None:
        with contextlib.suppress(OSError):
            digest = file_sha256(path)
    return {"status": "failed", "reason": str(fault), "warnings": [], "input_sha256": digest, "outputs": []}


def summary(rows: Iterable[Row]) -> str:
    """One line: how many films are done, skipped and failed."""
    count = Counter(row["status"] for row in rows)
    return ", ".join(f"{count[status]} {status}" for status in ("done", "skipped", "failed"))
