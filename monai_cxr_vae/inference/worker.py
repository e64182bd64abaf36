"""What a worker process does with a file: look at it, compare its picture, run it. Each task opens the file once."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_cxr_vae.dicom.attributes import text
from monai_cxr_vae.dicom.files import quiet
from monai_cxr_vae.errors import Changed
from monai_cxr_vae.film import Film, header_of, look_at, read_film, refuse
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.rows import Row, new_row, refused
from monai_cxr_vae.radiograph import read_radiograph

_WHOSE = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class HeaderTask:
    """Say what a file is, see :func:`monai_cxr_vae.film.look_at`; ``thorough`` decodes what headers say little of."""

    path: str
    strict_view: bool
    digest: bool = False
    thorough: bool = False


@dataclass(frozen=True)
class PictureTask:
    """Tell pictures apart: a row with ``status`` None and a digest under ``picture`` if the film can be read.

    Two files show the same of the same patient in the same series if and only if their digests are equal.
    """

    path: str
    strict_view: bool


@dataclass(frozen=True)
class FilmTask:
    """Run a film, if the file still is what has been decided on: ``key`` is its SOP Instance UID or its digest."""

    path: str
    strict_view: bool
    key: str


@dataclass(frozen=True)
class PrepareTask(FilmTask):
    """The steps before the network, which runs elsewhere."""


@dataclass(frozen=True)
class Prepared:
    """A film on its way to the network. The parent process has no use for ``data``, and leaves it packed."""

    row: Row
    image: np.ndarray
    data: bytes


@dataclass(frozen=True)
class CompleteTask:
    """The steps behind the network."""

    path: str
    film: Prepared
    prediction: np.ndarray


class Work:
    """The function of the pool.

    Args:
        chain: what films are run through; None for tasks that run none.
    """

    def __init__(self, chain: FilmChain | None) -> None:
        self._chain = chain

    def __call__(self, task: Any) -> Any:
        if isinstance(task, HeaderTask):
            return _header(task)
        if isinstance(task, PictureTask):
            return _picture(task)
        if self._chain is None:
            raise TypeError("no chain to run films through")
        if isinstance(task, CompleteTask):
            prediction = torch.from_numpy(task.prediction)
            return self._chain.complete(task.film.row, pickle.loads(task.film.data), prediction)
        return self._run(self._chain, task)

    @staticmethod
    def _run(chain: FilmChain, task: FilmTask) -> Row | Prepared:
        try:
            film, header = _read(task)
            if task.key not in (header.get("sop_uid"), film.sha256):
                raise Changed("the file has been replaced")
        except Exception as error:
            return refused(error)
        if not isinstance(task, PrepareTask):
            return _described(chain(film), header)
        row, data = chain.prepare(film)
        row = _described(row, header)
        if data is None:
            return row
        # The film is read again behind the network: too many of them would wait here.
        kept = {name: value for name, value in data.items() if name not in ("film", "radiograph")}
        return Prepared(row, data["image"].as_tensor().numpy(), pickle.dumps(kept))


def _header(task: HeaderTask) -> dict[str, Any]:
    header = look_at(task.path, strict_view=task.strict_view, digest=task.digest)
    if task.thorough and not header["status"] and (header["format"] != "dicom" or "colour" in header):
        try:
            read_radiograph(task.path)
        except Exception as error:
            refuse(header, error)
    return header


def _picture(task: PictureTask) -> Row:
    try:
        film, header = _read(task)
    except Exception as error:
        return refused(error)
    row = _described(new_row(status=None, reason=None, input_sha256=film.sha256), header)
    try:
        pixels = read_radiograph(film).pixels
        whose = repr((_whose(film), pixels.shape)).encode()
        return {**row, "picture": hashlib.sha256(whose + pixels.tobytes()).hexdigest()}  # type: ignore[typeddict-unknown-key]
    except Exception as error:
        return refused(error, **row)


def _read(task: FilmTask | PictureTask) -> tuple[Film, dict[str, Any]]:
    """A film that was eligible a moment ago, and its header."""
    film = read_film(task.path)
    header = header_of(film, strict_view=task.strict_view)
    if header["status"]:
        raise Changed("the file has been replaced")
    return film, header


def _described(row: Row, header: dict[str, Any]) -> Row:
    """A row with what the same bytes' header says."""
    warnings = list(dict.fromkeys([*header["warnings"], *row["warnings"]]))
    known = {key: value for key, value in row.items() if value is not None}
    return {**header, "status": None, "reason": None, **known, "warnings": warnings}  # type: ignore[typeddict-item]


def _whose(film: Film) -> tuple[str, ...]:
    """What tells patient, study and series of a film; nothing if it is not DICOM."""
    if film.kind != "dicom":
        return ()
    with quiet():
        return tuple(text(film.header, keyword) for keyword in _WHOSE)
