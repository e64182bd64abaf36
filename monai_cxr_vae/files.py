"""Files as such: where they lie, read once, told apart, written whole or not at all, found in folders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from monai_cxr_vae.errors import Changed, EmptyFile, InputError, NotAFile, OutputError, ReadFailed, TooLarge
from monai_cxr_vae.invocation import option, runs_as_bundle

MAX_FILE_BYTES = 256 * 2**20
# Inside an output folder, so that a rename stays on one file system, and out of sight of whoever lists the results.
PRIVATE_FOLDER = ".run"
# The kernel stamps files with the time of its last tick: within one, a file can change twice and show it once.
_TICK_NS = 20_000_000


def bundle_root() -> str:
    """Folder of the bundle.

    On the command line of ``monai.bundle`` it is the bundle that ``--config_file`` lies in, so that a copied bundle
    uses its own weights; else it is inside the package (installed from a wheel) or beside it (in a checkout).
    """
    if runs_as_bundle():
        for name in option("config_file"):
            folder = Path(name).resolve().parent.parent
            if (folder / "configs").is_dir() and (folder / "models").is_dir():
                return str(folder)
    here = Path(__file__).parent
    inside = here / "bundle"
    return str(inside if (inside / "configs").is_dir() else here.parent / "bundle")


def cache_folder() -> Path:
    """The user's own folder for what can be made again; readable by nobody else, since it may hold films."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "monai_cxr_vae"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class Identity(NamedTuple):
    """What a file system says of a file. A file with the same identity has the same bytes; the reverse is not so."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Take it from a look at the file."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class OpenFile:
    """A file while it is read: its bytes from the start, and the identity that they belong to."""

    stream: io.BufferedReader
    identity: Identity

    def sha256(self) -> str:
        """SHA-256 of the whole file, 64 hexadecimal digits."""
        self.stream.seek(0)
        return hashlib.file_digest(self.stream, "sha256").hexdigest()


@contextlib.contextmanager
def open_file(path: str | os.PathLike) -> Iterator[OpenFile]:
    """Open a regular file, once.

    Raises:
        NotAFile, ReadFailed: as the names say; the message holds no path.
        Changed: on leaving, if the file was written to meanwhile.
    """
    try:
        _check_kind(Path(path).stat())
        # Never waits for the other end of what has become a pipe since.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ReadFailed("the file cannot be found or opened") from error
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        _check_kind(status)
        age = time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns)
        if 0 <= age < _TICK_NS:
            time.sleep(_TICK_NS / 1e9)
            status = os.fstat(handle)
        identity = Identity.of(status)
        yield OpenFile(stream, identity)
        after = os.fstat(handle)
        # Losing its name to another file counts as a change of status too, but leaves the bytes as they were.
        compared = 5 if after.st_nlink == status.st_nlink else 4
        if Identity.of(after)[:compared] != identity[:compared]:
            raise Changed("the file was written to while it was read")


def check_size(identity: Identity) -> None:
    """Refuse a file that is empty or above :data:`MAX_FILE_BYTES`.

    Raises:
        EmptyFile, TooLarge: it is.
    """
    if identity.size == 0:
        raise EmptyFile("the file is empty")
    if identity.size > MAX_FILE_BYTES:
        raise TooLarge(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")


def read_file(path: str | os.PathLike) -> tuple[bytes, Identity]:
    """Bytes of a file and the identity they belong to.

    Raises:
        FilmError: as of :func:`open_file` and :func:`check_size`.
    """
    try:
        with open_file(path) as file:
            check_size(file.identity)
            return file.stream.read(file.identity.size), file.identity
    except OSError as error:
        raise ReadFailed("the file cannot be read") from error


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("this is not a regular file")


def write_whole(
    path: Path, data: bytes | Callable[[BinaryIO], object], scratch: Path | None = None, mode: int = 0o666
) -> None:
    """Write a file so that a kill or a power cut at any moment leaves the old file, the new one or none.

    Args:
        path: the file; its folder is made when missing.
        data: the bytes, or a function that writes them to a stream.
        scratch: a folder on the same file system for the unfinished file; None for that of ``path``.
        mode: permissions, subject to the umask.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = (scratch or path.parent) / f".{uuid.uuid4().hex}.tmp"
    try:
        for folder in {path.parent, temporary.parent}:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    data(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder_handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder_handle)
        finally:
            os.close(folder_handle)
    except OSError as error:
        # Names inside an output folder tell which studies went in.
        what = path if scratch is None else "the output"
        raise OutputError(f"{what} cannot be written: {error.strerror or type(error).__name__}") from error


@dataclass(frozen=True)
class Entry:
    """A path and what the file system says of it; no identity for what is no regular file.

    ``listed`` is false for a folder, or a path of any kind, that cannot be looked at.
    """

    path: str
    identity: Identity | None
    listed: bool = True


def walk(root: str | os.PathLike, without: Iterable[str | os.PathLike] = ()) -> list[Entry]:
    """All files below a folder, or one file, in the byte order of their absolute paths.

    Hidden files count and names mean nothing. A folder is entered once, whatever links lead to it: by its own path if
    that lies below ``root``. What cannot be looked at is an entry too, so that it can be told.

    Args:
        root: the folder or file.
        without: folders that are left out wherever they turn up.

    Raises:
        InputError: there is nothing of that name.
    """
    start = os.path.realpath(root)
    try:
        status = Path(start).stat()
    except OSError as error:
        raise InputError(f"there is no {os.fspath(root)}") from error
    if not stat.S_ISDIR(status.st_mode):
        return [_entry(start, status)]
    entries: list[Entry] = []
    seen = set()
    for folder in without:
        with contextlib.suppress(OSError):
            other = Path(folder).stat()
            seen.add((other.st_dev, other.st_ino))
    folders, links = [start], list[str]()
    while folders or links:
        # Links wait until every folder has been entered by its own path.
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                paths = [item.path for item in found]
        except OSError:
            entries.append(Entry(folder, None, listed=False))
            continue
        for path in paths:
            try:
                link = stat.S_ISLNK(os.lstat(path).st_mode)
            except OSError:
                entries.append(Entry(path, None, listed=False))
                continue
            try:
                status = Path(path).stat()
            except OSError:  # a link to nowhere, or to itself
                entries.append(Entry(path, None))
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if link else folders).append(path)
            else:
                entries.append(_entry(path, status))
        links.sort(key=os.fsencode)
    return sorted(entries, key=lambda entry: os.fsencode(entry.path))


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, Identity.of(status) if stat.S_ISREG(status.st_mode) else None)
