"""One file read once: its bytes, what they are, and whose."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import is_colour
from monai_cxr_vae.dicom.decode import check_syntax, pixel_format
from monai_cxr_vae.dicom.files import looks_like_dicom, open_dataset, quiet
from monai_cxr_vae.dicom.objects import malformed_identity
from monai_cxr_vae.dicom.select import check_film
from monai_cxr_vae.dicom.uids import is_safe_uid
from monai_cxr_vae.errors import CorruptFile, FilmError, NoPixels, NotDicom, OwnOutput, explain, parsing
from monai_cxr_vae.files import Identity, check_size, open_file, read_file

# Stands near the beginning of every PNG and NIfTI file that this program writes.
OWN_MARK = b"monai_cxr_vae"
_HEAD = 4096


@dataclass(frozen=True, eq=False)
class Film:
    """A file as it was at one moment; everything that is made of a film is made of these bytes.

    Attributes:
        path: where it was, for messages and results; never opened again.
        data: the whole file.
        identity: of the file that the bytes came from.
    """

    path: str
    data: bytes
    identity: Identity

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes, 64 hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def header(self) -> Dataset:
        """What a DICOM file holds before its pixels; raises as :func:`monai_cxr_vae.dicom.files.open_dataset` does."""
        return open_dataset(self.data, pixels=False)

    @property
    def kind(self) -> str:
        """What the bytes are, see :func:`kind_of`."""
        return kind_of(self.data[:_HEAD])


def read_film(path: str | os.PathLike) -> Film:
    """Read a file, once.

    Raises:
        NotAFile, EmptyFile, TooLarge, ReadFailed, Changed: see :func:`monai_cxr_vae.files.read_file`.
    """
    return Film(os.fspath(path), *read_file(path))


def kind_of(head: bytes) -> str:
    """``dicom``, ``png``, ``jpeg``, or ``nifti``, packed or not, from the first bytes of a file and nothing else.

    Raises:
        NotDicom: it is none of them.
        CorruptFile: it is packed and damaged.
    """
    if head[128:132] == b"DICM":  # a preamble may look like anything
        return "dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if is_nifti(_unpacked(head)):
        return "nifti"
    if looks_like_dicom(head):
        return "dicom"
    raise NotDicom("the file is neither DICOM nor a PNG, JPEG or NIfTI image")


def is_nifti(head: bytes) -> bool:
    """Whether unpacked bytes begin as NIfTI-1 or NIfTI-2 does."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def look_at(
    path: str | os.PathLike, *, strict_view: bool = False, digest: bool = False, patient: bool = False
) -> dict[str, Any]:
    """Say what a file is without its pixels; never raises for anything a file can be.

    Args:
        path: the file; opened once.
        strict_view: see :func:`monai_cxr_vae.dicom.select.check_film`.
        digest: always give ``input_sha256``; else only where it has to stand for the film.
        patient: give Patient ID under ``patient``, for comparing and never for writing anywhere.

    Returns:
        ``status`` None if it is worth a try, else ``skipped`` or ``failed`` with ``reason``; ``format``, UIDs,
        ``view``, ``warnings``, ``input_sha256``, and the ``identity`` of the file that was seen; ``colour`` if it has
        three channels, of which only the pixels tell whether they are grey after all.
    """
    header = _new_header()
    try:
        with open_file(path) as file:
            header["identity"] = list(file.identity)
            try:
                check_size(file.identity)
                head = file.stream.read(_HEAD)
                _describe(head, lambda: open_dataset(file.stream, pixels=False), header, strict_view, patient)
            except FilmError as error:
                refuse(header, error)
            if digest or header["status"] or header["format"] != "dicom":
                header["input_sha256"] = file.sha256()
    except Exception as error:
        refuse(header, error)
    return header


def header_of(film: Film, *, strict_view: bool = False) -> dict[str, Any]:
    """What :func:`look_at` says of a file, of one that has been read."""
    header = _new_header()
    _describe(film.data[:_HEAD], lambda: film.header, header, strict_view)
    return {**header, "input_sha256": film.sha256, "identity": list(film.identity)}


def refuse(row: dict[str, Any], error: BaseException) -> dict[str, Any]:
    """Complete the row of a file that cannot be used, by the error or what it was raised from."""
    eligible, reason, codes = explain(error)
    row.update(status="failed" if eligible else "skipped", reason=reason)
    row["warnings"] = [*row["warnings"], *codes]
    return row


def _new_header() -> dict[str, Any]:
    return {
        "status": None,
        "reason": None,
        "format": None,
        "warnings": [],
        "input_sha256": None,
        "identity": None,
    }


def _describe(
    head: bytes, dataset: Callable[[], Dataset], header: dict[str, Any], strict_view: bool, patient: bool = False
) -> None:
    try:
        header["format"] = kind_of(head)
        if header["format"] == "dicom":
            _describe_dicom(dataset(), header, strict_view, patient)
        elif OWN_MARK in (_unpacked(head) if header["format"] == "nifti" else head)[:512]:
            raise OwnOutput("a picture that this program wrote itself")
    except Exception as error:
        refuse(header, error)


def _describe_dicom(dataset: Dataset, header: dict[str, Any], strict_view: bool, patient: bool) -> None:
    with quiet():
        if patient:
            with parsing("Patient ID cannot be decoded"):
                header["patient"] = str(dataset.get("PatientID") or "")
        for name in ("Study", "Series", "SOP"):
            uid = dataset.get(f"{name}InstanceUID")
            header[f"{name.lower()}_uid"] = str(uid) if is_safe_uid(uid) else None  # anything may stand there
        header["view"], warnings = check_film(dataset, strict_view=strict_view)
        header["warnings"] = [*warnings, *malformed_identity(dataset)]
        if dataset.ends_without_pixels:
            raise NoPixels("there are no pixels in the file")
        check_syntax(pixel_format(dataset))
        if is_colour(dataset):
            header["colour"] = True


def _unpacked(head: bytes) -> bytes:
    """The first bytes of what a gzip file holds; those of any other file as they are.

    Raises:
        CorruptFile: it holds nothing that can be unpacked.
    """
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD)
    except zlib.error as error:
        raise CorruptFile("the compressed file is damaged") from error
