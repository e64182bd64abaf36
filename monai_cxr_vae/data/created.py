"""When the first result of each film was made, kept in the output folder: whatever is made again says the same."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from monai_cxr_vae.errors import OutputError
from monai_cxr_vae.files import PRIVATE_FOLDER


class CreationTimes:
    """The times of one output folder, in a private file to which processes only ever add lines.

    A time is on the disk before it is told, hence before any object that holds it. A line that a power cut tore is
    removed; what it stood for was never told.

    Args:
        output_dir: the output folder.
        fixed: the time of all films, which is then kept nowhere.
    """

    def __init__(self, output_dir: Path, fixed: datetime.datetime | None = None) -> None:
        self._path = output_dir / PRIVATE_FOLDER / "created"
        self._fixed = fixed
        self._known: dict[bytes, bytes] = {}
        self._end = 0

    def of(self, film: str) -> datetime.datetime:
        """The time of a film's first result: now, if there was none; whole seconds, with the offset from UTC.

        Args:
            film: SHA-256 of the film's bytes.

        Raises:
            OutputError: it cannot be kept.
        """
        if self._fixed:
            return self._fixed
        key = film[:32].encode()
        try:
            if key not in self._known:
                import fcntl  # missing on Windows, which the rest of the package can do without

                self._path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(handle, "r+b", buffering=0) as file:  # which also lets go of the lock
                    fcntl.flock(file, fcntl.LOCK_EX)
                    self._look_up_or_add(key, handle)
        except OSError as error:
            raise OutputError(f"the output cannot be written: {os.strerror(error.errno or 0)}") from error
        return datetime.datetime.fromisoformat(self._known[key].decode())

    def _look_up_or_add(self, key: bytes, file: int) -> None:
        size = os.fstat(file).st_size
        if size < self._end:  # another file by now
            self._known, self._end = {}, 0
        lines = os.pread(file, size - self._end, self._end).splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                name, _, time = line.strip().partition(b" ")
                self._known[name] = time
                self._end += len(line)
        os.ftruncate(file, self._end)
        if key not in self._known:
            time = datetime.datetime.now().astimezone().isoformat(timespec="seconds").encode()
            line = key + b" " + time + b"\n"
            if os.write(file, line) != len(line):
                raise OutputError("the output cannot be written: No space left on device")
            os.fsync(file)
            if not self._end:
                folder = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            self._known[key], self._end = time, self._end + len(line)
