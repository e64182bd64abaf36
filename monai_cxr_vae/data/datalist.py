"""Lists of films: what a folder or a list holds, and a split that keeps a patient's films together."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_cxr_vae.data.names import is_lateral, patients_of
from monai_cxr_vae.data.tables import Row, is_known, is_list, match, read_table, tables_in
from monai_cxr_vae.errors import InputError, Reason
from monai_cxr_vae.files import Entry, walk
from monai_cxr_vae.film import look_at, refuse
from monai_cxr_vae.pool import IsolatedPool, LostTask
from monai_cxr_vae.radiograph import read_radiograph

logger = logging.getLogger(__name__)

# Fewer patients are drawn by rank: by chance one part may be far too small, or empty.
_FEW_PATIENTS = 1000
_PATIENT_SOURCES = {
    "table": "a table",
    "header": "Patient ID",
    "folder": "folder names",
    "file": "file names",
    None: "nothing (each film counts as a patient)",
}


@dataclass(frozen=True)
class _Header:
    """What a file's header says.

    Attributes:
        left_out: why the file is no film for training; None if it is one.
        patient: Patient ID.
        key: what the same film under other names has too: SOP Instance UID, or the digest of what is no DICOM.
        is_dicom: whether it is a DICOM file.
    """

    left_out: str | None
    patient: str | None = None
    key: str | None = None
    is_dicom: bool = False


# What headers said in this process, by path and identity.
_SEEN: dict[Entry, _Header] = {}


@dataclass(frozen=True)
class _Film:
    """A film, whose it is and where that is known from; the patient is only ever compared, never written anywhere."""

    path: str
    patient: str
    patient_source: str | None
    key: str
    row: Row


@dataclass(frozen=True)
class _Collection:
    """Films of a folder or a list, with the numbers of the line that a run says about them."""

    films: list[_Film]
    left_out: Counter[str]
    tables: bool
    rows_without_film: int

    def __str__(self) -> str:
        counts = Counter(film.patient_source for film in self.films)
        sources = [
            _PATIENT_SOURCES[source] + (f" ({count})" if len(counts) > 1 else "")
            for source, count in counts.most_common()
        ]
        words = [
            f"{len(self.films)} films of {len(set(_people(self.films)))} patients, told apart by {', '.join(sources)}",
            f"laterals left out: {self.left_out[Reason.LATERAL]}",
        ]
        others = {reason: count for reason, count in self.left_out.items() if reason != Reason.LATERAL}
        if others:
            words.append(f"other files left out: {others}")
        if self.tables:
            without = sum(film.row is _NO_ROW for film in self.films)
            words.append(f"rows without a film: {self.rows_without_film}, films without a row: {without}")
        return "; ".join(words)


_NO_ROW = Row("")


def datalist(
    dataset_dir: str | os.PathLike,
    section: str = "all",
    val_dataset_dir: str | os.PathLike | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    columns: bool = False,
) -> list[dict[str, Any]]:
    """Frontal films of a folder or a list, all or the training or the validation part, as MONAI takes them.

    The list itself and tables beside the films (``manifest.csv``, and those of ChestX-ray14, CheXpert and MIMIC-CXR)
    may tell patient, view, label and split. Who is one patient is told by a table, Patient ID of a DICOM file, or names
    (see :func:`monai_cxr_vae.data.names.patients_of`); else each film is a patient of its own. Equal films (the same
    bytes or SOP Instance UID) are of one patient. One log line says what there is, how it was told, what is left out.

    The split is that of the table, if it has films for validation. Else it is drawn by patient: of few patients the
    share ``val_fraction`` with the smallest hash of (seed, patient) validates, and of 1,000 or more those whose hash
    falls below ``val_fraction``, so that films added later move nobody. What a table has for testing is in no part.

    Args:
        dataset_dir: folder of films; or a list of them (see :func:`monai_cxr_vae.data.tables.read_table`), whose paths
            are relative to it or, where none of them is there, are looked for by name below its folder.
        section: ``"all"``, ``"training"`` or ``"validation"``.
        val_dataset_dir: folder or list of the validation films.
        val_fraction: share of the patients that validate.
        seed: of the split.
        columns: whether each film also has what tables say of its ``patient``, ``view`` and ``split``, as text.

    Returns:
        ``[{"image": path}, ...]`` in byte order of the paths; with a ``label``, if a table has some: whole numbers,
        floats (not a number where there is none), lists of numbers, or texts.

    Raises:
        InputError: no films, a table that cannot be understood, a part without films, or a film or a patient that is in
            both parts.
        WorkerError: the processes that read headers cannot be started.
    """
    if section not in ("all", "training", "validation"):
        raise ValueError(f'section must be "all", "training" or "validation", not {section!r}')
    collection = _collect(dataset_dir)
    if section == "all":
        logger.info("%s", collection)
        return _items(collection.films, collection.films, columns)
    training = [film for film in collection.films if film.row.split in (None, "training")]
    if val_dataset_dir:
        validation = _collect(val_dataset_dir).films
    else:
        validation = [film for film in collection.films if film.row.split == "validation"]
    if validation:
        inside = val_dataset_dir and Path(os.path.realpath(val_dataset_dir)).is_relative_to(
            os.path.realpath(dataset_dir)
        )
        _check_apart(training, validation, "; val_dataset_dir lies inside dataset_dir" if inside else "")
    else:
        training, validation = _drawn(training, val_fraction, seed, dataset_dir)
    if not training:
        raise InputError(f"no film of {dataset_dir} is for training")
    if section == "validation":
        return _items(validation, collection.films, columns)
    rest = len(collection.films) - len(training) - (0 if val_dataset_dir else len(validation))
    parts = f"training {len(training)}, validation {len(validation)}" + (f", in neither part {rest}" if rest else "")
    logger.info("%s; %s", collection, parts)
    return _items(training, collection.films, columns)


def find_films(folder: str | os.PathLike) -> list[Path]:
    """All films of a folder or a list, see :func:`datalist`.

    They are told by content and whatever their names. A film that is damaged is one too: reading it will say why. What
    is no film (another modality, laterals, For Processing, notes, ...) is left out and counted.

    Args:
        folder: the folder, or a list (csv, json, txt).

    Returns:
        The films' paths.

    Raises:
        InputError: as of :func:`datalist`.
    """
    return [Path(item["image"]) for item in datalist(folder)]


def patient_of(path: Path, root: Path) -> str:
    """What tells a film's patient from another's by its name below ``root``, see :func:`datalist`; else its path."""
    (named,) = patients_of([path.relative_to(root).as_posix()])
    return named[0] if named else str(path)


def films_digest(digests: Iterable[str]) -> str:
    """One digest of many films' own: tells whether a run continues on the same films.

    Args:
        digests: SHA-256 of each film, in order.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _collect(source: str | os.PathLike) -> _Collection:
    """What a folder or a list holds, with what tables and names tell of each film."""
    if Path(source).is_dir():
        root = os.path.realpath(source)
        tables = tables_in(root)
        entries = [entry for entry in walk(root) if Path(entry.path) not in tables]
        rows, unmatched = _matched(tables, [_below(root, entry.path) for entry in entries])
    elif is_list(source):
        root = os.path.realpath(Path(source).parent)
        tables = [table for table in tables_in(root) if not table.samefile(source)]
        entries, rows, unmatched = _listed(Path(source), root)
        # The list itself says which films, and for what; what lies beside it may still know patients and views.
        others, _ = _matched(tables, [_below(root, entry.path) for entry in entries])
        rows = {i: row.or_else(replace(others.get(i, row), label=None, split=None)) for i, row in rows.items()}
    elif Path(source).exists():
        raise InputError(f"{source} is neither a folder nor a list of films (json, csv or txt)")
    else:
        raise InputError(f"no such folder: {source}")
    headers = _headers(entries)
    left_out: Counter[str] = Counter()
    kept = []
    for i, (entry, header) in enumerate(zip(entries, headers, strict=True)):
        name, row = _below(root, entry.path), rows.get(i, _NO_ROW)
        lateral = row.lateral or (row.lateral is None and not header.is_dicom and is_lateral(name))
        if reason := header.left_out or (Reason.LATERAL if lateral else None):
            left_out[str(reason)] += 1
        else:
            kept.append((name, entry, header, row))
    if not kept:
        raise InputError(f"no films in {source}" + (f" ({left_out.total()} other files)" if left_out else ""))
    films = []
    for (_, entry, header, row), named in zip(kept, patients_of([name for name, *_ in kept]), strict=True):
        patient_source: str | None
        if row.patient:
            patient, patient_source = row.patient, "table"
        elif header.patient:
            patient, patient_source = header.patient, "header"
        else:
            patient, patient_source = named or (entry.path, None)
        films.append(_Film(entry.path, patient, patient_source, header.key or entry.path, row))
    return _Collection(films, left_out, bool(tables) or is_list(source), unmatched)


def _below(root: str, path: str) -> str:
    return path[len(root.rstrip("/")) + 1 :] if path.startswith(root.rstrip("/") + "/") else path.lstrip("/")


def _matched(tables: Sequence[Path], names: Sequence[str]) -> tuple[dict[int, Row], int]:
    """What tables say of films together, an earlier one before a later one; and how many rows mean no film."""
    found: dict[int, Row] = {}
    unmatched = 0
    for table in tables:
        rows = read_table(table)
        matched = match(rows, names)
        unmatched += len(rows) - len(matched)
        for i, row in matched.items():
            found[i] = found.get(i, row).or_else(row)
    return found, unmatched


def _listed(file: Path, root: str) -> tuple[list[Entry], dict[int, Row], int]:
    """The films that a list names, their rows by number, and how many rows mean no film."""
    rows = read_table(file)
    there: dict[str, Row] = {}
    for row in rows:
        path = os.path.normpath(Path(root, row.file))
        if Path(path).is_file():
            there[path] = there.get(path, row).or_else(row)
    if not there:
        entries = walk(root)
        matched = match(rows, [_below(root, entry.path) for entry in entries])
        there = {entries[i].path: row for i, row in matched.items()}
    if not there:
        raise InputError(f"none of the {len(rows)} films that {file.name} names is there")
    paths = sorted(there, key=os.fsencode)
    entries = [replace(walk(path)[0], path=path) for path in paths]
    return entries, {i: there[path] for i, path in enumerate(paths)}, len(rows) - len(there)


def _headers(entries: Sequence[Entry]) -> list[_Header]:
    """What the headers of files say; each file is read once in a process."""
    tasks = deque(entry for entry in entries if entry.identity is not None and entry not in _SEEN)
    if tasks:
        with IsolatedPool(_look_at) as pool:
            for entry, header in pool.map(tasks):
                # A process that was lost had a film in its hands, for all that is known.
                _SEEN[entry] = _Header(None) if isinstance(header, LostTask) else header
    no_file, not_listed = _Header(Reason.NOT_A_FILE), _Header(Reason.READ_ERROR)
    return [_SEEN.get(entry, no_file if entry.listed else not_listed) for entry in entries]


def _look_at(entry: Entry) -> _Header:
    header = look_at(entry.path, patient=True)
    if "colour" in header and not header["status"]:  # whether it is grey after all, the pixels tell
        try:
            read_radiograph(entry.path)
        except Exception as error:
            refuse(header, error)
    left_out = str(header["reason"]) if header["status"] == "skipped" else None
    is_dicom = header["format"] == "dicom"
    patient = header.get("patient") or ""
    return _Header(
        left_out,
        patient if is_known(patient) else None,
        header.get("sop_uid" if is_dicom else "input_sha256"),
        is_dicom,
    )


def _people(films: Sequence[_Film]) -> list[str]:
    """Who each film is of: its patient, or the first of several who have a film in common."""
    first: dict[str, str] = {}
    leader: dict[str, str] = {}

    def lead(patient: str) -> str:
        while leader.setdefault(patient, patient) != patient:
            patient = leader[patient]
        return patient

    for film in films:
        one, other = sorted((lead(film.patient), lead(first.setdefault(film.key, film.patient))))
        leader[other] = one
    return [lead(film.patient) for film in films]


def _drawn(
    films: Sequence[_Film], val_fraction: float, seed: int, source: str | os.PathLike
) -> tuple[list[_Film], list[_Film]]:
    """Films for training and for validation, by patient."""

    def place(patient: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}\x1f{patient}".encode(errors="surrogateescape")).digest()[:8])

    people = _people(films)
    ranked = sorted(set(people), key=place)
    if len(ranked) < 2:
        raise InputError(
            f"{len(films)} films of one patient (equal films are of one) in {source} cannot be split; "
            "give val_dataset_dir"
        )
    if len(ranked) < _FEW_PATIENTS:
        number = round(val_fraction * len(ranked))
    else:
        number = sum(place(patient) < val_fraction * 2**64 for patient in ranked)
    validating = set(ranked[: min(max(number, 1), len(ranked) - 1)])
    parts: tuple[list[_Film], list[_Film]] = [], []
    for film, patient in zip(films, people, strict=True):
        parts[patient in validating].append(film)
    return parts


def _check_apart(training: Sequence[_Film], validation: Sequence[_Film], hint: str) -> None:
    """Refuse a split that others have made where it has a film or a patient in both parts."""
    films = {film.key for film in training} & {film.key for film in validation}
    known = [{film.patient for film in part if film.patient_source} for part in (training, validation)]
    patients = known[0] & known[1]
    if films or patients:
        sources = dict.fromkeys(_PATIENT_SOURCES[film.patient_source] for film in training if film.patient in patients)
        whose = f" (as told by {', '.join(sources)})" if sources else ""
        raise InputError(
            f"films for training and for validation must be apart: {len(films)} films and {len(patients)} patients"
            f"{whose} are in both parts{hint}"
        )


def _items(films: Sequence[_Film], of: Sequence[_Film], columns: bool) -> list[dict[str, Any]]:
    """Films as MONAI takes them, each with the same keys as all films of the collection."""
    items = _with_labels(films, of)
    for name in ("patient", "view", "split") if columns else ():
        if any(getattr(film.row, name) for film in of):
            for item, film in zip(items, films, strict=True):
                item[name] = getattr(film.row, name) or ""
    return items


def _with_labels(films: Sequence[_Film], of: Sequence[_Film]) -> list[dict[str, Any]]:
    """Films and their labels; the labels of all films of a collection are of one type."""
    labels = [film.row.label for film in of if film.row.label is not None]
    if not labels:
        return [{"image": film.path} for film in films]
    complete = len(labels) == len(of)
    kind: Callable[[Any], Any] = str
    missing: Any = ""
    if all(isinstance(label, int) for label in labels) and complete:
        kind = int
    elif all(isinstance(label, int | float) for label in labels):
        kind, missing = float, float("nan")
    elif all(isinstance(label, list) for label in labels):
        if not complete or len(set(map(len, labels))) > 1:
            raise InputError("films must all have as many numbers as label, or none")
        kind = list
    return [
        {"image": film.path, "label": missing if film.row.label is None else kind(film.row.label)} for film in films
    ]
