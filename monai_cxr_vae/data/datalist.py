"""Lists of films: what a folder holds, and a split that keeps a patient's films together."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from monai_cxr_vae.errors import InputError, Reason
from monai_cxr_vae.files import Entry, walk
from monai_cxr_vae.film import look_at, refuse
from monai_cxr_vae.pool import Fault, IsolatedPool
from monai_cxr_vae.radiograph import read_radiograph

logger = logging.getLogger(__name__)

# Names by which manifests of public collections call the file and the patient.
FILE_COLUMNS = ("file", "path", "image", "Image Index", "filename")
PATIENT_COLUMNS = ("patient", "patient_id", "PatientID", "Patient ID", "patientId", "subject_id")
# 00000061_012.png (ChestX-ray14), patient00001/study1/view1.jpg (CheXpert), p10/p10000032/s5.../x.png (MIMIC-CXR)
_NUMBERED = re.compile(r"^(.*\d)_\d+$")
# What headers said in this process, by path and identity: status, reason, Patient ID.
_SEEN: dict[Entry, tuple[str | None, str | None, str | None]] = {}
_FOLDER = re.compile(r"^(patient[_-]?\d+|p\d{8})$", re.IGNORECASE)


def find_films(folder: str | os.PathLike) -> list[Path]:
    """All films below a folder, in byte order of their paths, told by content and whatever their names.

    A film that is damaged is one too: reading it will say why. What is no film (another modality, laterals, For
    Processing, notes, ...) is left out and counted in one log line.

    Raises:
        InputError: no such folder, or no film in it.
        WorkerError: the processes that read headers cannot be started.
    """
    return [Path(path) for path, _ in _find(folder)]


def _find(folder: str | os.PathLike) -> list[tuple[str, str | None]]:
    """Path and Patient ID of each film; headers are read once per file and process."""
    if not Path(folder).is_dir():
        raise InputError(f"no such folder: {folder}")
    entries = walk(folder)
    left_out = Counter(
        str(Reason.NOT_A_FILE if entry.listed else Reason.READ_ERROR) for entry in entries if entry.identity is None
    )
    files = [entry for entry in entries if entry.identity is not None]
    tasks = deque(entry for entry in files if entry not in _SEEN)
    if tasks:
        with IsolatedPool(_look_at) as pool:
            for entry, header in pool.map(tasks):
                # A process that was lost had a film in its hands, for all that is known.
                header = {"status": "failed"} if isinstance(header, Fault) else header
                _SEEN[entry] = header["status"], header.get("reason"), header.get("patient")
    films = []
    for entry in files:
        status, reason, patient = _SEEN[entry]
        if status == "skipped":
            left_out[str(reason)] += 1
        else:
            films.append((entry.path, patient))
    if left_out:
        logger.info("%d files are no films for training: %s", left_out.total(), dict(left_out))
    if not films:
        raise InputError(f"no films in {folder}" + (f" ({left_out.total()} other files)" if left_out else ""))
    return films


def _look_at(entry: Entry) -> dict[str, Any]:
    header = look_at(entry.path, patient=True)
    if "colour" in header and not header["status"]:  # whether it is grey after all, the pixels tell
        try:
            read_radiograph(entry.path)
        except Exception as error:
            refuse(header, error)
    return header


def patient_of(path: Path, root: Path, manifest: dict[str, str] | None = None, patient_id: str | None = None) -> str:
    """What tells a film's patient from another's; only ever compared, never written anywhere.

    In this order: the manifest's column, Patient ID of a DICOM file, a patient's folder (``patient00001``,
    ``p10000032``), a file name that ends in a running number after an identifier (``00000061_012``), else the film.
    """
    if manifest and path.name in manifest:
        return manifest[path.name]
    if patient_id:
        return patient_id
    for part in reversed(path.relative_to(root).parts[:-1]):
        if _FOLDER.match(part):
            return part
    stem = path.name.split(".")[0]
    numbered = _NUMBERED.match(stem)
    return numbered[1] if numbered else str(path)


def datalist(
    dataset_dir: str | os.PathLike,
    section: str = "all",
    val_dataset_dir: str | os.PathLike | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Films of a folder, all or the training or the validation part, as MONAI takes them.

    Without a validation folder the training folder is split by patient: a patient belongs to the validation part when
    the hash of (seed, patient) falls below ``val_fraction``, so films added later move nobody.

    Args:
        dataset_dir: folder of films; a ``manifest.csv`` in it may name the patients.
        section: ``"all"``, ``"training"`` or ``"validation"``.
        val_dataset_dir: folder of the validation films.
        val_fraction: share of the patients that validate.
        seed: of the split.

    Returns:
        ``[{"image": path}, ...]``

    Raises:
        InputError: a folder without films, or a split that leaves one part empty.
    """
    if section not in ("all", "training", "validation"):
        raise ValueError(f'section must be "all", "training" or "validation", not {section!r}')
    if section == "all" or val_dataset_dir:
        folder = val_dataset_dir if section == "validation" else None
        return [{"image": str(path)} for path in find_films(folder or dataset_dir)]
    found, root = _find(dataset_dir), Path(os.path.realpath(dataset_dir))
    manifest = _read_manifest(root)
    films = [path for path, _ in found]
    patients = [patient_of(Path(path), root, manifest, patient_id) for path, patient_id in found]

    def validates(patient: str) -> bool:
        digest = hashlib.sha256(f"{seed}\x1f{patient}".encode())
        return int.from_bytes(digest.digest()[:8]) < val_fraction * 2**64

    chosen = [f for f, patient in zip(films, patients, strict=True) if validates(patient) == (section == "validation")]
    if not chosen or len(chosen) == len(films):
        number = len(set(patients))
        raise InputError(
            f"{len(films)} films of {number} patient{'s' * (number > 1)} (as names, headers or a manifest tell) in "
            f"{dataset_dir} are too few to split; give val_dataset_dir"
        )
    return [{"image": path} for path in chosen]


def films_digest(digests: Iterable[str]) -> str:
    """One digest of many films' own: tells whether a run continues on the same films."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, str]:
    """File name to patient, from ``manifest.csv`` in the folder."""
    file = folder / "manifest.csv"
    if not file.is_file():
        return {}
    data = file.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError:  # Excel saves in the code page of the country
        text = data.decode("cp1252", errors="replace")
    if text.startswith("sep="):  # Excel's own line about the separator
        text = text.partition("\n")[2]
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    columns = reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
    name = next((c for c in FILE_COLUMNS if c in columns), None)
    patient = next((c for c in PATIENT_COLUMNS if c in columns), None)
    if name is None or patient is None:
        raise InputError(f"{file.name} needs a column of files {FILE_COLUMNS} and one of patients {PATIENT_COLUMNS}")
    rows = ((row[name] or "", row[patient] or "") for row in reader)
    return {PureWindowsPath(film.strip()).name: whose.strip() for film, whose in rows if film.strip() and whose.strip()}
