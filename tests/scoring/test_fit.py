"""Fitting a scorer to normal films, calibrating it with others, and carrying it along in a weights file."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from sklearn.covariance import LedoitWolf

from monai_cxr_vae import load_model
from monai_cxr_vae.data import FilmDataset
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scores import SCORES
from monai_cxr_vae.scoring import Scorer, calibrate, detail_films, expected_alarms, fit, fit_scorer, score
from monai_cxr_vae.scoring.score import examine, p_value
from monai_cxr_vae.scoring.scorer import FEATURES
from tests.scoring.conftest import CALIBRATION, FITTED, as_scored

Films = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Datasets = Callable[[RadiographVAE], list[FilmDataset]]


def seen(model: RadiographVAE, films: FilmDataset) -> fit.Aspects:
    with torch.no_grad():
        return examine(model, model.scorer, *as_scored(films))


@pytest.mark.parametrize("name", ["latent", *FEATURES])
def test_distances_are_those_of_scikit_learn(plain: RadiographVAE, datasets: Datasets, name: str):
    fitted, _, new = (getattr(seen(plain, films), name).double().numpy() for films in datasets(plain))
    look = seen(plain, datasets(plain)[2])
    found = plain.scorer.measure(look)[:, plain.scorer.aspects.index(name)]
    judge = LedoitWolf().fit(fitted)
    np.testing.assert_allclose(found.numpy(), np.log(judge.mahalanobis(new)), atol=1e-3)


@pytest.mark.parametrize("name", ["latent", *FEATURES])
def test_fitted_films_are_judged_by_the_films_of_other_folds(plain: RadiographVAE, datasets: Datasets, name: str):
    features = getattr(seen(plain, datasets(plain)[0]), name).double().numpy()
    distances = []
    for i, film in enumerate(features):
        others = [other for j, other in enumerate(features) if j % 5 != i % 5]
        distances.append(np.log(LedoitWolf().fit(np.stack(others)).mahalanobis(film[None])[0]))
    column = plain.scorer.aspects.index(name)
    assert float(plain.scorer.centre[column]) == pytest.approx(np.mean(distances), abs=1e-3)
    assert float(plain.scorer.spread[column]) == pytest.approx(np.std(distances, ddof=1), rel=1e-3)


def test_residuals_are_in_units_of_what_is_usual_at_the_place(plain: RadiographVAE, datasets: Datasets):
    look = seen(plain, datasets(plain)[0])
    squares = np.ma.masked_array(look.squares[:, 0].numpy(), ~look.mask[:, 0].numpy())
    variance = squares.mean(0).filled(squares.mean())
    np.testing.assert_allclose(plain.scorer.variance.numpy(), variance, rtol=1e-4)
    usual = variance + 0.25 * variance.mean()
    residual = np.log((squares / usual).mean((1, 2)))
    found = plain.scorer.measure(look)
    np.testing.assert_allclose(found[:, 0], residual, atol=1e-4)
    worst = []
    for film in (squares / usual).filled(np.nan):
        local = np.full((32, 32), np.nan)
        for y, x in np.argwhere(~np.isnan(film)):
            local[y, x] = np.nanmean(film[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3])
        worst.append(np.log(np.nanquantile(local, 0.995)))
        if len(worst) == 10:
            break
    np.testing.assert_allclose(found[:10, 1], worst, atol=1e-3)


def test_places_that_no_film_has_are_usual_on_the_whole():
    squares = torch.rand(6, 1, 4, 4)
    mask = torch.ones(6, 1, 4, 4, dtype=torch.bool)
    mask[..., 0] = False
    look = fit.Aspects(squares * mask, mask, *[torch.empty(0)] * 5)
    variance = fit._place_variance(look)
    torch.testing.assert_close(variance[:, 0], squares[..., 1:].mean().expand(4))
    torch.testing.assert_close(variance[:, 1:], squares.mean((0, 1))[:, 1:])


@pytest.mark.parametrize("kind", ["plain", "critical"])
def test_one_film_in_ten_of_the_calibration_has_a_place_beyond_the_limit(
    kind: str, datasets: Datasets, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    look = seen(model, datasets(model)[1])
    highest = model.scorer.heat(look).amax((1, 2, 3)).numpy()
    assert np.quantile(highest, 0.9) == pytest.approx(0.5, rel=1e-4)
    assert (highest > 0.5).sum() == 4  # of 39


def test_the_calibration_holds_the_scores_of_its_films(plain: RadiographVAE, datasets: Datasets):
    told, _ = score(plain, *as_scored(datasets(plain)[1]))
    for name in SCORES:
        ranked = sorted(getattr(row, name) for row in told)
        np.testing.assert_allclose(getattr(plain.scorer, f"{name}_calibration").numpy(), ranked, atol=1e-4)
    technique = np.array([row.technique for row in told])
    np.testing.assert_allclose(plain.scorer.technique_calibration.numpy(), technique, atol=1e-3)
    assert plain.settings["calibration"] == {"films": CALIBRATION, "date": datetime.date.today().isoformat()}


def test_another_calibration_changes_the_p_values_alone(plain: RadiographVAE, datasets: Datasets, new_films: Films):
    model = copy.deepcopy(plain)
    others = datasets(plain)[0]  # more films, and other ones
    calibrate(model, others)
    before, after = score(plain, *new_films)[0], score(model, *new_films)[0]
    assert [row.quality for row in before] == [row.quality for row in after]
    assert [row.anomaly_part for row in before] == [row.anomaly_part for row in after]
    calibration = score(model, *as_scored(others))[0]
    for name in SCORES:
        known = np.array([getattr(row, name) for row in calibration])
        for row in after:
            # A film alone and in a batch may differ in the last bits of its score.
            low, high = (int((known > getattr(row, name) + shift).sum()) for shift in (1e-4, -1e-4))
            k = getattr(row, f"{name}_p") * (FITTED + 1) - 1
            assert -1 < k <= high + 1e-6
            if low:
                assert k == pytest.approx(round(k), abs=1e-6)
                assert k >= low - 1e-6
    changed = {name for name, value in plain.state_dict().items() if not same(value, model.state_dict()[name])}
    told = (*(f"{name}_calibration" for name in SCORES), "technique_calibration", "heat_limit")
    assert changed == {"_extra_state", *(f"scorer.{name}" for name in told)}
    assert {k: v for k, v in model.settings.items() if v != plain.settings[k]}.keys() == {"calibration"}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def test_too_few_films_are_refused(plain: RadiographVAE, phantoms: list[Path], tmp_path: Path):
    model = copy.deepcopy(plain)
    nine, ten = (detail_films(model, [{"image": str(p)} for p in phantoms[:n]], tmp_path) for n in (9, 10))
    with pytest.raises(InputError, match="at least 10 normal films"):
        fit_scorer(model, nine, ten)
    assert model.scorer.state_dict().keys() == plain.scorer.state_dict().keys()
    fit_scorer(model, ten, nine)
    told, _ = score(model, *as_scored(nine))
    assert {row.quality_p * 10 % 1 for row in told} == {0}


@pytest.mark.parametrize("films", [5, 18, 19, 20, 50, 250])
def test_the_range_of_alarms_is_met_by_19_of_20_calibrations(films: int):
    """Simulated with scores of one distribution, through the p-values themselves."""
    rng, rounds = np.random.default_rng(films), 4000
    scores = torch.from_numpy(rng.standard_normal((rounds, films + 100)))
    alarms = np.array([int((p_value(row[films:], row[:films]) < 0.05).sum()) for row in scores])
    low, high = expected_alarms(films)
    assert (alarms <= high).mean() > 0.97
    if films >= 19:  # of fewer, only some of the films beyond the whole calibration have such a p-value
        inside = (low <= alarms) & (alarms <= high)
        assert 0.94 < inside.mean() < 0.995  # the law is discrete


def test_weights_without_scores_cannot_be_calibrated(plain: RadiographVAE, datasets: Datasets):
    model = copy.deepcopy(plain)
    model.scorer = None
    with pytest.raises(InputError, match="no scores to calibrate"):
        calibrate(model, datasets(plain)[1])


def test_many_films_are_thinned_out_evenly(
    plain: RadiographVAE, phantoms: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fit, "MOST_FILMS", 4)
    data = [{"image": str(path)} for path in phantoms[:10]]
    assert detail_films(plain, data, tmp_path).data == [data[i] for i in (0, 3, 6, 9)]
    assert detail_films(plain, data[:3], tmp_path).data == data[:3]


def as_loaded(path: Path) -> RadiographVAE:
    return load_model(path)


def as_checkpoint(path: Path) -> RadiographVAE:
    model = RadiographVAE(image_size=32, latent_size=8, channels=(8,), width=16, fit="letterbox").eval()
    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(str(path), {"model": model}).attach(engine)
    engine.run([0])
    return model


@pytest.mark.parametrize("opened", [as_loaded, as_checkpoint])
@pytest.mark.parametrize("kind", ["plain", "critical"])
def test_scores_travel_with_the_weights(
    kind: str,
    opened: Callable[[Path], RadiographVAE],
    new_films: Films,
    tmp_path: Path,
    request: pytest.FixtureRequest,
):
    model = request.getfixturevalue(kind)
    save_model(model, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = opened(tmp_path / "model.pt")
    assert len(other.scorer.quality_calibration) == CALIBRATION
    before, heat = score(model, *new_films)
    after, again = score(other, *new_films)
    assert before == after
    assert torch.equal(heat, again)


def test_weights_take_the_place_of_scores_of_another_size(plain: RadiographVAE, critical: RadiographVAE):
    model = copy.deepcopy(critical)
    kept = model.scorer
    model.load_state_dict(critical.state_dict())
    assert model.scorer is kept  # an optimiser may hold its parameters
    model.load_state_dict(plain.state_dict())
    assert model.scorer.critic is None
    model.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("scorer.")})
    assert model.scorer is None
    model.load_state_dict(critical.state_dict())
    assert not any(part.training for part in model.modules())
    assert model.train() is model
    model.load_state_dict(plain.state_dict())
    assert model.scorer.training


@pytest.mark.parametrize("kind", ["plain", "critical"])
def test_a_scripted_model_with_scores_is_the_network(kind: str, new_films: Films, request: pytest.FixtureRequest):
    model = request.getfixturevalue(kind)
    scripted = torch.jit.script(model)
    with torch.no_grad():
        torch.testing.assert_close(scripted(new_films[0]), model(new_films[0]), rtol=1e-5, atol=1e-5)
    assert torch.equal(scripted.state_dict()["scorer.centre"], model.scorer.centre)


def test_a_scorer_is_shaped_after_its_state():
    for critic in (False, True):
        scorer = Scorer(16, 5, critic, 7)
        again = Scorer.shaped_like(scorer.state_dict())
        again.load_state_dict(scorer.state_dict())
        assert (again.critic is not None) == critic
        assert len(again.anomaly_calibration) == 7
