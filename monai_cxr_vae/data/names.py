"""What the names of folders and files tell of a film: whose it is, and that it is a lateral."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What stands before a patient's number in names of people's own making, and in those of Kaggle (person1_bacteria_1).
_WORDS = r"(?:patient|person|subject|subj|pat)[ _-]?\d+"
# patient00001/study1 (CheXpert), p10/p10000032/s5... (MIMIC-CXR), sub-S03047/ses-E07985 (BIDS: BIMCV)
_FOLDER = re.compile(rf"{_WORDS}|p\d{{8}}|sub-[a-z0-9]+", re.IGNORECASE)
_FILE = re.compile(
    r"(?:.*[^0-9])?\d{8}(?=_\d{3}$)"  # 00000061_012 (ChestX-ray14)
    r"|sub-[a-z0-9]+(?=_)"
    r"|cxr\d+(?=_\d+_im-)"  # CXR1_1_IM-0001-3001 (Open-i)
    rf"|(?:.*[ _-])?{_WORDS}(?!\d)",
    re.IGNORECASE,
)
# A running number after an identifier, which is a number alone or a long one: not the 19 of covid_19_0001.
_NUMBERED = re.compile(r"(\d+|.*[^0-9]\d{5,})_\d+")
# Such identifiers that have more films each are sites, years or days.
_MOST_FILMS = 20
# view2_lateral (CheXpert), sub-S03047_ses-E07985_run-1_bp-chest_vp-ll_cr (BIDS)
_LATERAL = re.compile(r"view\d+_lateral|.*_vp-(l|ll|rl|lat|lateral)(_.*)?", re.IGNORECASE)


def patients_of(paths: Sequence[str]) -> list[tuple[str, str] | None]:
    """Each film's patient, and whether the ``folder`` or the ``file`` name told it; None where neither does.

    In this order: a patient's folder, a file name of a known collection, and a file name that ends in a running number
    after an identifier, unless the identifiers of all such names are too few to be patients.

    Args:
        paths: relative to the folder of all films, with ``/`` between their parts.
    """
    patients: list[tuple[str, str] | None] = []
    numbered = {}
    for i, path in enumerate(paths):
        *folders, name = path.split("/")
        folder = next((part for part in reversed(folders) if _FOLDER.fullmatch(part)), None)
        file = _FILE.match(_stem(name))
        patients.append((folder, "folder") if folder else (file[0], "file") if file else None)
        if patients[i] is None and (match := _NUMBERED.fullmatch(_stem(name))):
            numbered[i] = match[1]
    if len(numbered) <= _MOST_FILMS * len(set(numbered.values())):
        for i, patient in numbered.items():
            patients[i] = patient, "file"
    return patients


def is_lateral(path: str) -> bool:
    """Whether a name of a known collection says that the film is a lateral."""
    return bool(_LATERAL.fullmatch(_stem(path.rpartition("/")[2])))


def _stem(name: str) -> str:
    return name.split(".")[0]
