"""The files of a folder in a fixed order, and what their headers say about running on them."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from monai_cxr_vae.data.writers import file_sha256, is_own_picture
from monai_cxr_vae.dicom.attributes import is_colour, source_value
from monai_cxr_vae.dicom.derive import malformed_identity
from monai_cxr_vae.dicom.files import open_dataset, quiet
from monai_cxr_vae.dicom.select import check_film
from monai_cxr_vae.dicom.uids import is_safe_uid
from monai_cxr_vae.errors import InputError, NotDicom, OwnOutput
from monai_cxr_vae.inference.film_chain import failed, new_row
from monai_cxr_vae.radiograph import read_radiograph

_WHOSE = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Entry:
    """A path and what the file system says about it; ``size`` is -1 for what is no regular file."""

    path: str
    size: int
    mtime_ns: int
    device: int
    inode: int


class FilmFolder(Dataset):
    """Every file of a tree (or a single file) as a film to be tried; nothing is read before it is asked for.

    Links to files are followed, links to folders are not, so that a loop has no end to reach. Hidden files count, and
    names mean nothing.

    Args:
        data: the folder or file.
        transform: applied to ``{"image": path}`` when a film is taken by its number.
    """

    def __init__(self, data: str | os.PathLike, transform: Any = None) -> None:
        self.root = Path(data)
        self.transform = transform
        self._entries: list[Entry] | None = None

    def entries(self) -> list[Entry]:
        """All files in the byte order of their absolute paths.

        Raises:
            InputError: there is no such folder or file.
        """
        root = self.root.resolve()
        if not root.exists():
            raise InputError(f"there is no {self.root}")
        if not root.is_dir():
            return [_entry(os.fspath(root))]
        paths: list[str] = []
        # A folder that cannot be listed is reported like a file that cannot be read.
        for folder, subfolders, names in os.walk(root, onerror=lambda error: paths.append(os.fspath(error.filename))):
            paths.extend(f"{folder}/{name}" for name in names)
            paths.extend(f"{folder}/{name}" for name in subfolders if Path(folder, name).is_symlink())
        return sorted(map(_entry, paths), key=lambda entry: os.fsencode(entry.path))

    def __len__(self) -> int:
        return len(self._listed())

    def __getitem__(self, index: int) -> Any:
        item = {"image": self._listed()[index].path}
        return self.transform(item) if self.transform else item

    def _listed(self) -> list[Entry]:
        if self._entries is None:
            self._entries = self.entries()
        return self._entries


def read_header(
    path: str, *, strict_view: bool = False, digest: bool = False, thorough: bool = False
) -> dict[str, Any]:
    """Say what a file is, without its pixels.

    Args:
        path: the file.
        strict_view: see :func:`monai_cxr_vae.dicom.select.check_film`.
        digest: always give ``input_sha256``; else only where no film run will.
        thorough: decode what a header tells little about: colour images, and what is not DICOM.

    Returns:
        ``status`` None if it is worth a try, else ``skipped`` or ``failed`` with ``reason``; ``format`` ``dicom`` or
        None; UIDs, ``view`` and ``warnings``.
    """
    header: dict[str, Any] = {"status": None, "reason": None, "format": None, "warnings": [], "input_sha256": None}
    try:
        dataset = open_dataset(path, pixels=False)
        with quiet():
            header["format"] = "dicom"
            for name in ("Study", "Series", "SOP"):
                uid = dataset.get(f"{name}InstanceUID")
                header[f"{name.lower()}_uid"] = str(uid) if is_safe_uid(uid) else None  # anything may stand there
            header["view"], warnings = check_film(dataset, strict_view=strict_view)
            header["warnings"] = [*warnings, *malformed_identity(dataset)]
            if thorough and is_colour(dataset):  # whether it is grey after all, the pixels tell
                read_radiograph(path)
    except NotDicom:
        try:
            if is_own_picture(path):
                raise OwnOutput("a picture that this program wrote itself")
            if thorough:
                header["format"] = read_radiograph(path).format
        except Exception as error:
            failed(header, error)
    except Exception as error:
        failed(header, error)
    if digest or header["status"] or header["format"] != "dicom":
        try:
            header["input_sha256"] = file_sha256(path)
        except OSError as error:
            if not header["status"]:
                failed(header, error)
    return header


def read_picture(path: str) -> dict[str, Any]:
    """Tell pictures apart.

    Returns:
        A row with ``status`` None and a digest under ``picture`` if the file can be read. Two files show the same of
        the same patient in the same series if and only if their digests are equal.
    """
    row: dict[str, Any] = {**new_row(), "status": None, "reason": None}
    try:
        row["input_sha256"] = file_sha256(path)
        pixels = read_radiograph(path).pixels
        row["picture"] = hashlib.sha256(repr((_whose(path), pixels.shape)).encode() + pixels.tobytes()).hexdigest()
    except Exception as error:
        failed(row, error)
    return row


def _whose(path: str) -> tuple[str, ...]:
    """What tells patient, study and series of a film; nothing if it is not DICOM."""
    try:
        dataset = open_dataset(path, pixels=False)
    except NotDicom:
        return ()
    with quiet():
        return tuple(str(source_value(dataset, keyword) or "").strip() for keyword in _WHOSE)


def _entry(path: str) -> Entry:
    try:
        status = Path(path).stat()
    except OSError:  # a link to nowhere
        return Entry(path, -1, 0, 0, 0)
    size = status.st_size if stat.S_ISREG(status.st_mode) else -1
    return Entry(path, size, status.st_mtime_ns, status.st_dev, status.st_ino)
