"""Films decoded once: a memory-mapped store at network size, shared by training, evaluation and scoring."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import logging
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset

from monai_cxr_vae.errors import Changed, FilmError, InputError, OutputError, explain
from monai_cxr_vae.files import cache_folder, check_size, open_file, write_whole
from monai_cxr_vae.film import read_film
from monai_cxr_vae.machine import cpu_count
from monai_cxr_vae.pool import IsolatedPool, check_main_guard
from monai_cxr_vae.progress import Progress, progress

logger = logging.getLogger(__name__)

FULL = 65535
_MUCH = 10**8  # bytes


class FilmDataset(Dataset):
    """Films at network size, each decoded once per machine and read from memory after that.

    ``dataset[i]`` and ``dataset.__getitems__([i, j, ...])`` (the whole batch at once, as PyTorch's loader asks when the
    method exists) give plain tensors: ``image`` float32 ``(1, S, S)`` in [0, 1], and ``mask`` bool, same shape, true
    where the film is and false on padding. Where the data have a ``label``, so has the batch: a tensor of whole numbers
    or of float32, ``(N,)`` or ``(N, labels)``, or a list of texts.

    ``digests`` holds the SHA-256 of each file.

    Args:
        data: ``[{"image": path}, ...]``, all with a ``label`` or none.
        transform: from such a dictionary to an ``image`` of ``(1, S, S)`` whose meta has ``geometry``.
        cache_dir: folder of the store; None for the user's cache folder.
        unreadable: file that lists the films which cannot be read, see :func:`report_unreadable`; None for none.
        skip_unreadable: go on without them.

    Raises:
        InputError: films that cannot be read, or none that can.
        OutputError: the store cannot be written.
        WorkerError: the processes that read films cannot be started.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, str]], dict[str, Any]],
        cache_dir: str | os.PathLike | None = None,
        unreadable: str | os.PathLike | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        check_main_guard()  # before the lock of the store, which the script's first process holds
        self.transform = transform
        with _keeping(cache_dir):
            store = FilmStore(cache_dir or cache_folder() / "films", transform)
        data = list(data)
        with ThreadPoolExecutor(cpu_count()) as pool:
            digests = pool.map(_digest, (item["image"] for item in data))
            compared = list(zip(data, progress(digests, "comparing films", len(data)), strict=True))
        known = [(item, digest) for item, digest in compared if isinstance(digest, str)]
        with _keeping(store.folder):
            records, failures = store.records([item["image"] for item, _ in known], [digest for _, digest in known])
        reasons = [failures.get(d) if isinstance(d, str) else explain(d)[1] for _, d in compared]
        self.data = [item for item, reason in zip(data, reasons, strict=True) if reason is None]
        self.labelled = all("label" in item for item in self.data)
        self.digests = [digest for _, digest in known if digest not in failures]
        self.records = records
        report_unreadable(
            [(reason, item["image"]) for item, reason in zip(data, reasons, strict=True) if reason is not None],
            len(data),
            unreadable,
            skip_unreadable,
        )
        self.films = store.open()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        rows = self.records[np.asarray(indices)]
        batch: dict[str, Any] = {"image": self._images(rows), "mask": self._masks(rows)}
        if self.labelled:
            labels = [self.data[i]["label"] for i in indices]
            batch["label"] = torch.tensor(labels) if isinstance(labels[0], Real | list) else labels
        return batch

    def view(self, name: Literal["image", "mask"]) -> FilmView:
        """All films, or their masks, to be sliced like a tensor ``(N, 1, S, S)``: only what is sliced is read."""
        return FilmView(self.records, self._images if name == "image" else self._masks)

    def batches(self, what: str | None = None, size: int = 64) -> Iterator[dict[str, Tensor]]:
        """All films in order, ``size`` at a time, the last batch perhaps smaller.

        Args:
            what: what is done, to be shown with how far it has come; None shows nothing.
            size: films at a time.
        """
        with Progress(what or "", len(self), shown=what is not None) as bar:
            for start in range(0, len(self), size):
                stop = min(start + size, len(self))
                yield self.__getitems__(range(start, stop))
                bar.update(stop - start)

    def images(self, maximum: int | None = None) -> Tensor:
        """All films, or ``maximum`` of them spread evenly, ``(n, 1, S, S)`` float32 in [0, 1]."""
        n = len(self) if maximum is None else min(maximum, len(self))
        return self.view("image")[np.linspace(0, len(self) - 1, n).round().astype(int)]

    def _images(self, rows: np.ndarray) -> Tensor:
        images = self.films[rows["record"]].astype(np.float32)
        images /= FULL  # in place: fresh memory costs ten times the division
        return torch.from_numpy(images)[:, None]

    def _masks(self, rows: np.ndarray) -> Tensor:
        side = np.arange(self.films.shape[-1])
        top, left, height, width = rows["box"].T[..., None]
        down, across = (top <= side) & (side < top + height), (left <= side) & (side < left + width)
        return torch.from_numpy(down[:, :, None] & across[:, None, :])[:, None]


class FilmView:
    """What :meth:`FilmDataset.view` gives.

    Args:
        records: rows of the store's index.
        read: from some of them to ``(n, 1, S, S)``.
    """

    def __init__(self, records: np.ndarray, read: Callable[[np.ndarray], Tensor]) -> None:
        self._records, self._read = records, read

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, chosen: slice | Sequence[int] | np.ndarray) -> Tensor:
        return self._read(self._records[chosen])


def report_unreadable(
    films: Sequence[tuple[str, str]], of: int, file: str | os.PathLike | None, skip: bool = False
) -> None:
    """Say which films cannot be read, where only their owner looks: paths may name patients.

    Args:
        films: (reason, path) of each.
        of: how many films there are in all.
        file: csv with the columns ``reason`` and ``path``; what it says of other paths stays. None for none.
        skip: go on without them, with one line that says how many they are.

    Raises:
        InputError: there are some and they are not to be skipped, or nothing else is left.
    """
    if not films:
        return
    listed = ""
    if file is not None:
        file = Path(file)
        rows = {path: reason for reason, path in films}
        if file.is_file():
            with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
                rows = {row["path"]: row["reason"] for row in csv.DictReader(lines)} | rows
        buffer = io.StringIO(newline="")
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(("reason", "path"))
        table.writerows((reason, path) for path, reason in rows.items())
        write_whole(file, buffer.getvalue().encode(errors="surrogateescape"), mode=0o600)
        listed = f"; {file} lists them"
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r.split()[0] for r, _ in films).most_common())
    line = f"{len(films)} of {of} films cannot be read ({reasons}){listed}"
    if not skip or len(films) == of:
        raise InputError(line)
    logger.warning("%s; the others are used", line)


def whole_batch(batch: Any) -> Any:
    """Collate function for a dataset whose ``__getitems__`` already gives the batch."""
    return batch


class FilmStore:
    """Append-only file of 16-bit films at network size, found by the digest of the source file.

    A store belongs to one preprocessing and one version of the reading code: ``<folder>/<digest>/films.u16`` holds
    records of S x S, ``index.jsonl`` one line for each, written after its record. A reader therefore never sees half a
    film; what a killed writer left behind its last line is overwritten. Writers take turns on a file lock.
    """

    def __init__(self, folder: str | os.PathLike, transform: Callable[[dict[str, str]], dict[str, Any]]) -> None:
        key = hashlib.sha256(f"{_describe(transform)}\n{_reading_code()}".encode()).hexdigest()[:16]
        self.folder = Path(folder) / key
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.transform = transform
        self._shape = (0, 0, 0)

    def records(self, paths: Sequence[str], digests: Sequence[str]) -> tuple[np.ndarray, dict[str, str]]:
        """Record number and content box of each film; films that are not in the store yet are decoded into it.

        Args:
            paths: the films.
            digests: their SHA-256.

        Returns:
            A structured array ``record``, ``box`` with a row for each film that is in the store, in their order; and
            why the others are not, by digest.
        """
        with FileLock(self.folder / "lock"):
            index = self._read_index()
            missing = {digest: path for digest, path in zip(digests, paths, strict=True) if digest not in index}
            failures = self._fill(missing, index) if missing else {}
        found = [index[digest] for digest in digests if digest in index]
        rows = np.empty(len(found), dtype=[("record", np.int64), ("box", np.int64, 4)])
        for row, entry in zip(rows, found, strict=True):
            row["record"], row["box"] = entry["record"], entry["box"]
        if found:
            self._shape = (len(index), found[0]["side"], found[0]["side"])
        return rows, failures

    def open(self) -> np.ndarray:
        """The films, ``(records, S, S)`` uint16, memory-mapped read-only."""
        return np.memmap(self.folder / "films.u16", dtype="<u2", mode="r", shape=self._shape)

    def _fill(self, missing: dict[str, str], index: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Decode films into the store, in processes of their own; return why some could not be, by digest."""
        failures: dict[str, str] = {}
        known = len(index)
        tasks = deque(_Task(path, digest) for digest, path in missing.items())
        with (
            IsolatedPool(_Decode(self.transform), in_flight=1) as pool,
            (self.folder / "films.u16").open("ab") as films,
            (self.folder / "index.jsonl").open("a") as lines,
            Progress("reading films", len(tasks)) as bar,
        ):
            for task, film in pool.map(tasks):
                bar.update()
                if isinstance(film, str):
                    failures[task.digest] = film
                    continue
                pixels, box = film
                size = pixels.shape[0] * pixels.shape[1] * 2
                if len(index) == known:
                    self._announce(size * len(missing))
                record = len(index)
                films.seek(record * size)
                films.truncate(record * size)
                films.write(pixels.tobytes())
                films.flush()
                index[task.digest] = {"record": record, "box": box, "side": pixels.shape[0]}
                lines.write(json.dumps({"digest": task.digest, **index[task.digest]}) + "\n")
                lines.flush()
        return failures

    def _announce(self, size: int) -> None:
        """Say what is about to be stored if it is much, in bytes, while nothing is lost yet.

        Raises:
            OSError: there is no room for it.
        """
        if size > shutil.disk_usage(self.folder).free:
            raise OSError(errno.ENOSPC, f"they take {_readable(size)}, which is not free")
        if size >= _MUCH:
            logger.info("decoded films take %s in %s", _readable(size), self.folder)

    def _read_index(self) -> dict[str, dict[str, Any]]:
        file = self.folder / "index.jsonl"
        if not file.exists():
            return {}
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # a writer was killed in the middle of a line
            os.truncate(file, len(whole))
        return {entry.pop("digest"): entry for entry in map(json.loads, whole.splitlines())}


@contextlib.contextmanager
def _keeping(folder: str | os.PathLike | None) -> Iterator[None]:
    """Say which folder cannot hold the films, and what names another one."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"decoded films cannot be kept in {folder or error.filename}: {error.strerror or type(error).__name__}; "
            "--cache_dir, or XDG_CACHE_HOME in the environment, names another folder"
        ) from error


def _readable(size: int) -> str:
    scale, unit = next((s, unit) for s, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= s or unit == "kB")
    return f"{size / scale:.1f} {unit}"


def _describe(value: Any, above: tuple[int, ...] = ()) -> str:
    """A transform's classes, their code and all their settings as text, the same in every process (a pickle is not)."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if id(value) in above:
        return "..."
    above = (*above, id(value))
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(_describe(part, above) for part in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_describe(k, above)}: {_describe(v, above)}' for k, v in value.items())}}}"
    if isinstance(value, type | FunctionType) or not hasattr(value, "__dict__"):
        return _code(value if hasattr(value, "__qualname__") else type(value))
    return _code(type(value)) + _describe(vars(value), above)


def _code(value: Any) -> str:
    """The name of a class or function, and the digest of the module that it stands in."""
    file = getattr(sys.modules.get(value.__module__), "__file__", None)
    digest = "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return f"{value.__qualname__} {digest}"


def _reading_code() -> str:
    """Digest of the modules that turn a file into pixels: a film read by older code is read again."""
    package = Path(__file__).parents[1]
    files = [
        package / "film.py",
        package / "radiograph.py",
        package / "transforms.py",
        *sorted((package / "dicom").glob("*.py")),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _digest(path: str) -> str | Exception:
    try:
        with open_file(path) as file:
            check_size(file.identity)
            return file.sha256()
    except (FilmError, OSError) as error:
        return error


@dataclass(frozen=True)
class _Task:
    path: str
    digest: str


@dataclass(frozen=True)
class _Decode:
    """What a worker process does: the pixels of a film as they are stored and the box of its content, or a reason."""

    transform: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, task: _Task) -> tuple[np.ndarray, list[int]] | str:
        try:
            film = read_film(task.path)
            if film.sha256 != task.digest:
                raise Changed("the file has been replaced")
            image = self.transform({"image": film.path, "film": film})["image"]
            pixels = (image[0].numpy() * FULL + 0.5).astype("<u2")
            return pixels, list(image.meta["geometry"]["box"])
        except Exception as error:
            _, reason, codes = explain(error)
            return " ".join((reason, *codes))
