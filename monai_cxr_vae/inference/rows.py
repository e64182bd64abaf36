"""The rows of a manifest: what each says of one input, its columns, and the rows that no film has to be run for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypedDict, cast

from monai_cxr_vae import scores
from monai_cxr_vae.errors import Changed, Reason, explain
from monai_cxr_vae.files import Entry, Identity, open_file
from monai_cxr_vae.pool import LostTask


class Output(TypedDict):
    """One file that was made of a film; ``uid`` of a DICOM object, ``path`` relative to the output folder."""

    kind: str
    uid: str | None
    path: str
    size: int
    sha256: str


class Row(TypedDict, total=False):
    """What became of one input. The columns from ``replaces`` on stand in a row only when they say something.

    A film that is scored has :data:`monai_cxr_vae.scores.COLUMNS` too.
    """

    index: int
    status: str | None
    reason: str | None
    format: str | None
    study_uid: str | None
    series_uid: str | None
    sop_uid: str | None
    input_sha256: str | None
    rows: int | None
    columns: int | None
    bits_stored: int | None
    photometric: str | None
    transfer_syntax: str | None
    decoder: str | None
    voi: str | None
    view: str | None
    model_sha256: str
    config_sha256: str
    outputs: list[Output]
    warnings: list[str]
    duplicate_of: int | None
    replaces: list[str]
    path: str
    technique: list[float]


COLUMNS = (*(name for name in Row.__annotations__ if name != "technique"), *scores.COLUMNS, "technique")
OPTIONAL = frozenset(COLUMNS[COLUMNS.index("replaces") :])


class InputRow(TypedDict):
    """Where an input is and what its header says (private: paths name patients)."""

    index: int
    path: str
    identity: list[int] | None
    header: dict[str, Any] | None


def new_row(**known: Any) -> Row:
    """A row that claims nothing yet but what is known."""
    row: Row = {"status": "failed", "reason": Reason.INTERNAL, "input_sha256": None, "warnings": [], "outputs": []}
    return {**row, **known}  # type: ignore[typeddict-item]


def refused(error: BaseException, **known: Any) -> Row:
    """The row of a film that an exception has ended."""
    eligible, reason, codes = explain(error)
    row = new_row(**known)
    status = "failed" if eligible else "skipped"
    return {**row, "status": status, "reason": reason, "warnings": [*row["warnings"], *codes]}


def no_file(entry: Entry) -> Row:
    """The row of what is no regular file: a pipe, a device, a link to nowhere; or of what cannot be looked at."""
    if entry.listed:
        return new_row(status="skipped", reason=Reason.NOT_A_FILE)
    return new_row(reason=Reason.READ_ERROR)


def duplicate(index: int, original: int, digest: str | None) -> Row:
    """The row of another copy, or another name, of a film."""
    return new_row(index=index, status="skipped", reason=Reason.DUPLICATE, duplicate_of=original, input_sha256=digest)


def lost(task: LostTask, path: str, identity: Identity | None) -> Row:
    """The row of a film whose process was lost; its digest is taken here, which needs no parser.

    Args:
        task: what became of it.
        path: the film.
        identity: of the file that was given to the process; another one by now is not to blame.
    """
    row = new_row(reason=str(task))
    with contextlib.suppress(Exception), open_file(path) as file:
        if identity is not None and file.identity != identity:
            return refused(Changed("the file has been replaced"))
        row["input_sha256"] = file.sha256()
    return row


def score_of(row: Row, score: str) -> float:
    """A score of a film that has it."""
    return cast(dict[str, float], row)[score]


def p_value(row: Row, score: str) -> float:
    """The p-value of a film's score; more than 1 where it has none."""
    return cast(dict[str, float], row).get(f"{score}_p", 2.0)


def summary(rows: Iterable[Row]) -> str:
    """One line: how many films are done, skipped and failed."""
    count = Counter(row["status"] for row in rows)
    return ", ".join(f"{count[status]} {status}" for status in ("done", "skipped", "failed"))
