"""What stands in report.html; how it looks and behaves is for the browser to judge (tests/interop)."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from monai_cxr_vae.data.pictures import thumbnails
from monai_cxr_vae.data.writers import thumbnails_file
from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.dicom.secondary_capture import secondary_capture
from monai_cxr_vae.inference import report
from monai_cxr_vae.inference.report import is_viewer_url, write_report
from monai_cxr_vae.scores import ASPECTS, SCORES
from tests.dicom.sources import header
from tests.dicom.test_objects import CREATED, IMAGE

PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2.3")
PICTURE = thumbnails([np.zeros((8, 8), np.float32)])


def row(index, status="done", **values):
    base = {"index": index, "status": status, "reason": None, "input_sha256": f"{index:032x}" * 2, "warnings": []}
    return {**base, "outputs": [], **values}


def page_of(folder, rows, **options):
    write_report(folder, rows, PROVENANCE, **options)
    page = (folder / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="rows">(.*?)</script>', page, re.S)
    return page, json.loads(data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".run" / "strips").mkdir(parents=True)
    return tmp_path


def test_only_the_owner_may_read_it(folder):
    write_report(folder, [row(0)], PROVENANCE)
    assert (folder / "report.html").stat().st_mode & 0o777 == 0o600
    assert not list(folder.rglob("*.tmp"))


def test_a_picture_stands_in_the_row_of_its_film(folder):
    for index in (1, 2):
        thumbnails_file(folder, row(index)["input_sha256"]).write_bytes(PICTURE)
    rows = [row(0), row(1), row(2, "failed", reason="crashed")]
    page, data = page_of(folder, rows)
    assert {r["index"]: r.get("strip") for r in data} == {0: None, 1: base64.b64encode(PICTURE).decode(), 2: None}
    write_report(folder, rows[::-1], PROVENANCE)
    assert (folder / "report.html").read_text() == page


def test_nothing_but_what_is_meant_to_be_told_is_told(folder):
    page, data = page_of(folder, [row(0, outputs=[{"path": "ZZ"}], voi="ZZ", replaces=["ZZ"], sop_uid="1.2")])
    assert "ZZ" not in page
    assert data == [{"index": 0, "status": "done", "input_sha256": f"{0:064x}", "sop_uid": "1.2"}]


def test_text_cannot_leave_its_place(folder):
    page, data = page_of(folder, [row(0, path="</script><b>&amp;{{ 1 }}")])
    assert data[0]["path"] == "</script><b>&amp;{{ 1 }}"
    assert page.count("</script>") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_of_too_many_rows_the_failed_and_the_most_unusual_are_shown(folder, monkeypatch):
    monkeypatch.setattr(report, "MAX_ROWS", 4)
    scored = [row(i, anomaly=float(i), anomaly_p=1 / (1 + i), quality=0.0, quality_p=0.9) for i in range(10)]
    page, data = page_of(folder, [*scored, row(10, "skipped"), row(11, "failed"), row(12)])
    assert [r["index"] for r in data] == [11, 9, 8, 7]
    assert "Shown are 4 of 13 files" in page
    assert "11 done, 1 skipped, 1 failed" in page
    assert "Shown are" not in page_of(folder, scored[:4])[0]


def test_what_the_colours_mean_depends_on_the_scores(folder):
    with_scores, without = (
        page_of(folder, [row(0, **s)])[0] for s in ({"anomaly": 1.0, "anomaly_p": 0.1, "quality_p": 0.1}, {})
    )
    assert "how unusual each place is" in with_scores
    assert "how much of it the reconstruction lacks" in without
    assert "p at most" not in without


def test_flagged_films_are_counted_and_parts_explained(folder):
    rows = [
        row(i, anomaly=1.0, anomaly_p=p, quality=1.0, quality_p=1 - p) for i, p in enumerate((0.01, 0.05, 0.06, 0.97))
    ]
    page, _ = page_of(folder, rows)
    text = " ".join(page.split())
    counts = {"quality": "1 of 4 films"} | dict.fromkeys(list(SCORES)[1:], "0") | {"anomaly": "2"}
    assert f"p at most 0.05: {', '.join(f'{count} in {name}' for name, count in counts.items())}." in text
    for part, words in ASPECTS.items():
        assert f"<code>{part}</code> {words}" in text
    assert "flagged" not in page_of(folder, [row(0)])[0]


def test_films_are_linked_to_the_viewer_of_the_site(folder):
    _, (shown, other) = page_of(
        folder,
        [row(0, study_uid="1.2", series_uid="1.3", sop_uid="1.4"), row(1, study_uid=None)],
        viewer_url="https://pacs.example/v?s={study}&i={instance}",
    )
    assert shown["link"] == "https://pacs.example/v?s=1.2&i=1.4"
    assert "link" not in other


@pytest.mark.parametrize(
    "pattern",
    [
        "javascript:alert('{study}')",
        "https://pacs.example",
        "https://x/{patient}",
        "https://x/{study",
        "https://x/{}",
        5,
    ],
)
def test_a_pattern_that_leads_nowhere_is_refused(pattern):
    assert not is_viewer_url(pattern)
    assert is_viewer_url("https://pacs.example/viewer?StudyInstanceUIDs={study}")


def test_patients_are_named_only_when_asked_for_and_it_says_so(folder):
    made = secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, CREATED)
    (folder / "a.dcm").write_bytes(made.data)
    rows = [row(0, outputs=[{"path": "a.dcm", "uid": "1"}]), row(1, outputs=[{"path": "gone.dcm", "uid": "1"}]), row(2)]
    page, shown = page_of(folder, rows, patients=True)
    assert [(r.get("patient"), r.get("accession")) for r in shown] == [("P-1", "A1"), (None, None), (None, None)]
    assert "their IDs and accession numbers" in page
    page, _ = page_of(folder, rows)
    assert "P-1" not in page
    assert "accession numbers" not in page
