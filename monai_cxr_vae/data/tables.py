"""What tables say of films: manifests, lists of public collections and MONAI's lists; and which film a row means."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from monai_cxr_vae.dicom.view import view_of_words
from monai_cxr_vae.errors import InputError

# Names of columns in public collections, in lower case without blanks and signs; the first that is there counts.
_FILE = ("path", "imagepath", "filepath", "file", "filename", "image", "imageindex", "imageid", "dicomid")
_PATIENT = ("patient", "patientid", "subject", "subjectid")
_LABEL = ("label", "labels", "findinglabels")
_VIEW = ("view", "viewposition", "frontallateral", "appa", "projection")  # each of them counts
_SPLITS = {
    **dict.fromkeys(("train", "training", "trainval"), "training"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LISTS = (".json", ".txt", ".csv", ".csv.gz")
# Tables that count where they lie beside films: one's own, those of ChestX-ray14 and MIMIC-CXR, and of CheXpert, whose
# names others have too.
_TABLES = re.compile(
    r"manifest\.csv|Data_Entry_2017\w*\.csv|(train_val|test)_list\w*\.txt|mimic-cxr-[\d.]+-(metadata|split)\.csv(\.gz)?"
)
_CHEXPERT, _CHEXPERT_COLUMN = re.compile(r"(train|valid|test)\.csv"), b"Frontal/Lateral"
# The part of the split that a whole table is.
_PARTS = {
    re.compile(r"train_val_list\w*\.txt"): "training",
    re.compile(r"test_list\w*\.txt"): "test",
    re.compile(r"train\.csv"): "training",
    re.compile(r"valid\.csv"): "validation",
    re.compile(r"test\.csv"): "test",
}
# What stands where nothing is known; taken for a name it would make one patient of many.
_UNKNOWN = (
    "",
    "unknown",
    "anonymous",
    "anonymized",
    "anonymised",
    "anon",
    "none",
    "null",
    "nan",
    "n/a",
    "na",
    "-",
    "?",
)
_ENDING = re.compile(r"\.(png|jpe?g|nii|nii\.gz|dcm|dicom)$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """What a table says of one film; None where it says nothing.

    Attributes:
        file: path or name of the film, with ``/`` between its parts.
        patient: who it is of.
        lateral: whether the view is one that is not frontal.
        label: a number, several, or a text.
        split: ``"training"``, ``"validation"`` or ``"test"``.
        view: words of the view, in capitals.
    """

    file: str
    patient: str | None = None
    lateral: bool | None = None
    label: Any = None
    split: str | None = None
    view: str | None = field(default=None, compare=False)  # two words may say the same

    def or_else(self, other: Row) -> Row:
        """What this row says, and where it says nothing, what the other does."""
        gaps = {name: value for name, value in vars(other).items() if getattr(self, name) is None}
        return replace(self, **gaps)


def is_list(path: str | os.PathLike) -> bool:
    """Whether a path is that of a list of films."""
    return Path(path).is_file() and os.fspath(path).lower().endswith(_LISTS)


def is_known(value: str) -> bool:
    """Whether a value says something."""
    return value.strip().lower() not in _UNKNOWN


def tables_in(folder: str | os.PathLike) -> list[Path]:
    """The tables in a folder that tell of the films below it; one's own is the first."""
    found = [path for path in sorted(Path(folder).iterdir()) if path.is_file() and _is_table(path)]
    return sorted(found, key=lambda path: path.name != "manifest.csv")


def _is_table(path: Path) -> bool:
    if not _CHEXPERT.fullmatch(path.name):
        return bool(_TABLES.fullmatch(path.name))
    with path.open("rb") as file:
        return _CHEXPERT_COLUMN in file.readline(4096)


def read_table(file: Path) -> list[Row]:
    """Rows of a table, those of one film as one.

    A csv (comma, semicolon or tab between columns; gzip is unpacked) has a header with a column of files and any of
    patient, view, label and split. A txt has one film per line. A json is a list as MONAI's ``load_decathlon_datalist``
    reads it: ``training``, ``validation`` and ``test``, each ``[{"image": path, "label": ..., "patient": ...}, ...]``.

    Raises:
        InputError: it is none of these, or rows of one film contradict each other.
    """
    name = file.name.lower()
    try:
        data = file.read_bytes()
        text = _decoded(gzip.decompress(data) if name.endswith(".gz") else data)
        if name.endswith(".json"):
            rows = _rows_of_json(json.loads(text))
        elif name.endswith(".txt"):
            rows = (Row(_as_posix(line)) for line in text.splitlines() if line.strip())
        else:
            rows = _rows_of_csv(text)
        found: dict[str, Row] = {}
        for row in rows:
            known = found[row.file] = found.get(row.file, row).or_else(row)
            if known != row.or_else(known):
                raise InputError("rows of one film contradict each other")
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from error
    except (ValueError, OSError, EOFError, csv.Error) as error:
        raise InputError(f"{file.name} cannot be read: {error}") from error
    part = next((part for pattern, part in _PARTS.items() if pattern.fullmatch(file.name)), None)
    return [row if row.split else replace(row, split=part) for row in found.values()]


def match(rows: Sequence[Row], films: Sequence[str]) -> dict[int, Row]:
    """The row of each film that has one, by the film's number.

    By the path; else by the path without folders in front of either; else by the base name. What several films, or
    several rows, have in common is no match. Endings such as ``.png`` may be missing.

    Args:
        rows: of one table.
        films: paths relative to the folder of the table.
    """
    found: dict[int, Row] = {}
    left = list(rows)
    for named in (str, _without_ending):
        if not left:
            break
        names = _Names([named(film) for film in films])
        for find in (names.by_path, names.by_folders, names.by_base_name):
            hits: dict[int, list[Row]] = {}
            for row in left:
                film = find(named(row.file))
                if film is not None and film not in found:
                    hits.setdefault(film, []).append(row)
            matched = {film: those[0] for film, those in hits.items() if len(those) == 1}
            found |= matched
            files = {row.file for row in matched.values()}
            left = [row for row in left if row.file not in files]
    return found


class _Names:
    """Finds the one film that a path means; each method gives its number, or None."""

    def __init__(self, films: Sequence[str]) -> None:
        self.films = films
        self.paths = _unique((film, i) for i, film in enumerate(films))

    @cached_property
    def ends(self) -> dict[str, int]:
        return _unique((end, i) for i, film in enumerate(self.films) for end in _ends(film))

    def by_path(self, path: str) -> int | None:
        return self.paths.get(path)

    def by_folders(self, path: str) -> int | None:
        if "/" not in path:
            return None
        film = next((self.paths[end] for end in _ends(path) if "/" in end and end in self.paths), None)
        return self.ends.get(path) if film is None else film

    def by_base_name(self, path: str) -> int | None:
        return self.ends.get(path.rpartition("/")[2])


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Of several pairs with one name none."""
    found: dict[str, int] = {}
    shared = set()
    for name, i in pairs:
        if found.setdefault(name, i) != i:
            shared.add(name)
    return {name: i for name, i in found.items() if name not in shared}


def _ends(path: str) -> Iterator[str]:
    """A path and what is left of it without its first folder, its first two, ..."""
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _without_ending(path: str) -> str:
    return _ENDING.sub("", path)


def _decoded(data: bytes) -> str:
    """The text of a file as editors and spreadsheets save it."""
    try:
        return data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError:  # Excel saves in the code page of the country
        return data.decode("cp1252", errors="replace")


def _rows_of_csv(text: str) -> Iterator[Row]:
    if text.startswith("sep="):  # Excel's own line about the separator
        text = text.partition("\n")[2]
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    columns = reader.fieldnames or []
    if not {_plain(column) for column in columns}.intersection(_FILE):
        raise InputError(f"there is no column of files (path, file or image) among {', '.join(columns)!r}")
    for record in reader:
        row = _row_of(record)
        if row.file:
            yield row


def _rows_of_json(content: Any) -> Iterator[Row]:
    # Not by MONAI's load_decathlon_datalist: it turns a patient or a label into a path where a folder has that name.
    parts = {split: content.get(split, []) for split in set(_SPLITS.values())} if isinstance(content, dict) else {}
    if not any(parts.values()):
        raise InputError("there is no list called training, validation or test")
    for split, items in sorted(parts.items()):
        for item in items:
            record = {"image": item} if isinstance(item, str) else item  # names alone may stand there
            if not isinstance(record, dict) or not isinstance(record.get("image"), str):
                raise InputError(f"each entry of {split} must have the path of one image")
            yield replace(_row_of(record), split=split)


def _row_of(record: Mapping[Any, Any]) -> Row:
    """A row by its columns, whatever their order; values of a csv are text."""
    values: dict[str, Any] = {}
    for column, value in record.items():
        value = value.strip() if isinstance(value, str) else value
        if isinstance(column, str) and value is not None and is_known(str(value)):
            values.setdefault(_plain(column), value)

    def first(columns: Iterable[str]) -> Any:
        return next((values[column] for column in columns if column in values), None)

    patient, split = first(_PATIENT), first(("split",))
    if split is not None:
        try:
            split = _SPLITS[_plain(str(split))]
        except KeyError:
            raise InputError(f"split must be train, val or test, not {split!r}") from None
    views = [str(values[column]).upper() for column in _VIEW if column in values]
    return Row(
        _as_posix(str(first(_FILE) or "")),
        None if patient is None else str(patient),
        any(view == "L" or view_of_words(view) == "lateral" for view in views) if views else None,
        _number(first(_LABEL)),
        split,
        " ".join(views) or None,
    )


def _number(label: Any) -> Any:
    """The number that stands in a text, or the label as it is."""
    for kind in (int, float):
        if isinstance(label, str):
            try:
                label = kind(label)
            except ValueError:
                continue
    return label


def _as_posix(path: str) -> str:
    """A path with ``/`` between its parts, also of one that Windows wrote, and nothing that leads nowhere."""
    path = path.strip().replace("\\", "/")
    return os.path.normpath(path) if path else ""


def _plain(column: str) -> str:
    return re.sub("[^a-z0-9]", "", column.lower())
