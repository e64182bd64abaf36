"""Training a critic: what it is shown, what it is told, and what a run leaves behind."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from scipy.stats import binomtest, chisquare
from sklearn.metrics import roc_auc_score

from monai_cxr_vae import load_model
from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scoring import Scorer, calibrate, detail_films, findings, fit_scorer, is_fitted, score
from monai_cxr_vae.scoring.faults import FAULTS
from monai_cxr_vae.scoring.features import exposure, texture
from monai_cxr_vae.scoring.findings import FINDINGS
from monai_cxr_vae.scoring.score import examine
from monai_cxr_vae.settings import input_error
from monai_cxr_vae.training import Augmentation, CriticInferer, CriticLoss, SpoilFilms, critic, model_with_critic
from monai_cxr_vae.training.critic import DISEASED, FAULTY, NORMAL
from tests.training.conftest import TinyRun
from tests.training.test_resume import assert_same, final_weights, run_and_kill


@pytest.fixture(scope="module")
def films() -> torch.Tensor:
    return torch.stack([torch.from_numpy(render((31, i), 64).image)[None] for i in range(6)]).repeat(10, 1, 1, 1)


def vae() -> RadiographVAE:
    torch.manual_seed(0)
    model = RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


# What it is shown


def test_films_are_spoilt_in_the_shares_asked_for(films: torch.Tensor):
    torch.manual_seed(0)
    before = films.clone()
    shown, target = SpoilFilms(faults=0.3, findings=0.5)({"image": films})
    assert torch.equal(films, before)
    assert shown.shape == films.shape
    assert shown.dtype == torch.float32
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert target["places"].shape == (60, 1, 16, 16)
    kind, changed = target["kind"], (shown != films).flatten(1).any(1)
    assert not changed[kind == NORMAL].any()
    assert changed[kind != NORMAL].float().mean() > 0.95
    assert not target["places"][kind != DISEASED].any()
    assert target["places"][kind == DISEASED].flatten(1).any(1).float().mean() > 0.9
    counts = np.bincount(kind)
    assert chisquare(counts, [12, 18, 30]).pvalue > 0.001


def test_half_of_the_proper_films_are_sampled_less_finely_along_an_axis(
    films: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(critic, "_marked", lambda film, rng: film)
    torch.manual_seed(0)
    shown, _ = SpoilFilms(Augmentation(keep=1.0), 0, 0)({"image": films})
    same = (shown == films).flatten(1).all(1)
    assert binomtest(int(same.sum()), 60, 0.5).pvalue > 0.001
    assert (shown - films).abs().mean() < 0.02
    # Energy of the finest steps is lost along one axis only.
    kept = torch.stack([shown.diff(dim=d).square().mean((1, 2, 3)) for d in (2, 3)], 1)
    kept /= torch.stack([films.diff(dim=d).square().mean((1, 2, 3)) for d in (2, 3)], 1)
    assert (kept[~same].amin(1) < 0.98).all()
    assert (kept[~same].amin(1) < kept[~same].amax(1) - 0.005).float().mean() > 0.9


def test_every_third_film_has_letters_and_every_sixth_a_frame_and_they_are_no_finding(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(critic, "_resampled", lambda film, rng: film)
    grey = torch.full((600, 1, 64, 64), 0.4)
    torch.manual_seed(0)
    shown, target = SpoilFilms(Augmentation(keep=1.0), 0, 0)({"image": grey})
    assert not target["kind"].any()
    assert not target["places"].any()
    changed = (shown != grey)[:, 0]
    framed = ((shown == 0) | (shown == 1))[:, 0, [0, -1]].all(2).any(1)
    framed |= ((shown == 0) | (shown == 1))[:, 0, :, [0, -1]].all(1).any(1)
    assert 0.06 < framed.float().mean() < 0.2  # some frames are too narrow for this size
    lettered = changed[:, 3:-3, 3:-3].flatten(1).any(1)
    assert 0.25 < lettered.float().mean() < 0.4
    assert changed[lettered & ~framed].flatten(1).float().mean(1).max() < 0.15
    assert not changed[:, 20:40].flatten(1).any(1)[~framed].any()  # where the lungs are


@pytest.mark.parametrize(("shares", "kinds"), [((0, 0), {NORMAL}), ((1, 0), {FAULTY}), ((0, 1), {DISEASED})])
def test_all_or_none_may_be_spoilt(films: torch.Tensor, shares: tuple[float, float], kinds: set[int]):
    _, target = SpoilFilms(None, *shares)({"image": films[:12]})
    assert set(target["kind"].tolist()) == kinds


def test_with_a_seed_what_is_done_follows_from_the_film_alone(films: torch.Tensor):
    spoil = SpoilFilms(seed=4)
    shown, target = spoil({"image": films})
    order = torch.randperm(60)
    torch.manual_seed(1)
    again, same = SpoilFilms(seed=4)({"image": films[order]})
    assert torch.equal(again, shown[order])
    assert torch.equal(same["kind"], target["kind"][order])
    assert torch.equal(same["places"], target["places"][order])
    assert torch.equal(shown[:6], shown[6:12])  # the same films once more
    assert not torch.equal(SpoilFilms(seed=5)({"image": films})[0], shown)


def test_without_a_seed_it_follows_torchs_generator(films: torch.Tensor):
    spoil = SpoilFilms(Augmentation())
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(spoil({"image": films[:12]})[0])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_families_left_out_never_occur(monkeypatch: pytest.MonkeyPatch):
    drawn: set[str] = set()
    for name in FAULTS:
        monkeypatch.setitem(FAULTS, name, lambda film, rng, name=name: drawn.add(name) or film)
    for name in FINDINGS:
        monkeypatch.setitem(FINDINGS, name, lambda film, rng, name=name: drawn.add(name) or (film, film > 2))
    monkeypatch.setattr(findings, "transplant", lambda film, rng, other: FINDINGS["transplant"](film, rng))
    left_out = ["mirrored", "bent", "nodules", "device"]
    torch.manual_seed(0)
    SpoilFilms(None, 0.5, 0.5, left_out)({"image": torch.zeros(600, 1, 8, 8)})
    assert drawn == {*FAULTS, *FINDINGS} - set(left_out)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (["mirrored", "flipped"], "no family flipped; there are turned, mirrored"),
        (list(FAULTS), "at least one family of faults"),
        (list(FINDINGS), "one of findings"),
    ],
)
def test_families_that_cannot_be_left_out_are_an_error(left_out: list[str], said: str):
    with pytest.raises(InputError, match=said):
        SpoilFilms(left_out=left_out)


def test_the_critic_is_shown_in_training_what_it_is_shown_in_scoring():
    """The same logits for films that fill the square."""
    model = vae()
    model.scorer = Scorer(16, 4, critic=True, films=0).eval()
    detail = torch.rand(5, 1, 32, 32)
    with torch.no_grad():
        logits, places = CriticInferer()(detail, model)
        look = examine(model, model.scorer, F.avg_pool2d(detail, 2), detail)
    assert torch.equal(logits, look.critic)
    assert torch.equal(places, look.places)


# What it is told


def judged(logits: torch.Tensor, places: torch.Tensor, kind: torch.Tensor, where: torch.Tensor) -> float:
    """The loss in plain numpy."""

    def entropy(logit: np.ndarray, target: np.ndarray) -> np.ndarray:
        p, target = 1 / (1 + np.exp(-logit.astype(float))), target.astype(float)
        return -target * np.log(p) - (1 - target) * np.log(1 - p)

    a, b, k, w = (t.numpy() for t in (logits, places, kind, where))
    fault = entropy(a[:, 0], k == FAULTY).mean()
    finding = np.where(k == FAULTY, 0, entropy(a[:, 1], k == DISEASED)).mean()
    place = np.where((k == FAULTY)[:, None, None, None], 0, entropy(b, w)).mean()
    return fault + finding + 2 * place


def test_the_loss_is_three_cross_entropies():
    torch.manual_seed(0)
    for _ in range(5):
        logits, places, kind = torch.randn(9, 2), torch.randn(9, 1, 4, 4), torch.randint(3, (9,))
        where = torch.rand(9, 1, 4, 4)
        loss = CriticLoss()
        total = loss((logits, places), {"kind": kind, "places": where})
        assert float(total) == pytest.approx(judged(logits, places, kind, where), rel=1e-5)
        assert float(loss.terms["loss"]) == float(total)


def test_a_faulty_film_says_nothing_of_findings():
    torch.manual_seed(0)
    logits, places = torch.randn(6, 2, requires_grad=True), torch.randn(6, 1, 4, 4, requires_grad=True)
    kind = torch.tensor([NORMAL, FAULTY, DISEASED] * 2)
    CriticLoss()((logits, places), {"kind": kind, "places": torch.rand(6, 1, 4, 4)}).backward()
    faulty = kind == FAULTY
    assert not logits.grad[faulty, 1].any()
    assert not places.grad[faulty].any()
    assert logits.grad[:, 0].all()
    assert logits.grad[~faulty, 1].all()
    assert places.grad[~faulty].all()


@pytest.mark.parametrize("kind", [FAULTY, DISEASED])
def test_the_metric_is_the_area_under_the_curve_over_all_batches(kind: int):
    rng = np.random.default_rng(0)
    kinds, logits = rng.integers(0, 3, 50), rng.standard_normal((50, 2)).round(1).astype(np.float32)  # with ties
    logits[:, kind - 1] += 0.7 * (kinds == kind)

    def output(engine: Engine, rows: np.ndarray) -> dict[str, Any]:
        pred = (torch.from_numpy(logits[rows]), torch.zeros(len(rows), 1, 2, 2))
        return {"pred": pred, "label": {"kind": torch.from_numpy(kinds[rows])}}

    engine = Engine(output)
    critic.auroc(kind).attach(engine, "area")
    engine.run(np.array_split(np.arange(50), 7))
    shown = np.isin(kinds, (NORMAL, kind))
    expected = roc_auc_score(kinds[shown] == kind, logits[shown, kind - 1])
    assert float(engine.state.metrics["area"]) == pytest.approx(expected, abs=1e-6)


# What a run leaves behind


@dataclass
class TinyCriticRun(TinyRun):
    """The same with the bundle's config for a critic of the weights in ``vae.pt``."""

    def settings(self, output: str = "run", **settings: Any) -> dict[str, Any]:
        return super().settings(output, **{"weights": str(self.folder / "vae.pt"), "max_epochs": 2, **settings})


@pytest.fixture
def tiny_critic(tiny: TinyRun) -> TinyCriticRun:
    save_model(vae(), tiny.folder / "vae.pt")
    return TinyCriticRun(tiny.folder, [tiny.config, str(Path(tiny.config).with_name("critic.json"))])


def critic_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.startswith("scorer.critic.")}


@pytest.mark.training
def test_a_run_changes_the_critic_alone_and_calibrates_the_scores(tiny_critic: TinyCriticRun):
    workflow = tiny_critic.workflow()
    started = workflow.parser.get_parsed_content("network_def").state_dict()
    started = {name: value.clone() for name, value in started.items()}
    workflow.run()
    before = torch.load(tiny_critic.folder / "vae.pt", weights_only=True)
    after = final_weights(tiny_critic.folder / "run")
    old, new = (json.loads(state.pop("_extra_state").numpy().tobytes()) for state in (before, after))
    assert new.pop("calibration")["films"] == 10
    assert new == old
    assert_same(before, {name: value for name, value in after.items() if not name.startswith("scorer.")})
    unchanged = [n for n, v in critic_of(after).items() if v.is_floating_point() and torch.equal(v, started[n])]
    assert unchanged == []

    model = load_model(tiny_critic.folder / "run" / "model.pt")
    assert len(model.scorer.quality_calibration) == 10
    told, heat = score(model, torch.rand(2, 1, 16, 16), torch.rand(2, 1, 32, 32))
    assert all(0 < p <= 1 for row in told for p in (row.quality_p, row.anomaly_p))
    assert heat.shape == (2, 1, 16, 16)
    with (tiny_critic.folder / "run" / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, name in itertools.product(rows, ("train/fault", "train/finding", "val/finding_auroc", "val/fault_auroc")):
        assert float(row[name]) >= 0
    assert all(float(row["val/fault_auroc"]) <= 1 for row in rows)


@pytest.mark.training
def test_a_new_critic_is_told_what_films_are_like_and_an_old_one_learns_on(tiny_critic: TinyCriticRun):
    tiny_critic.workflow("first", max_epochs=1).run()
    first = critic_of(final_weights(tiny_critic.folder / "first"))
    data = [{"image": str(path)} for path in sorted((tiny_critic.folder / "train").iterdir())]
    films = detail_films(load_model(tiny_critic.folder / "vae.pt"), data, tiny_critic.folder / "own").images()
    inside = torch.ones_like(films, dtype=torch.bool)
    features = torch.cat([exposure(F.avg_pool2d(films, 2), inside[..., ::2, ::2]), texture(films, inside)], 1)
    whitening = first["scorer.critic.feature_whitening"]
    white = (features - first["scorer.critic.feature_mean"]) @ whitening
    spread = np.cov(white.double().numpy().T)
    np.testing.assert_allclose(spread, np.diag(spread.diagonal()), atol=0.01)
    assert spread.diagonal().max() < 1.02
    assert (spread.diagonal() > 0.98).sum() > 5  # in some directions films as plain as these do not vary

    weights = str(tiny_critic.folder / "first" / "model.pt")
    settings = {"weights": weights, "dataset_dir": str(tiny_critic.folder / "val"), "learning_rate": 1e-12}
    tiny_critic.workflow("second", **settings, max_epochs=1).run()
    second = critic_of(final_weights(tiny_critic.folder / "second"))
    torch.testing.assert_close(second, first, atol=1e-6, rtol=0)


@pytest.mark.training
def test_a_killed_run_resumes_bit_for_bit(tiny_critic: TinyCriticRun):
    tiny_critic.workflow("whole").run()
    run_and_kill(tiny_critic, "killed", 4)  # 3 iterations an epoch
    tiny_critic.workflow("killed", resume=True).run()
    whole, killed = tiny_critic.folder / "whole", tiny_critic.folder / "killed"
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert_same(final_weights(whole), final_weights(killed))
    with pytest.raises(RuntimeError) as error:
        tiny_critic.workflow("killed", resume=True, left_out=["bent"]).run()
    assert str(input_error(error.value)).startswith("cannot resume with another left_out")


@pytest.fixture
def scored(tiny: TinyRun) -> Path:
    """Weights of a small network with statistics, a critic and a calibration."""
    model, data = vae(), [{"image": str(path)} for path in sorted((tiny.folder / "train").iterdir())]
    films = detail_films(model, data, tiny.folder / "cache")
    model.scorer = Scorer(16, 4, critic=True, films=0).eval()
    model.scorer.critic.whiten(torch.randn(20, 15))
    fit_scorer(model, films, films, model.scorer.critic)
    model.sigma.fill_(0.5)
    model.latent_mean.zero_()
    model.latent_covariance.copy_(torch.eye(4))
    model.settings["training"] = {"seed": 99}
    save_model(model, tiny.folder / "scored.pt")
    return tiny.folder / "scored.pt"


OF_THE_WEIGHTS = dict.fromkeys(("image_size", "latent_size", "channels", "width"))


@pytest.mark.training
def test_training_the_network_on_keeps_its_critic(scored: Path, tiny: TinyRun):
    tiny.workflow(weights=str(scored), **OF_THE_WEIGHTS).run()
    before, after = torch.load(scored, weights_only=True), final_weights(tiny.folder / "run")
    assert_same(critic_of(before), critic_of(after))
    assert critic_of(after)
    assert not torch.equal(before["network.linear_encoder.weight"], after["network.linear_encoder.weight"])
    assert len(after["scorer.quality_calibration"]) == 10
    assert float(after["sigma"]) > 0
    assert float(after["sigma"]) != 0.5


@pytest.mark.training
def test_two_processes_train_weights_with_a_critic_on(scored: Path, tiny: TinyRun):
    tiny.two_processes(weights=str(scored), max_epochs=1, **OF_THE_WEIGHTS)
    before, after = torch.load(scored, weights_only=True), final_weights(tiny.folder / "run")
    assert_same(critic_of(before), critic_of(after))
    assert not torch.equal(before["network.linear_encoder.weight"], after["network.linear_encoder.weight"])


@pytest.mark.training
def test_weights_of_an_unfinished_run_have_no_statistics_of_the_old_ones(scored: Path, tiny: TinyRun):
    settings = {"weights": str(scored), **OF_THE_WEIGHTS}
    run_and_kill(tiny, "killed", 8, **settings)
    model = load_model(tiny.folder / "killed" / "model.pt")
    with pytest.raises(InputError, match="not fitted"):
        model.sample(1)
    with pytest.raises(InputError, match="not calibrated"):
        score(model, torch.rand(1, 1, 16, 16), torch.rand(1, 1, 32, 32))
    with pytest.raises(InputError, match="no scores to calibrate"):
        calibrate(model, detail_films(model, [{"image": str(tiny.folder / "val" / "0.png")}], tiny.folder / "cache"))
    assert model.sigma.isnan()
    assert model.settings["training"] == {}
    tiny.workflow("killed", resume=True, **settings).run()
    tiny.workflow("whole", **settings).run()
    assert_same(final_weights(tiny.folder / "whole"), final_weights(tiny.folder / "killed"))


@pytest.mark.training
def test_too_few_films_for_scores_leave_those_of_the_weights(
    scored: Path, tiny: TinyRun, caplog: pytest.LogCaptureFixture
):
    for i in range(5, 20):
        (tiny.folder / "train" / f"{i}.png").unlink()
    with caplog.at_level("INFO", "monai_cxr_vae"):
        tiny.workflow(weights=str(scored), max_epochs=1, **OF_THE_WEIGHTS).run()
    assert (
        "scores stay those of the earlier weights; calibrate them anew: they need 10 training films, not 5"
        in caplog.text
    )
    before, after = (load_model(path) for path in (scored, tiny.folder / "run" / "model.pt"))
    assert is_fitted(after)
    assert after.sigma.isfinite()
    assert after.sigma != before.sigma
    assert_same(before.scorer.state_dict(), after.scorer.state_dict())


def test_a_grid_of_latents_has_no_scores(tmp_path: Path):
    model = RadiographVAE("spatial", image_size=64, latent_size=64, channels=(8, 8))
    save_model(model, tmp_path / "model.pt")
    with pytest.raises(InputError, match="vector of latents"):
        model_with_critic(tmp_path / "model.pt")
