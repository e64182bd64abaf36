"""``report.html``: the films of a run with what the model made of them, and why others were left out, in one file."""

from __future__ import annotations

import base64
import hashlib
import heapq
from collections import Counter
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from monai_cxr_vae.data.writers import strip_file
from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.files import PRIVATE_FOLDER, write_whole
from monai_cxr_vae.inference.rows import Row

# What a browser opens in a few seconds; the manifest has them all.
MAX_ROWS = 10_000
_SHOWN = (
    *("index", "status", "reason", "format", "view", "sop_uid", "input_sha256", "duplicate_of", "path", "warnings"),
    *("quality", "quality_p", "quality_part", "anomaly", "anomaly_p", "anomaly_part"),
)


def write_report(output_dir: Path, rows: Collection[Row], provenance: Provenance) -> None:
    """Write ``report.html`` for the owner's eyes (mode 0600), since it holds pictures of patients.

    One file that loads nothing: film, reconstruction and map of each film that is done, where the run has kept them,
    its scores, and the reasons of the others. Of more than 10,000 rows the failed and then the most unusual are shown.
    The same rows and pictures give the same bytes.

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
            rows=[_shown(row, output_dir) for row in shown],
            count=count,
            total=count.total(),
            scored=any("anomaly" in row for row in shown),
            provenance=provenance,
        )
    )
    scratch = output_dir / PRIVATE_FOLDER / "tmp"
    write_whole(output_dir / "report.html", page.encode(), scratch, mode=0o600)


def _rank(row: Row) -> tuple[bool, bool, float, int]:
    """Failed films first, then by the smaller p-value, then what was skipped."""
    p = min(row.get("quality_p", 2), row.get("anomaly_p", 2))
    return row["status"] != "failed", row["status"] != "done", p, row["index"]


def _shown(row: Row, output_dir: Path) -> dict[str, Any]:
    told = {column: value for column, value in row.items() if column in _SHOWN and value not in (None, [])}
    if row["status"] == "done":
        strip = strip_file(output_dir, str(row["input_sha256"]))
        if strip.exists():
            told["strip"] = base64.b64encode(strip.read_bytes()).decode()
    return told


def _source(text: str) -> str:
    """The one inline text that a browser may take (Content Security Policy)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
