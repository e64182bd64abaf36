"""``report.html``: the films of a run with what the model made of them, and why others were left out, in one file."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
import string
import urllib.parse
from collections import Counter
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pydicom

from monai_cxr_vae.data.writers import thumbnails_file
from monai_cxr_vae.dicom.attributes import text
from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.files import PRIVATE_FOLDER, write_whole
from monai_cxr_vae.inference.rows import Row, p_value
from monai_cxr_vae.scores import ASPECTS, COLUMNS, SCORES

# What a browser opens in a few seconds; the manifest has them all.
MAX_ROWS = 10_000
# Films with a p-value of at most this are counted and set off; 5 of 100 normal ones have it by chance.
UNUSUAL = 0.05
_LINKED = {"study": "study_uid", "series": "series_uid", "instance": "sop_uid"}
_SHOWN = (
    *("index", "status", "reason", "format", "view", "sop_uid", "input_sha256", "duplicate_of", "path", "warnings"),
    *COLUMNS,
)


def is_viewer_url(pattern: object) -> bool:
    """Whether a pattern leads to a web page and names a study, a series or an instance, and nothing else."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(str(pattern)) if name is not None}
    except ValueError:
        return False
    return str(pattern).startswith(("http://", "https://")) and bool(names) and names <= set(_LINKED)


def write_report(
    output_dir: Path,
    rows: Collection[Row],
    provenance: Provenance,
    viewer_url: str | None = None,
    patients: bool = False,
) -> None:
    """Write ``report.html`` for the owner's eyes (mode 0600), since it holds pictures of patients.

    One file that loads nothing: film, reconstruction and map of each film that is done, where the run has kept them,
    its scores, and the reasons of the others. Of more than 10,000 rows the failed and then the most unusual are shown.
    The same rows and pictures give the same bytes.

    Args:
        output_dir: the folder of the run.
        rows: the current rows.
        provenance: what made the results.
        viewer_url: address of a film in the site's viewer, with ``{study}``, ``{series}`` or ``{instance}`` in place of
            its UID; None for no links.
        patients: show Patient ID and Accession Number of the films that have given DICOM objects, to search by.

    Raises:
        OutputError: the file cannot be written.
    """
    count = Counter(row["status"] for row in rows)
    shown = heapq.nsmallest(MAX_ROWS, rows, key=_rank)
    template, style, script = (
        (files(__package__) / "templates" / f"report.{kind}").read_text() for kind in ("html", "css", "js")
    )
    page = (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            style=style,
            script=script,
            policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}",
            rows=[_shown(row, output_dir, viewer_url, patients) for row in shown],
            count=count,
            total=count.total(),
            scored=any(name in row for row in shown for name in SCORES),
            scores=SCORES,
            flagged={name: sum(p_value(row, name) <= UNUSUAL for row in rows) for name in SCORES},
            unusual=UNUSUAL,
            parts=ASPECTS,
            patients=patients,
            provenance=provenance,
        )
    )
    scratch = output_dir / PRIVATE_FOLDER / "tmp"
    write_whole(output_dir / "report.html", page.encode(), scratch, mode=0o600)


def _rank(row: Row) -> tuple[bool, bool, float, int]:
    """Failed films first, then by the smaller p-value, then what was skipped."""
    p = min(p_value(row, name) for name in SCORES)
    return row["status"] != "failed", row["status"] != "done", p, row["index"]


def _shown(row: Row, output_dir: Path, viewer_url: str | None, patients: bool) -> dict[str, Any]:
    shown = {column: value for column, value in row.items() if column in _SHOWN and value not in (None, [])}
    if row["status"] == "done":
        pictures = thumbnails_file(output_dir, str(row["input_sha256"]))
        if pictures.exists():
            shown["strip"] = base64.b64encode(pictures.read_bytes()).decode()
    if viewer_url and row.get("study_uid"):
        uids = {name: urllib.parse.quote(str(row.get(column) or "")) for name, column in _LINKED.items()}
        shown["link"] = viewer_url.format(**uids)
    if patients:
        shown |= _identity(row, output_dir)
    return shown


def _identity(row: Row, output_dir: Path) -> dict[str, str]:
    """What a film's own objects say of whom it shows; nothing where there is none."""
    for output in row["outputs"]:
        if output["uid"]:
            try:
                data = (output_dir / output["path"]).read_bytes()
                dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
                return {"patient": text(dataset, "PatientID"), "accession": text(dataset, "AccessionNumber")}
            except Exception:  # a result that is damaged or gone is told by the next run
                continue
    return {}


def _source(text: str) -> str:
    """The one inline text that a browser may take (Content Security Policy)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
