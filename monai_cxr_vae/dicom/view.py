"""Which way the rays went, from the header alone: frontal or not, PA or AP."""

from __future__ import annotations

from pydicom.dataset import Dataset

_FRONTAL = {"PA": "PA", "AP": "AP"}
# Everything else that PS3.3 C.8.11.5.1.1 and C.8.1.1 (CR) define for a trunk is no frontal film of someone upright.
_NOT_FRONTAL = {"LL", "RL", "LLD", "RLD", "LLO", "RLO", "RAO", "LAO", "RPO", "LPO", "XTL", "LAT", "LATERAL", "OBL"}

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


def radiograph_view(dataset: Dataset) -> tuple[str, tuple[str, ...]]:
    """The view of a film, from View Position, View Code Sequence and Patient Orientation (never from free text).

    Any source that rules a frontal view out wins.

    Returns:
        ``'PA'``, ``'AP'``, ``'frontal'`` (one of the two, not said which), ``'lateral'`` (stands for every view that
        is not frontal, obliques and decubitus too) or ``'unknown'``; and the warning codes, ``view_conflict`` when
        two sources disagree.
    """
    votes = [vote for vote in (_by_position(dataset), _by_code(dataset), _by_orientation(dataset)) if vote]
    if not votes:
        return "unknown", ()
    exact = [vote for vote in votes if vote != "frontal"]
    conflict = len(set(exact)) > 1 or ("lateral" in votes and "frontal" in votes)
    view = "lateral" if "lateral" in votes else (exact or votes)[0]
    return view, ("view_conflict",) if conflict else ()


def _by_position(dataset: Dataset) -> str | None:
    value = _text(dataset, "ViewPosition")
    return _FRONTAL.get(value) or ("lateral" if value in _NOT_FRONTAL else None)


def _by_code(dataset: Dataset) -> str | None:
    try:
        return _VIEW_CODES.get(str(dataset.ViewCodeSequence[0].CodeValue).strip())
    except Exception:
        return None


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


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return str(dataset.get(keyword) or "").strip().upper()
    except Exception:
        return ""
