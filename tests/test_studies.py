"""The probe study where what can be told is known."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.model import RadiographVAE, save_model

FOLDER = Path(__file__).parents[1] / "examples" / "studies"


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("probes")
    sys.modules.pop("probes", None)


def test_auroc_is_that_of_two_normals(probes: Any):
    random = np.random.default_rng(0)
    answers, patients = random.random(600) < 0.4, np.arange(600)
    features = random.standard_normal((600, 5))
    features[:, 2] += 1.5 * answers  # d' = 1.5, which four values of noise do not hide
    theirs = random.standard_normal(600)
    found = probes.compare(probes.probe(features, answers, patients), theirs, answers, patients)
    expected = stats.norm.cdf(1.5 / 2**0.5)
    low, high = found["latents"]["ci95"]
    assert low < expected < high
    assert high - low < 0.1
    assert found["pca"]["ci95"][0] < 0.5 < found["pca"]["ci95"][1]
    assert found["difference"]["value"] == pytest.approx(found["latents"]["value"] - found["pca"]["value"])
    assert found["difference"]["ci95"][0] > 0.2


def test_who_a_patient_is_tells_nothing(probes: Any):
    random = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 5)
    answers = (random.random(40) < 0.5)[patients]
    features = random.standard_normal((40, 30))[patients] + 0.01 * random.standard_normal((200, 30))
    found = probes.compare(*[probes.probe(features, answers, patients)] * 2, answers, patients)["latents"]
    assert found["ci95"][0] < 0.5 < found["ci95"][1] + 0.1
    assert found["value"] < 0.75  # films of one patient on both sides would make it 1


def test_intervals_are_of_patients(probes: Any):
    random = np.random.default_rng(2)
    answers, scores = random.random(80) < 0.5, random.standard_normal(80)
    scores += answers
    alone = probes.compare(scores, scores, answers, np.arange(80))["latents"]
    fourfold = [np.repeat(values, 4) for values in (scores, answers, np.arange(80))]
    repeated = probes.compare(fourfold[0], fourfold[0], fourfold[1], fourfold[2])["latents"]
    assert repeated["value"] == pytest.approx(alone["value"])
    assert repeated["ci95"] == pytest.approx(alone["ci95"], abs=0.02)  # a film four times tells no more


def test_questions_are_those_that_enough_films_answer(probes: Any):
    rows = [{"view": "AP", "sex": "f", "label": "normal?", "finding": "Edema|Mass"}] * 30
    rows += [{"view": "PA", "sex": "M", "label": "normal", "finding": "Mass"}] * 30
    rows += [{"view": "lateral", "sex": "", "label": "normal", "finding": "No Finding"}] * 30
    asked = {question.name: (len(question.films), int(question.answers.sum())) for question in probes.questions(rows)}
    assert asked == {"view: AP or PA": (60, 30), "sex: F or M": (60, 30), "finding: Edema": (60, 30)}


@pytest.mark.training
def test_the_study_runs(probes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probes, "FEWEST", 5)
    monkeypatch.setattr(probes, "RESAMPLES", 20)
    films = write_phantoms(tmp_path / "films", 24, format="png", size=32)
    with (tmp_path / "films.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("file", "patient", "view", "site"))
        for i, film in enumerate(sorted(films)):
            table.writerow((film.relative_to(tmp_path), i // 2, ("AP", "PA")[i // 2 % 2], ("here", "there")[i > 20]))
    save_model(RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16), tmp_path / "tiny.pt")
    words = ["probes.py", str(tmp_path / "films.csv"), "--train", str(tmp_path / "films"), "--only", "site=^here$"]
    words += ["--weights", str(tmp_path / "tiny.pt"), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    probes.main()
    (found,) = probes.json.loads((tmp_path / "found.json").read_text())
    assert (found["question"], found["yes"] + found["no"], found["values"]) == ("view: AP or PA", 21, 4)
    assert 0 <= found["pca"]["ci95"][0] <= found["pca"]["value"] <= found["pca"]["ci95"][1] <= 1
