"""A run over a folder: which films are to be done, every result stored at once, a killed run continued."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from monai_cxr_vae.data.writers import thumbnails_file
from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.errors import InputError, OutputError, Reason
from monai_cxr_vae.files import PRIVATE_FOLDER, Identity, write_whole
from monai_cxr_vae.inference.batches import FixedBatches
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.folder import FilmFolder
from monai_cxr_vae.inference.manifest import Journal, write_csv
from monai_cxr_vae.inference.plan import (
    FolderOptions,
    Stock,
    alias_rows,
    gone,
    input_row,
    key_of,
    pending_groups,
    settled,
    take_stock,
    to_look_at,
)
from monai_cxr_vae.inference.ranks import Ranks
from monai_cxr_vae.inference.report import write_report
from monai_cxr_vae.inference.rows import COLUMNS, OPTIONAL, Row, duplicate, lost, no_file, refused
from monai_cxr_vae.inference.worker import (
    CompleteTask,
    FilmTask,
    HeaderTask,
    PictureTask,
    Prepared,
    PrepareTask,
    Work,
)
from monai_cxr_vae.pool import IsolatedPool, LostTask
from monai_cxr_vae.progress import progress


def _pool(options: FolderOptions, work: Work, in_flight: int = 2) -> IsolatedPool:
    return IsolatedPool(work, options.num_workers, options.timeout, options.memory_limit, in_flight)


def scan(folder: str | os.PathLike, options: FolderOptions | None = None) -> Iterator[Row]:
    """Tell for every file of a folder what a run would make of it; nothing is written.

    Args:
        folder: the folder, or one file.
        options: how the files are read; None for the defaults.

    Yields:
        In the order of the paths, rows with ``path``; ``status`` is ``eligible``, ``skipped`` or ``failed``.

    Raises:
        InputError: there is no such folder.
    """
    options = options or FolderOptions()
    stock = take_stock(FilmFolder(folder).entries(), {}, {})
    rows: dict[int, Row] = {i: no_file(entry) for i, entry in stock.leaders.items() if entry.identity is None}
    paths = {i: entry.path for i, entry in stock.leaders.items() if entry.identity is not None}
    with _pool(options, Work(None)) as pool:

        def run(tasks: dict[Any, int], what: str) -> Iterator[tuple[int, Row]]:
            results = pool.map(deque(tasks))
            for task, result in progress(results, what, len(tasks), options.progress):
                index = tasks[task]
                is_lost = isinstance(result, LostTask)
                yield index, lost(result, task.path, stock.present[index].identity) if is_lost else result

        headers = {HeaderTask(path, options.strict_view, digest=True, thorough=True): i for i, path in paths.items()}
        rows.update(run(headers, "headers"))
        groups: dict[str, list[int]] = defaultdict(list)
        for index in stock.leaders:
            if not rows[index]["status"]:
                groups[key_of(rows[index])].append(index)
        doubtful = [group for group in groups.values() if len(group) > 1]
        compare = {PictureTask(paths[i], options.strict_view): i for group in doubtful for i in group}
        pictures = dict(run(compare, "copies"))
    for group in doubtful:
        rows.update((i, {**rows[i], **pictures[i]}) for i in group)
        one, others = one_film([{**pictures[i], "index": i} for i in group])
        for row in others:
            rows[row["index"]] = {**rows[row["index"]], **row}
        for index in one[1:]:
            rows[index] = duplicate(index, one[0], rows[index]["input_sha256"])
    for leader, names in stock.aliases.items():
        rows.update((i, duplicate(i, leader, rows[leader]["input_sha256"])) for i in names)
    for index, entry in stock.present.items():
        yield {**rows[index], "path": entry.path, "status": rows[index]["status"] or "eligible"}


def one_film(pictures: list[Row]) -> tuple[list[int], list[Row]]:
    """Settle files that claim to be one film (equal SOP instance UID or equal bytes).

    Args:
        pictures: rows of the files that could be read, with a digest of what they show under ``picture``; others are
            left alone.

    Returns:
        Their numbers if all show the same, the first one to stand for all; else none, and rows that say ``conflict``:
        nobody can tell which is right.
    """
    readable = [row for row in pictures if not row["status"]]
    if len({row["picture"] for row in readable}) > 1:  # type: ignore[typeddict-item]
        return [], [{**row, "status": "failed", "reason": Reason.CONFLICT} for row in readable]
    return [row["index"] for row in readable], []


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
        self._pool = _pool(options, Work(chain), in_flight=1 if batches else 2)
        self._cleanup = contextlib.ExitStack()
        self._aliases: dict[int, list[int]] = {}
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
                self._manifest.sync()
                if self.ranks.size > 1:
                    self._manifest.load()
                write_csv(self.output_dir, self.rows)
                if self.options.report:
                    options = self.options
                    write_report(
                        self.output_dir, self.rows, self.provenance, options.viewer_url, options.report_patients
                    )

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
        stock = self._take_stock()
        groups = pending_groups(stock, self._inputs.current, self._manifest.current, self.options, self._is_whole)
        self._aliases = stock.aliases
        for index in set(stock.aliases) - {index for group in groups for index in group}:
            self._record_aliases(index)
        return groups, stock.aliases

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
                    yield from (duplicate(index, row["index"], self._digests[index]) for index in rest)
                elif rest:
                    queues.append(rest)

    def _compare(self, groups: list[list[int]]) -> Generator[Row, None, list[list[int]]]:
        """Settle files that claim to be one film; return those of which one that runs will stand for all."""
        paths = {self._path(index): index for group in groups for index in group}
        pictures: dict[int, Row] = {}
        tasks = deque(PictureTask(path, self.options.strict_view) for path in paths)
        for task, result in self._pool.map(tasks):
            row = self._row(paths[task.path], result)
            pictures[row["index"]] = row
            if row["status"]:
                yield row
        queues = []
        for group in groups:
            one, others = one_film([pictures[index] for index in group])
            yield from others
            if one:
                queues.append(one)
        self._digests = {index: row["input_sha256"] for index, row in pictures.items() if row["input_sha256"]}
        return queues

    def _run_films(self, indices: Iterable[int]) -> Iterator[Row]:
        numbers = {self._path(i): i for i in indices}
        kind = FilmTask if self._batches is None else PrepareTask
        tasks: deque[Any] = deque(
            kind(path, self.options.strict_view, self._digests.get(i) or key_of(self._inputs.current[i]["header"]))
            for path, i in numbers.items()
        )
        prepared: list[tuple[str, Prepared]] = []
        while tasks or prepared:
            for task, result in self._pool.map(tasks):
                if isinstance(result, Prepared):
                    prepared.append((task.path, result))
                    if self._batches is not None and len(prepared) == self._batches.size:
                        yield from self._predict(prepared, tasks, numbers)
                else:
                    yield self._row(numbers[task.path], result)
            yield from self._predict(prepared, tasks, numbers)  # nothing is left that could fill the batch

    def _predict(
        self, prepared: list[tuple[str, Prepared]], tasks: deque[Any], numbers: dict[str, int]
    ) -> Iterator[Row]:
        """Turn prepared films into tasks, to be done before others, and into rows where the network fails."""
        if not prepared or self._batches is None:
            return
        predictions = self._batches([film.image for _, film in prepared])
        for (path, film), prediction in zip(prepared, predictions, strict=True):
            if isinstance(prediction, Exception):
                yield self._row(numbers[path], refused(prediction, **film.row))
            else:
                tasks.appendleft(CompleteTask(path, film, prediction))
        prepared.clear()

    def _row(self, index: int, result: Row | LostTask) -> Row:
        """The row of what a worker process gave, or did not give."""
        if isinstance(result, LostTask):
            identity = self._inputs.current[index].get("identity")
            result = lost(result, self._path(index), identity and Identity(*identity))
        return {**result, "index": index}

    @property
    def inputs(self) -> Mapping[int, Any]:
        """Where each input is and what its header says, by its number."""
        return self._inputs.current

    @property
    def rows(self) -> list[Row]:
        """The current rows; one without an input, whose journal has lost it, is void."""
        return [cast(Row, row) for index, row in self._manifest.current.items() if index in self._inputs.current]

    def record(self, row: Row) -> None:
        """Store a row, and those of other names of the same file."""
        index = row["index"]
        entry = self._inputs.current[index]
        # A row that was made of the file's bytes says all that they say; another one takes over what was seen before.
        header = {} if "identity" in row else entry.get("header") or {}
        row = cast(Row, header | {key: value for key, value in row.items() if value is not None})
        row["warnings"] = list(dict.fromkeys([*header.get("warnings", []), *row["warnings"]]))
        row["model_sha256"], row["config_sha256"] = self.provenance.model_sha256, self.provenance.config_sha256
        if self.options.manifest_paths:
            row["path"] = entry["path"]
        row["replaces"] = self._replaced(index, row)
        columns = {column: row.get(column) for column in COLUMNS}
        self._manifest.add(
            {name: value for name, value in columns.items() if name not in OPTIONAL or value not in (None, [])}
        )
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
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError as error:
            raise InputError("folder runs need Linux or macOS: this system has no locks for them") from error
        except OSError as error:
            raise InputError(f"another run is at work in {self.output_dir}") from error
        scratch = self.private / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        owner = {"model_sha256": self.provenance.model_sha256, "config_sha256": self.provenance.config_sha256}
        file = self.private / "owner.json"
        if not file.exists():
            write_whole(file, json.dumps(owner).encode(), scratch)
        elif file.read_bytes() != json.dumps(owner).encode():
            raise InputError(f"{self.output_dir} holds results of another model or other settings; take another folder")

    def _take_stock(self) -> Stock:
        """Look at the inputs, and record what no film has to be run for.

        An input is on the disk before the first row that refers to it.
        """
        inputs, rows = self._inputs.current, self._manifest.current
        stock = take_stock(self.folder.entries(without=[self.output_dir]), inputs, rows)
        for new in stock.new:
            self._inputs.add(new)
        looked_at = to_look_at(stock, inputs, rows, self.options)
        self._look_at(looked_at, stock)
        self._inputs.sync()
        for row in settled(looked_at, stock, inputs, rows, self.options):
            self.record(row)
        for row in gone(stock, inputs, rows, self._is_below):
            if row["index"] in rows:
                self._manifest.add(row)
            else:
                self.record(row)
        return stock

    def _look_at(self, indices: list[int], stock: Stock) -> None:
        """Read headers."""
        tasks = {}
        for index in indices:
            entry = stock.present[index]
            if entry.identity is None:
                self._inputs.add(input_row(index, entry, dict(no_file(entry))))
            else:
                tasks[HeaderTask(entry.path, self.options.strict_view, index in stock.changed)] = index
        results = self._pool.map(deque(tasks))
        for task, result in progress(results, "headers", len(tasks), self.options.progress):
            entry = stock.present[tasks[task]]
            header = lost(result, entry.path, entry.identity) if isinstance(result, LostTask) else result
            self._inputs.add(input_row(tasks[task], entry, dict(header)))

    def _is_below(self, path: str) -> bool:
        """Whether a path belongs to the input folder, or is the input file."""
        root = os.path.realpath(self.folder.root)
        return path == root or path.startswith(root.rstrip("/") + "/")

    def _is_whole(self, row: Mapping[str, Any]) -> bool:
        """Whether the results of a row, and its pictures for a report, are there in the size that was written."""
        if self.options.report and not thumbnails_file(self.output_dir, row["input_sha256"]).exists():
            return False
        for output in row["outputs"]:
            try:
                if (self.output_dir / output["path"]).stat().st_size != output.get("size"):
                    return False
            except OSError:
                return False
        return True

    def _record_aliases(self, leader: int) -> None:
        for row in alias_rows(leader, self._aliases.get(leader, ()), self._manifest.current):
            self.record(row)

    def _replaced(self, index: int, row: Row) -> list[str]:
        """Paths of earlier results that stay on disk but no longer stand for this input."""
        before = self._manifest.current.get(index, {})
        earlier = [*before.get("replaces", []), *(output["path"] for output in before.get("outputs", []))]
        now = {output["path"] for output in row["outputs"]}
        return [path for path in dict.fromkeys(earlier) if path not in now]

    def _path(self, index: int) -> str:
        return str(self._inputs.current[index]["path"])
