"""Which way the rays went, from the header alone: frontal or not, PA or AP."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import items, terms
from monai_cxr_vae.errors import WarningCode

# Words of View Position, which holds free text as often as the terms of PS3.3 C.8.11.5.1.1 and C.8.1.1 (CR). What
# those define for a trunk besides PA and AP is no frontal film of someone upright, sitting or on the back.
_PA = re.compile(r"\b(PA|P A|POSTER(O|IOR) ?(TO )?ANTERIOR)\b")
_AP = re.compile(r"\b(AP|A P|ANTER(O|IOR) ?(TO )?POSTERIOR)\b")
_NOT_FRONTAL = re.compile(
    r"\b(AP|PA)?(LL|RL|LLD|RLD|LLO|RLO|RAO|LAO|RPO|LPO|XTL|[LRX]*LAT|[LR]?LATERALS?|LATERO\w*|(BI)?OBL(IQUE)?S?|"
    r"[LR]*DEC|[LR]*DECUB(ITUS)?|XTABLE|X TABLE|CROSS ?TABLE|SWIMMERS?)\b"
)

# Context group 4010 (PS3.16), SNOMED CT and the older SNOMED-RT codes.
_VIEW_CODES = {
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399033003", "R-10202"), "frontal"),
    **dict.fromkeys(
        (
            *("399067008", "R-102CD", "399198007", "R-10232", "399173006", "R-10236", "399260004", "R-10224"),
            *("399352003", "R-10228", "399182000", "R-102C1", "399236003", "R-10234", "399184004", "R-10238"),
            *("399135007", "R-10220", "399356000", "R-40985", "399038007", "R-10210", "399006002", "R-10212"),
            *("399059000", "R-10216", "399312000", "R-10208", "260427002", "R-40783", "260426006", "R-40782"),
            *("399368009", "R-10226", "399099002", "R-10230", "399160007", "R-10204", "30730003", "G-A145"),
            *("399061009", "R-10241"),
        ),
        "lateral",
    ),
}
# Lying on a side (context group 20), wherever the header says so.
_DECUBITUS = {"102535000", "102536004", "F-10317", "F-10319"}


def radiograph_view(dataset: Dataset) -> tuple[str, tuple[str, ...]]:
    """The view of a film, from View Position, View Code Sequence, Patient Orientation and position
    (never from the description of a series or a protocol).

    Any source that rules a frontal view out wins.

    Returns:
        ``'PA'``, ``'AP'``, ``'frontal'`` (one of the two, not said which), ``'lateral'`` (stands for every view that
        is not frontal, obliques and decubitus too) or ``'unknown'``; and the warning codes, ``view_conflict`` when
        two sources disagree.
    """
    codes = [_by_code(item) for item in items(dataset, "ViewCodeSequence")]
    positions = [view_of_words(value) for value in terms(dataset, "ViewPosition")]
    votes = [vote for vote in (*positions, *codes, _by_orientation(dataset), _by_side(dataset)) if vote]
    if not votes:
        return "unknown", ()
    exact = [vote for vote in votes if vote != "frontal"]
    conflict = len(set(exact)) > 1 or ("lateral" in votes and "frontal" in votes)
    view = "lateral" if "lateral" in votes else (exact or votes)[0]
    return view, (WarningCode.VIEW_CONFLICT,) if conflict else ()


def view_of_words(value: str) -> str | None:
    """``'PA'``, ``'AP'``, ``'frontal'`` or ``'lateral'`` by upper-case words as of View Position; None for others."""
    words = " ".join(re.findall("[A-Z]+", value))
    if _NOT_FRONTAL.search(words):
        return "lateral"
    pa, ap = bool(_PA.search(words)), bool(_AP.search(words))
    if pa != ap:
        return "PA" if pa else "AP"
    return "frontal" if pa or "FRONTAL" in words.split() else None


def _by_code(item: Dataset) -> str | None:
    """The code of a view, else the words of its meaning."""
    view = _VIEW_CODES.get("".join(terms(item, "CodeValue")))
    return view or view_of_words(" ".join(terms(item, "CodeMeaning")))


def _by_side(dataset: Dataset) -> str | None:
    """Decubitus by the positioning modules (PS3.3 C.8.4.6, C.8.11.5): modifiers of the orientation or the view."""
    described = [
        *(m for i in items(dataset, "PatientOrientationCodeSequence") for m in (i, *_modifiers(i))),
        *(m for i in items(dataset, "ViewCodeSequence") for m in _modifiers(i)),
    ]
    return "lateral" if any(_DECUBITUS.intersection(terms(m, "CodeValue")) for m in described) else None


def _modifiers(item: Dataset) -> list[Dataset]:
    return items(item, "PatientOrientationModifierCodeSequence") + items(item, "ViewModifierCodeSequence")


def _by_orientation(dataset: Dataset) -> str | None:
    """PS3.3 C.7.6.1.1.1: a film whose plane holds the antero-posterior axis is lateral."""
    orientation = patient_orientation(dataset)
    if orientation is None:
        return None
    axes = {direction[0] for direction in orientation}
    if axes & {"A", "P"}:
        return "lateral"
    return "frontal" if axes & {"L", "R"} else None


def patient_orientation(dataset: Dataset) -> tuple[str, str] | None:
    """Patient Orientation (PS3.3 C.7.6.1.1.1): where the patient's body goes along the rows and down the columns."""
    try:
        along, down = (str(part).strip().upper() for part in dataset.PatientOrientation)
    except Exception:
        return None
    return (along, down) if along[:1] in tuple("LRAPHF") and down[:1] in tuple("LRAPHF") else None
