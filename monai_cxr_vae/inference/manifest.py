"""The journals of a folder run: what became of every input (to pass on) and where the inputs are (private)."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_cxr_vae.errors import OutputError
from monai_cxr_vae.files import PRIVATE_FOLDER, write_whole
from monai_cxr_vae.inference.rows import COLUMNS, OPTIONAL


class _Packed(Mapping[int, dict[str, Any]]):
    """Rows kept as their lines, a third of the size, since a run over an archive has a million of them."""

    def __init__(self) -> None:
        self.lines: dict[int, bytes] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self.lines[index])
        return row

    def __iter__(self) -> Iterator[int]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


class Journal:
    """Lines of JSON that are only ever added; of several with one ``index`` the last counts.

    Several processes may add to one journal. A line that a kill cut short is removed when the file is opened again.
    ``current`` has the lines of this process and those that :meth:`load` found.

    Raises:
        OutputError: when opened or added to, if the file cannot be written, or is no longer there.
    """

    def __init__(self, path: Path, mode: int = 0o644) -> None:
        self.current = _Packed()
        self._path = path
        self._unsafe = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode)
        except OSError as error:
            raise _output_error(error) from error
        self.load()

    def load(self) -> None:
        """Take over the lines in the file, and remove one that was cut short."""
        with self._alone(), os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            end = 0
            for line in file:
                try:
                    index = json.loads(line)["index"]
                except (ValueError, TypeError, KeyError):
                    break  # nothing after a broken line can be trusted; what it stood for is done again
                if not line.endswith(b"\n"):
                    break
                self.current.lines[index] = line
                end += len(line)
            os.ftruncate(self._file, end)

    def add(self, row: Mapping[str, Any]) -> None:
        """Store a row, whole or not at all."""
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with self._alone():
            end = self._size()
            written = os.write(self._file, line)
            if written != len(line):
                os.ftruncate(self._file, end)
                raise OutputError("the output cannot be written: No space left on device")
        self.current.lines[row["index"]] = line
        self._unsafe = True

    def sync(self) -> None:
        """Make sure that the rows are on the disk.

        Raises:
            OutputError: they are not, or their file is no longer where it was.
        """
        with self._alone():
            self._size()
        if self._unsafe:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise _output_error(error) from error
            self._unsafe = False

    def close(self) -> None:
        """Make sure that the rows are on the disk, and leave the file."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _size(self) -> int:
        """Size of the file, which must still be the one of that name: a row in a file that is gone says nothing."""
        status = os.fstat(self._file)
        try:
            there = self._path.stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
            raise OutputError("the output folder was removed or replaced while the run was at work")
        return status.st_size

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes away from the file."""
        import fcntl  # missing on Windows, which the rest of the package can do without

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise _output_error(error) from error


def write_csv(output_dir: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``manifest.csv``: the current rows in the order of their index."""
    rows = sorted(rows, key=lambda row: row["index"])
    used = {key for row in rows for key in row}
    columns = [column for column in COLUMNS if column not in OPTIONAL or column in used]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    # A path may hold bytes that are no text.
    text = buffer.getvalue().encode(errors="backslashreplace")
    write_whole(output_dir / "manifest.csv", text, output_dir / PRIVATE_FOLDER / "tmp")


def _cell(value: Any) -> Any:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict) else value


def _output_error(error: OSError) -> OutputError:
    return OutputError(f"the output cannot be written: {os.strerror(error.errno or 0)}")
