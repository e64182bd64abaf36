"""Films decoded once: a memory-mapped store at network size, shared by training, evaluation and scoring."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.machine import cpu_count, one_thread
from monai_cxr_vae.paths import cache_folder

# Below this many films, starting processes costs more than it saves.
POOL_FROM = 400
FULL = 65535
UNGUARDED = 'many films are read by processes that import the script: put its work under if __name__ == "__main__"'


class FilmDataset(Dataset):
    """Films at network size, each decoded once per machine and read from memory after that.

    ``dataset[i]`` and ``dataset.__getitems__([i, j, ...])`` (the whole batch at once, as PyTorch's loader asks when the
    method exists) give plain tensors: ``image`` float32 ``(1, S, S)`` in [0, 1], and ``mask`` bool, same shape, true
    where the film is and false on padding.

    ``digests`` holds the SHA-256 of each file.

    Args:
        data: ``[{"image": path}, ...]``.
        transform: from such a dictionary to an ``image`` of ``(1, S, S)`` whose meta has ``geometry``.
        cache_dir: folder of the store; None for the user's cache folder.

    Raises:
        InputError: films that cannot be read, with the number of them and the first one's reason; or many films are new
            and the script lacks ``if __name__ == "__main__":``, which processes need that decode them.
    """

    def __init__(
        self,
        data: Sequence[dict[str, str]],
        transform: Callable[[dict[str, str]], dict[str, Any]],
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A process that decodes is importing an unguarded script, whose first process holds the store's lock.
            raise InputError(UNGUARDED)
        self.data = list(data)
        self.transform = transform
        store = FilmStore(cache_dir or cache_folder() / "films", transform)
        with ThreadPoolExecutor(cpu_count()) as pool:
            digests = pool.map(_digest, (item["image"] for item in self.data))
            bar = tqdm(digests, "comparing films", len(self.data), unit="film", disable=None, leave=False, delay=1)
            self.digests = list(bar)
        self.records = store.records([item["image"] for item in self.data], self.digests)
        self.films = store.open()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = self.records[np.asarray(indices)]
        images = self.films[rows["record"]].astype(np.float32)
        images /= FULL  # in place: fresh memory costs ten times the division
        side = np.arange(images.shape[-1])
        top, left, height, width = rows["box"].T[..., None]
        down, across = (top <= side) & (side < top + height), (left <= side) & (side < left + width)
        masks = down[:, :, None] & across[:, None, :]
        return {"image": torch.from_numpy(images)[:, None], "mask": torch.from_numpy(masks)[:, None]}

    def batches(self, size: int = 64) -> Iterator[Tensor]:
        """All films in order, ``(size, 1, S, S)`` at a time, the last one perhaps shorter."""
        for start in range(0, len(self), size):
            yield self.__getitems__(range(start, min(start + size, len(self))))["image"]

    def images(self, maximum: int | None = None) -> Tensor:
        """All films, or ``maximum`` of them spread evenly, ``(n, 1, S, S)`` float32 in [0, 1]."""
        n = len(self) if maximum is None else min(maximum, len(self))
        return self.__getitems__(np.linspace(0, len(self) - 1, n).round().astype(int).tolist())["image"]

    def masks(self) -> Tensor:
        """Where the films are, ``(N, 1, S, S)`` bool, in the order of :meth:`images`."""
        return self.__getitems__(range(len(self)))["mask"]


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

    def records(self, paths: Sequence[str], digests: Sequence[str]) -> np.ndarray:
        """Record number and content box of each film; films that are not in the store yet are decoded into it.

        Args:
            paths: the films.
            digests: their SHA-256.
        """
        with self._locked():
            index = self._read_index()
            missing = {digest: path for digest, path in zip(digests, paths, strict=True) if digest not in index}
            if missing:
                self._fill(missing, index)
        rows = np.empty(len(paths), dtype=[("record", np.int64), ("box", np.int64, 4)])
        for row, digest in zip(rows, digests, strict=True):
            row["record"], row["box"] = index[digest]["record"], index[digest]["box"]
        side = index[digests[0]]["side"]
        self._shape = (len(index), side, side)
        return rows

    def open(self) -> np.ndarray:
        """The films, ``(records, S, S)`` uint16, memory-mapped read-only."""
        return np.memmap(self.folder / "films.u16", dtype="<u2", mode="r", shape=self._shape)

    def _fill(self, missing: dict[str, str], index: dict[str, dict[str, Any]]) -> None:
        failures: list[str] = []
        decoded = _decode_all(self.transform, missing)
        with (self.folder / "films.u16").open("ab") as films, (self.folder / "index.jsonl").open("a") as lines:
            for digest, path, film in tqdm(
                decoded, "reading films", len(missing), unit="film", disable=None, leave=False
            ):
                if isinstance(film, str):
                    failures.append(f"{path}: {film}")
                    continue
                pixels, box = film
                size = pixels.shape[0] * pixels.shape[1] * 2
                record = len(index)
                films.seek(record * size)
                films.truncate(record * size)
                films.write(pixels.tobytes())
                films.flush()
                index[digest] = {"record": record, "box": box, "side": pixels.shape[0]}
                lines.write(json.dumps({"digest": digest, **index[digest]}) + "\n")
                lines.flush()
        if failures:
            raise InputError(f"{len(failures)} of {len(missing)} films cannot be read; the first: {failures[0]}")

    def _read_index(self) -> dict[str, dict[str, Any]]:
        file = self.folder / "index.jsonl"
        if not file.exists():
            return {}
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # a writer was killed in the middle of a line
            os.truncate(file, len(whole))
        return {entry.pop("digest"): entry for entry in map(json.loads, whole.splitlines())}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _describe(value: Any, above: tuple[int, ...] = ()) -> str:
    """A transform's classes and all their settings as text, the same in every process (a pickle is not)."""
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
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return type(value).__qualname__ + _describe(vars(value), above)


def _reading_code() -> str:
    """Digest of the modules that turn a file into pixels: a film read by older code is read again."""
    package = Path(__file__).parents[1]
    files = [package / "radiograph.py", package / "transforms.py", *sorted((package / "dicom").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _decode_all(
    transform: Callable[[dict[str, str]], dict[str, Any]], films: dict[str, str]
) -> Iterable[tuple[str, str, tuple[np.ndarray, list[int]] | str]]:
    """(digest, path, film or the reason why not) of each film, in order, decoded on all cores when there are many."""
    workers = cpu_count()
    jobs = [(transform, path) for path in films.values()]
    if len(jobs) < POOL_FROM or workers < 2:
        results: Iterable = map(_decode, jobs)
        yield from ((digest, path, film) for (digest, path), film in zip(films.items(), results, strict=True))
        return
    context = multiprocessing.get_context("forkserver")
    # Imported once, not by each process; MONAI takes longer than hundreds of films.
    context.set_forkserver_preload([__name__, "monai.transforms", "monai_cxr_vae.data.readers"])
    try:
        with ProcessPoolExecutor(workers, context, initializer=one_thread) as pool:
            results = pool.map(_decode, jobs, chunksize=16)
            yield from ((digest, path, film) for (digest, path), film in zip(films.items(), results, strict=True))
    except BrokenProcessPool as error:
        # The operating system does not tell which of them it was.
        raise InputError(f"a process that reads films has died; {UNGUARDED}, or memory or a decoder failed") from error


def _decode(job: tuple[Callable[[dict[str, str]], dict[str, Any]], str]) -> tuple[np.ndarray, list[int]] | str:
    transform, path = job
    try:
        image = transform({"image": path})["image"]
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # MONAI wraps what a transform raises
            cause = cause.__cause__
        return str(cause)
    pixels = (image[0].numpy() * FULL + 0.5).astype("<u2")
    return pixels, list(image.meta["geometry"]["box"])
