"""Results as a radiologist has them, from an archive: in OHIF, opened by double clicks, and in Orthanc's viewer."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from tests.interop.browser import Browser
from tests.interop.conftest import Orthanc, orthanc_server
from tests.interop.servers import ask, running
from tests.planted import write_planted

pytestmark = pytest.mark.interop
HERE = Path(__file__).parent / "ohif"
PATIENCE = 240  # seconds for what takes few on an idle machine
THUMBNAILS = (
    "[...document.querySelectorAll('[data-cy=study-browser-thumbnail], [data-cy=study-browser-thumbnail-no-image]')]"
)
# What is written on the picture.
WORDS = "[...document.querySelectorAll('svg.svg-layer')].map((e) => e.textContent).join(' ')"


@dataclass(frozen=True)
class Results:
    """Two films of one study with an opacity, the second one MONOCHROME1 and lying on its side, and what they gave."""

    films: list[pydicom.Dataset]
    opacities: list[np.ndarray]
    objects: dict[str, list[pydicom.Dataset]]
    rows: list[dict]


@pytest.fixture(scope="module")
def pages(tool: Callable[[str], str]) -> Path:
    """The viewer's pages, fetched once, before the network namespace from which nothing could be."""
    tool("npm")
    done = subprocess.run(["bash", str(HERE / "install.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"OHIF cannot be fetched: {done.stderr[-200:]}"
        pytest.fail(message) if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1" else pytest.skip(message)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def results(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("films")
    planted = write_planted(folder / "in", 2)
    assert [each.film.PhotometricInterpretation for each in planted] == ["MONOCHROME2", "MONOCHROME1"]
    words = ["score", folder / "in", "--output", folder / "out", "--objects", "sc", "overlay", "sr"]
    subprocess.run([sys.executable, "-m", "monai_cxr_vae", *words], check=True)
    rows = [json.loads(line) for line in (folder / "out" / "manifest.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: row["sop_uid"] != planted[0].film.SOPInstanceUID)
    objects = {
        kind: [pydicom.dcmread(folder / "out" / o["path"]) for row in rows for o in row["outputs"] if o["kind"] == kind]
        for kind in ("sc", "overlay", "sr")
    }
    return Results([each.film for each in planted], [each.opacity for each in planted], objects, rows)


@pytest.fixture(scope="module")
def archive(
    results: Results, own_network: None, tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    """The server of the PACS example, and its own viewer, with all of the study."""
    plugins = [f"/usr/share/orthanc/plugins/libOrthanc{name}.so" for name in ("DicomWeb", "WebViewer")]
    with orthanc_server(tool, tmp_path_factory.mktemp("orthanc"), 18042, 14242, Plugins=plugins) as server:
        for ds in [*results.films, *(ds for kind in results.objects.values() for ds in kind)]:
            buffer = io.BytesIO()
            ds.save_as(buffer)
            assert ask(f"{server.url}/instances", buffer.getvalue()).status == 200
        yield server


@pytest.fixture(scope="module")
def viewer(pages: Path, results: Results, archive: Orthanc, tool: Callable[[str], str]) -> Iterator[Browser]:
    """OHIF with the study open."""
    origin, log = "http://127.0.0.1:13000", archive.folder / "ohif.log"
    with (
        running([sys.executable, str(HERE / "serve.py"), str(pages), archive.url, "13000"], origin, log),
        Browser(tool("chromium"), archive.folder / "ohif", webgl=True) as browser,
    ):
        browser.open(f"{origin}/viewer?StudyInstanceUIDs={results.films[0].StudyInstanceUID}")
        until(browser, f"{THUMBNAILS}.length >= 8")
        if appears(browser, "[...document.querySelectorAll('button')].some((b) => b.innerText === 'Skip all')", 10):
            browser("[...document.querySelectorAll('button')].find((b) => b.innerText === 'Skip all').click()")
        yield browser


def appears(browser: Browser, script: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not browser(script):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def until(browser: Browser, script: str) -> None:
    assert appears(browser, script, PATIENCE), browser("document.body.innerText")


def open_series(viewer: Browser, ds: pydicom.Dataset, picture: np.ndarray) -> np.ndarray:
    """Double click on a series and wait until it shows something like a picture: the viewport, grey, in [0, 1]."""
    target = f"{THUMBNAILS}.find((e) => e.innerText.includes('S:{ds.SeriesNumber}\\n'))"
    viewer(f"{target}.scrollIntoView(), {target}.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))")
    deadline = time.monotonic() + PATIENCE
    while likeness(shown := viewport(viewer), picture) < 0.8:
        assert time.monotonic() < deadline, f"series {ds.SeriesNumber} is not shown, {likeness(shown, picture):.2f}"
        time.sleep(0.5)
    return shown


def viewport(viewer: Browser, canvas: str = ".cornerstone-canvas") -> np.ndarray:
    """What is drawn in the middle of the page, without what stands at its borders."""
    page = Image.open(io.BytesIO(viewer.screenshot())).convert("L")
    left, top, right, bottom = viewer(
        f"(() => {{ const r = document.querySelector('{canvas}')?.getBoundingClientRect();"
        "return r ? [r.left, r.top, r.right, r.bottom] : [0, 0, 1, 1]; })()"
    )
    return np.asarray(page.crop((left, top, right, bottom))).astype(np.float32) / 255


def filled(shown: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The part of a viewport that a picture fills, as large as it fits."""
    (height, width), (rows, columns) = shown.shape, picture.shape
    scale = min(height / rows, width / columns)
    top, left = round((height - scale * rows) / 2), round((width - scale * columns) / 2)
    return shown[top : top + round(scale * rows), left : left + round(scale * columns)]


def likeness(shown: np.ndarray, picture: np.ndarray) -> float:
    """Correlation of what a viewport shows with a picture."""
    part = filled(shown, picture)
    if part.std() < 0.01:
        return 0.0
    expected = Image.fromarray(picture.astype(np.float32)).resize(part.shape[::-1], Image.BOX)
    return float(np.corrcoef(part.ravel(), np.asarray(expected).ravel())[0, 1])


def right_way_up(shown: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a viewport shows a picture, and that rather than its mirror images."""
    right, turned = likeness(shown, picture), (picture[::-1], picture[:, ::-1], picture[::-1, ::-1])
    return right > 0.9 and right > max(likeness(shown, other) for other in turned)


def pixels(ds: pydicom.Dataset) -> np.ndarray:
    """As displayed, bone bright, in [0, 1]."""
    values = ds.pixel_array.astype(np.float32)
    if values.ndim == 3:
        return values.mean(axis=-1) / 255
    return 1 - values / 4095 if ds.PhotometricInterpretation == "MONOCHROME1" else values / 4095


def test_the_list_tells_results_from_films_and_of_which_film_they_are(viewer: Browser, results: Results):
    names = viewer(f"{THUMBNAILS}.map((e) => e.innerText)")
    assert len(names) == 8
    for series, view in ((1, results.rows[0]["view"]), (2, results.rows[1]["view"])):
        for what in ("reconstruction", "heat map", "scores"):
            (name,) = [n for n in names if f"Research AI: {what}, series {series} image 1 {view}, film" in n]
            assert ("OT" in name) == (what != "scores")
    numbers = [name.split("S:")[1].split("\n")[0] for name in names]
    assert len(set(numbers)) == 8


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", ["film", "sc", "overlay"])
def test_images_open_right_way_up_with_their_caption(viewer: Browser, results: Results, kind: str, which: int):
    ds = results.films[which] if kind == "film" else results.objects[kind][which]
    picture = pixels(ds)
    shown = open_series(viewer, ds, picture)
    assert right_way_up(shown, picture)
    if kind != "film":
        # The caption: a white line, and below it text, in the lowest part of what is on the screen.
        part = filled(shown, picture)
        lowest = part[-round(0.16 * len(part)) :]
        assert ((lowest > 0.6).mean(axis=1) > 0.9).any()
        assert 0.02 < (lowest > 0.5).mean() < 0.5
    assert not viewer.complaints


def open_report(viewer: Browser, results: Results, which: int) -> None:
    """Open a report and wait until its numbers stand on the film."""
    open_series(viewer, results.objects["sr"][which], pixels(results.films[which]))  # with lines and words on it
    words = f"({WORDS}).includes('{results.rows[which]['anomaly']:.2f} {{score}}')"
    # OHIF may choose the outlines only after it has drawn the film, and asks for no new drawing then.
    if not appears(viewer, words, 20):
        viewer("cornerstone.getRenderingEngines().forEach((engine) => engine.render())")
        until(viewer, words)


@pytest.mark.parametrize("which", [0, 1])
def test_a_report_opens_on_its_film_with_its_numbers(viewer: Browser, results: Results, which: int):
    film, row = results.films[which], results.rows[which]
    open_report(viewer, results, which)
    text = viewer(WORDS)
    for question in ("quality", "anomaly"):
        assert f"{question.capitalize()} score of the film: {row[question]:.2f}" in text
        assert f"{question.capitalize()} p-value of the film: {row[question + '_p']:.2f}" in text
        percentile = float(f"{100 * (1 - row[question + '_p']):.3g}")
        assert f"Percentile Ranking of measurement: {percentile:.2f} %" in text
    # All of the words are on the screen, and the outline of the first place is on the opacity.
    canvas = place_of(viewer, ".cornerstone-canvas")[0]
    texts = place_of(viewer, "svg.svg-layer g")
    assert len(texts) >= 2
    for left, top, right, bottom in texts:
        assert canvas[0] < left < right < canvas[2]
        assert canvas[1] < top < bottom < canvas[3]
    rows, columns = film.Rows, film.Columns
    scale = min((canvas[3] - canvas[1]) / rows, (canvas[2] - canvas[0]) / columns)
    corner = (canvas[:2] + canvas[2:]) / 2 - scale * np.array([columns, rows]) / 2
    y, x = np.nonzero(results.opacities[which])
    opacity = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * scale + np.tile(corner, 2)
    outlines = place_of(viewer, "svg.svg-layer polyline")
    assert max(common(outline, opacity) for outline in outlines) > 0.3
    assert not viewer.complaints


def place_of(viewer: Browser, selector: str) -> np.ndarray:
    """Left, top, right and bottom of what the page has of a kind, ``(n, 4)`` in pixels of the screen."""
    return np.array(
        viewer(
            f"[...document.querySelectorAll('{selector}')].map((e) => e.getBoundingClientRect())"
            ".map((r) => [r.left, r.top, r.right, r.bottom])"
        )
    )


def common(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two rectangles."""
    size = lambda r: np.prod(np.clip(r[2:] - r[:2], 0, None))  # noqa: E731
    both = size(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))
    return float(both / (size(one) + size(other) - both))


@pytest.mark.parametrize("kind", ["sc", "overlay", "sr"])
def test_pictures_of_the_documents(viewer: Browser, results: Results, kind: str, tmp_path: Path):
    """Phantoms alone are on them. ``CXR_VAE_PICTURES=docs/images`` makes those of the documents anew."""
    if kind == "sr":
        open_report(viewer, results, 0)
    else:
        open_series(viewer, results.objects[kind][0], pixels(results.objects[kind][0]))
    # of the viewer's own: whether measurements shall be tracked
    viewer("[...document.querySelectorAll('button')].find((b) => b.innerText === 'No')?.click()")
    time.sleep(1)
    page = Image.open(io.BytesIO(viewer.screenshot())).convert("RGB")
    page = page.resize((700, round(700 * page.height / page.width)), Image.Resampling.LANCZOS)
    file = Path(os.environ.get("CXR_VAE_PICTURES", tmp_path)) / f"ohif_{kind}.png"
    page.point(lambda value: value & 0xFC).save(file, optimize=True)  # 64 levels: half the size
    assert file.stat().st_size < 150_000


def test_images_open_right_way_up_in_the_viewer_of_the_archive(
    archive: Orthanc, results: Results, tool: Callable[[str], str]
):
    """It shows no reports: they have no pixels."""
    with Browser(tool("chromium"), archive.folder / "orthanc") as browser:
        for ds in [*results.films, *results.objects["sc"], *results.objects["overlay"]]:
            (series,) = ask(f"{archive.url}/tools/lookup", ds.SeriesInstanceUID.encode()).json()
            browser.open(f"{archive.url}/web-viewer/app/viewer.html?series={series['ID']}")
            deadline = time.monotonic() + PATIENCE
            while not right_way_up(viewport(browser, "canvas"), pixels(ds)):
                assert time.monotonic() < deadline, ds.SeriesDescription
                time.sleep(0.5)
        assert not browser.complaints
