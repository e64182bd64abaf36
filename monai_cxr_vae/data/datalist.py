"""Lists of films: what a folder holds, and a split that keeps a patient's films together."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import logging
import os
import re
from collections import Counter
from pathlib import Path, PureWindowsPath

from monai_cxr_vae.dicom.attributes import is_colour
from monai_cxr_vae.dicom.files import open_dataset
from monai_cxr_vae.dicom.select import check_film
from monai_cxr_vae.errors import FilmError, InputError, Skipped
from monai_cxr_vae.radiograph import read_radiograph

logger = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
# Names by which manifests of public collections call the file and the patient.
FILE_COLUMNS = ("file", "path", "image", "Image Index", "filename")
PATIENT_COLUMNS = ("patient", "patient_id", "PatientID", "Patient ID", "patientId", "subject_id")
# 00000061_012.png (ChestX-ray14), patient00001/study1/view1.jpg (CheXpert), p10/p10000032/s5.../x.png (MIMIC-CXR)
_NUMBERED = re.compile(r"^(.*\d)_\d+$")
_FOLDER = re.compile(r"^(patient[_-]?\d+|p\d{8})$", re.IGNORECASE)


def find_films(folder: str | os.PathLike) -> list[Path]:
    """All films below a folder, in byte order of their paths.

    Pictures are taken by their extension, DICOM files by their header whatever their name; other DICOM objects (another
    modality, laterals, For Processing, ...) are left out and counted in one log line.

    Raises:
        InputError: no such folder, or no film in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    films: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in sorted(_files(folder), key=os.fsencode):
        if path.name.lower().endswith(PICTURES):
            films.append(path)
            continue
        try:
            dataset = open_dataset(path, pixels=False)
            check_film(dataset)
            if is_colour(dataset):  # whether it is grey after all, the pixels tell
                read_radiograph(path)
        except Skipped as error:
            left_out[error.reason] += 1
        except FilmError:
            films.append(path)  # looks like a film and is broken: reading it will say why
        else:
            films.append(path)
    if left_out:
        logger.info("%d files are no films for training: %s", left_out.total(), dict(left_out))
    if not films:
        raise InputError(f"no films in {folder}" + (f" ({left_out.total()} other files)" if left_out else ""))
    return films


def patient_of(path: Path, root: Path, manifest: dict[str, str] | None = None) -> str:
    """What tells a film's patient from another's; only ever compared, never written anywhere.

    In this order: the manifest's column, PatientID of a DICOM file, a patient's folder (``patient00001``,
    ``p10000032``), a file name that ends in a running number after an identifier (``00000061_012``), else the film.
    """
    if manifest and path.name in manifest:
        return manifest[path.name]
    if not path.name.lower().endswith(PICTURES):
        try:
            patient = open_dataset(path, pixels=False).get("PatientID")
        except FilmError:
            patient = None
        if patient:
            return str(patient)
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
    films = find_films(dataset_dir)
    manifest = _read_manifest(Path(dataset_dir))

    patients = [patient_of(path, Path(dataset_dir), manifest) for path in films]

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
    return [{"image": str(path)} for path in chosen]


def films_digest(data: list[dict[str, str]]) -> str:
    """Names and sizes of a list's films as one digest: tells whether a run continues on the same films."""
    digest = hashlib.sha256()
    for item in data:
        path = Path(item["image"])
        digest.update(f"{path.name}\x1f{path.stat().st_size}\x1e".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and name.lower() != "manifest.csv"
    ]


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
