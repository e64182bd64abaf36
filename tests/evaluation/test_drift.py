"""Drift of a scored folder: what the test promises, what it finds, what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from monai_cxr_vae.cli import main
from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.data.writers import file_sha256
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import drift
from monai_cxr_vae.evaluation.drift import MEASURES, compare
from monai_cxr_vae.inference.manifest import Journal
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scores import SCORES
from monai_cxr_vae.scoring import detail_films, fit_scorer


def phantom(seed: int, shift: float = 0.0, closer: int = 0) -> np.ndarray:
    film = render((51, seed), 96).image
    film = film[closer : 96 - closer, closer : 96 - closer]
    return (255 * np.clip(film + shift, 0, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RadiographVAE:
    """A small model calibrated with 60 phantom films."""
    folder = tmp_path_factory.mktemp("calibration")
    for i in range(110):
        Image.fromarray(phantom(i)).save(folder / f"{i:03d}.png")
    data = [{"image": str(path)} for path in sorted(folder.glob("*.png"))]
    torch.manual_seed(0)
    made = RadiographVAE(image_size=32, latent_size=8, channels=(8,), width=16).eval()
    films, others = (detail_films(made, part, folder / "cache") for part in (data[:50], data[50:]))
    made.network.initialize_linear(torch.nn.functional.avg_pool2d(films.images(), 2))
    fit_scorer(made, films, others)
    return made


def scored(model: RadiographVAE, folder: Path, films: Sequence[np.ndarray]) -> Path:
    """An output folder as `cxr-vae score` leaves it, with the rows that matter here, and the weights beside it."""
    (folder / "films").mkdir()
    for i, film in enumerate(films):
        Image.fromarray(film).save(folder / "films" / f"{i:04d}.png")
    save_model(model, folder / "model.pt")
    words = ["score", str(folder / "films"), "--output", str(folder / "out"), "--weights", str(folder / "model.pt")]
    assert main(words) == 0
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize(("change", "found"), [({}, False), ({"shift": 0.08}, True), ({"closer": 8}, True)])
def test_a_change_of_technique_is_found_through_the_command_line(
    change: dict[str, float], found: bool, model: RadiographVAE, tmp_path: Path, capsys: pytest.CaptureFixture
):
    films = [phantom(i) for i in range(200, 240)] + [phantom(i, **change) for i in range(240, 280)]
    out = scored(model, tmp_path, films)
    capsys.readouterr()
    assert main(["drift", str(out), "--weights", str(tmp_path / "model.pt"), "--block", "40"]) == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.startswith("films 0 to 39: p ")
    assert "ALARM" not in first
    assert ("ALARM" in second) == found
    assert total.startswith(f"{int(found)} of 2 blocks alarm")
    assert json.loads((out / "drift.json").read_text())["blocks"][1]["alarm"] == found
    assert Image.open(out / "drift.png").size[0] > 500


def rows_of(model: RadiographVAE, folder: Path, numbers: np.ndarray) -> tuple[Path, Path]:
    """A manifest with these measures, and the weights that it names."""
    save_model(model, folder / "model.pt")
    journal = Journal(folder / "manifest.jsonl")
    for i, measures in enumerate(numbers.tolist()):
        row = {"index": i, "status": "done", "model_sha256": file_sha256(folder / "model.pt"), "format": "dicom"}
        journal.add(row | dict(zip(SCORES, measures, strict=False)) | {"technique": measures[len(SCORES) :]})
    journal.close()
    return folder, folder / "model.pt"


@pytest.fixture
def known(model: RadiographVAE) -> RadiographVAE:
    """With a calibration of 80 films whose measures are normal variates."""
    known = copy.deepcopy(model)
    draws = torch.randn(80, len(MEASURES), generator=torch.Generator().manual_seed(1))
    for name, values in zip(SCORES, draws.T, strict=False):
        setattr(known.scorer, f"{name}_calibration", values.sort().values)
    known.scorer.technique_calibration = draws[:, len(SCORES) :]
    return known


def test_p_values_are_those_of_scipy_and_an_alarm_names_what_has_changed(known: RadiographVAE, tmp_path: Path):
    numbers = np.random.default_rng(0).standard_normal((70, len(MEASURES)))
    numbers[30:60, MEASURES.index("texture_3")] += 3
    numbers[30:60, MEASURES.index("anomaly")] += 1.5
    told = drift(*rows_of(known, tmp_path, numbers), block=30, alarm_rate=0.001)
    assert [(block["first"], block["last"]) for block in told["blocks"]] == [(0, 29), (30, 59)]  # ten films wait
    assert [block["alarm"] for block in told["blocks"]] == [False, True]
    assert told["blocks"][1]["differs"] == ["texture_3", "anomaly"]
    column = known.scorer.technique_calibration[:, MEASURES.index("texture_3") - len(SCORES)].numpy()
    judge = stats.ks_2samp(numbers[30:60, MEASURES.index("texture_3")], column).pvalue
    assert told["blocks"][1]["p"] == pytest.approx(len(MEASURES) * judge, rel=1e-6)


def test_of_blocks_without_drift_no_more_alarm_than_promised():
    """Correlated measures, a new calibration each time."""
    rng, alarms, rounds, rate = np.random.default_rng(0), 0, 400, 0.1
    for _ in range(rounds):
        draws = rng.standard_normal((180, len(MEASURES))) + rng.standard_normal((180, 1))
        alarms += len(MEASURES) * compare(draws[:100], draws[100:]).min() <= rate
    assert stats.binomtest(alarms, rounds, rate, alternative="greater").pvalue > 0.001
    assert alarms > 0  # a test that never alarms would promise as much


def test_header_values_are_told_when_they_are_first_seen(known: RadiographVAE, tmp_path: Path):
    numbers = np.random.default_rng(0).standard_normal((60, len(MEASURES)))
    folder, weights = rows_of(known, tmp_path, numbers)
    text = (folder / "manifest.jsonl").read_text().splitlines()
    text[45] = text[45].replace('"dicom"', '"png"')
    (folder / "manifest.jsonl").write_text("\n".join(text) + "\n")
    blocks = drift(folder, weights, block=20)["blocks"]
    assert [block["new"] for block in blocks] == [[], [], ["format png"]]


def test_what_cannot_be_compared_is_refused_with_a_reason(known: RadiographVAE, model: RadiographVAE, tmp_path: Path):
    numbers = np.zeros((30, len(MEASURES)))
    folder, weights = rows_of(known, tmp_path, numbers)
    with pytest.raises(InputError, match="30 scored films do not fill a block of 31"):
        drift(folder, weights, block=31)
    with pytest.raises(InputError, match="not the output"):
        drift(tmp_path / "other", weights)
    save_model(model, tmp_path / "other.pt")
    with pytest.raises(InputError, match="scored by other weights"):
        drift(folder, tmp_path / "other.pt", block=30)
    (tmp_path / "unscored").mkdir()
    unscored, weights = rows_of(known, tmp_path / "unscored", numbers)
    text = (unscored / "manifest.jsonl").read_text().replace('"technique"', '"other"')
    (unscored / "manifest.jsonl").write_text(text)
    with pytest.raises(InputError, match="score them anew"):
        drift(unscored, weights, block=30)
    (tmp_path / "unknown").mkdir()
    known.scorer.technique_calibration = torch.full_like(known.scorer.technique_calibration, torch.nan)
    with pytest.raises(InputError, match="calibrate them anew"):
        drift(*rows_of(known, tmp_path / "unknown", numbers), block=30)
    known.scorer = None
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="calibrate them anew"):
        drift(*rows_of(known, tmp_path / "none", numbers), block=30)
