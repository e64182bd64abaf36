"""The report as its reader has it: in a browser, with thousands of films, and with text that means harm."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from monai_cxr_vae.data.pictures import thumbnails
from monai_cxr_vae.data.writers import thumbnails_file
from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.inference.report import write_report
from tests.interop.browser import Browser

pytestmark = pytest.mark.interop
PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2.3")
COUNT = 3000
HARM = (
    "</script><script>window.harm=1</script>",
    "<img src=x onerror='window.harm=1'>",
    "{{ 7 * 7 }}<!--",
    "<script src='http://example.invalid/x.js'></script>",
)
GREEN = (0, 200, 0)


def rows():
    """Rows with scores, in an order that is none of those that a reader may ask for; some failed, some skipped."""
    rng = np.random.default_rng(0)
    ranks = rng.permutation(COUNT)
    for i, rank in enumerate(ranks.tolist()):
        row = {"index": i, "status": "done", "reason": None, "input_sha256": f"{i:032x}" * 2, "warnings": []}
        if i % 100 == 3:
            row |= {"status": "failed", "reason": "truncated"}
        elif i % 100 == 5:
            row |= {"status": "skipped", "reason": "duplicate", "duplicate_of": i - 1}
        else:
            p = (COUNT - rank) / (COUNT + 1)
            row |= {"sop_uid": f"2.25.{i}", "format": "dicom", "view": "PA"}
            row |= {"anomaly": float(rank), "anomaly_p": p, "anomaly_part": "residual"}
            row |= {"quality": 0.5 - rank, "quality_p": 1 - p, "quality_part": "blur"}
        yield row


@pytest.fixture(scope="module")
def films():
    return list(rows())


@pytest.fixture(scope="module")
def browser(films, tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    picture = thumbnails([np.full((224, 560, 3), GREEN, np.uint8)])
    (folder / ".run" / "strips").mkdir(parents=True)
    for row in films:
        if row["index"] % 10:
            thumbnails_file(folder, row["input_sha256"]).write_bytes(picture)
    for row, harm in zip((r for r in films if r["status"] == "done"), HARM, strict=False):
        row["warnings"] = [harm]
        row["path"] = row["anomaly_part"] = harm
    write_report(folder, films, PROVENANCE)
    with Browser(tool("chromium"), folder / "profile") as opened:
        opened.open(folder / "report.html")
        yield opened


@pytest.fixture
def page(browser):
    """The page as it was when it was opened."""
    browser("document.getElementById('filters').reset()")
    browser("Object.assign(view, {key: 'anomaly', descending: true, page: 0}); show()")
    return browser


def column(page, key):
    """The text of a column on the page that is shown."""
    return page(
        f"""(() => {{
        const at = [...document.querySelectorAll('#head th')].findIndex((th) => th.dataset.key === '{key}');
        return [...document.querySelectorAll('#films tr')].map((tr) => tr.children[at].textContent);
        }})()"""
    )


def press(page, key):
    """Click on the head of a column."""
    page(f"document.querySelector('th[data-key={key}] button').click()")


def fill(page, name, text):
    page(f"document.getElementById('{name}').value = '{text}'")
    page(f"document.getElementById('{name}').dispatchEvent(new Event('input'))")


def place(page):
    return page("document.getElementById('place').textContent")


def test_opens_on_the_most_unusual_films_and_asks_the_network_for_nothing(page, films):
    expected = sorted((r["anomaly"] for r in films if "anomaly" in r), reverse=True)[:25]
    assert column(page, "anomaly") == [f"{value:.2f}" for value in expected]
    assert place(page) == f"1 to 25 of {COUNT}"
    text = page("document.body.innerText")
    assert "pictures of patients" in text
    assert "not for diagnosis" in text
    assert f"{sum(r['status'] == 'failed' for r in films)} failed" in text
    assert not [url for url in page.requests if not url.startswith(("file:", "data:"))]
    assert not page.complaints


def test_every_column_sorts_both_ways(page, films):
    for key in ("quality", "anomaly"):
        values = sorted(r[key] for r in films if key in r)
        press(page, "index")
        press(page, key)  # the most unusual first
        assert column(page, key) == [f"{value:.2f}" for value in values[::-1][:25]]
        press(page, key)
        assert column(page, key) == [f"{value:.2f}" for value in values[:25]]
        assert page(f"document.querySelector('th[data-key={key}]').ariaSort") == "ascending"
        press(page, f"{key}_p")
        smallest = sorted(r[f"{key}_p"] for r in films if key in r)[:25]
        assert [float(text) for text in column(page, f"{key}_p")] == pytest.approx(smallest, rel=0.05)
    press(page, "index")
    assert column(page, "index")[0].startswith("0 · dicom · PA")
    press(page, "status")
    assert set(column(page, "status")) == {"done"}


def test_pages_lead_through_all_films(page, films):
    seen = []
    while True:
        seen += column(page, "anomaly")
        if page("document.getElementById('next').disabled"):
            break
        page("document.getElementById('next').click()")
    assert len(seen) == COUNT
    scores = [float(text) for text in seen if text]
    assert scores == sorted((r["anomaly"] for r in films if "anomaly" in r), reverse=True)
    assert not any(seen[len(scores) :])  # what has no score comes last
    page("document.getElementById('previous').click()")
    assert place(page) == f"{COUNT - 49} to {COUNT - 25} of {COUNT}"


def test_filters_find_reasons_and_unusual_films(page, films):
    fill(page, "status", "failed")
    assert place(page).endswith(f" of {sum(r['status'] == 'failed' for r in films)}")
    assert set(column(page, "status")) == {"failed: truncated"}
    fill(page, "status", "")
    fill(page, "search", "DUPLICATE")
    assert place(page).endswith(f" of {sum(r['reason'] == 'duplicate' for r in films)}")
    fill(page, "search", "2.25.1234")
    assert place(page) == "1 to 1 of 1"
    fill(page, "search", "")
    fill(page, "p", "0.01")
    expected = sum(min(r.get("anomaly_p", 2), r.get("quality_p", 2)) <= 0.01 for r in films)
    assert 0 < expected < COUNT / 10
    assert place(page).endswith(f" of {expected}")
    fill(page, "search", "nothing has this")
    assert place(page) == "none"


def test_pictures_are_seen_and_a_missing_one_is_no_harm(page, films):
    press(page, "index")
    page("Promise.all([...document.images].filter((i) => i.src).map((image) => image.decode()))")
    loaded = page("[...document.querySelectorAll('#films tr')].map((tr) => tr.querySelector('img')?.naturalWidth ?? 0)")
    expected = [560 if r["status"] == "done" and r["index"] % 10 else 0 for r in films[:25]]
    assert loaded == expected
    shown = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    green = np.abs(shown - GREEN).max(axis=-1) < 12
    assert green.mean() > 0.15
    page("document.querySelector('#films img').click()")
    assert page("document.getElementById('large').open")
    enlarged = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    assert (np.abs(enlarged - GREEN).max(axis=-1) < 12).mean() > 1.5 * green.mean()
    page("document.getElementById('large').click()")
    assert not page("document.getElementById('large').open")


def test_text_that_means_harm_is_only_text(page, films):
    press(page, "index")
    assert [text for text in column(page, "warnings") if text] == list(HARM)
    names = [text for text in column(page, "index") if "dicom" in text]
    assert all(harm in text for harm, text in zip(HARM, names, strict=False))
    assert [text for text in column(page, "anomaly_part") if text not in ("", "residual")] == list(HARM)
    assert page("window.harm") is None
    assert page("document.scripts.length") == 2
    assert not [url for url in page.requests if "example.invalid" in url]


def test_policy_stops_a_script_and_a_request_that_slip_in(page):
    """The last line of defence works in this browser: nothing runs or loads but the report's own script."""
    page(
        """window.stopped = new Promise((resolve) => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", (event) => {
            seen.push(event.effectiveDirective);
            if (seen.length === 3) resolve(seen.sort());
        });
        }); 0"""
    )
    markup = '<img src="http://127.0.0.1:9/x" onerror="window.harm = 1">'
    page(f"document.body.insertAdjacentHTML('beforeend', '{markup}')")
    page("document.body.appendChild(document.createElement('script')).textContent = 'window.harm = 1'")
    assert page("window.stopped") == ["img-src", "script-src-attr", "script-src-elem"]
    assert page("window.harm") is None
    page.complaints.clear()
