"""What is told of a film: p-values, scores, parts and heat maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.scores import ASPECTS, SCORES
from monai_cxr_vae.scoring import Scorer, score
from monai_cxr_vae.scoring.faults import blank, inverted
from monai_cxr_vae.scoring.score import examine, p_value
from monai_cxr_vae.scoring.scorer import TECHNIQUE

# Few different values, so that ties are common.
values = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)
Films = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@given(values, values)
def test_p_values_count_the_calibration_scores_that_are_as_large(scores: list[float], calibration: list[float]):
    found = p_value(torch.tensor(scores), torch.tensor(calibration)).tolist()
    for value, p in zip(scores, found, strict=True):
        counted = (1 + len([other for other in calibration if other >= value])) / (1 + len(calibration))
        assert p == counted if value <= max(calibration) else 0 < p < counted
    ranked = [p for _, p in sorted(zip(scores, found, strict=True))]
    assert ranked == sorted(ranked, reverse=True)


def test_beyond_the_calibration_p_values_keep_the_order_under_a_heavy_tail():
    calibration = torch.from_numpy(np.random.default_rng(0).gumbel(size=250))
    beyond = calibration.max() + torch.tensor([1e-6, 0.5, 1.0, 5.0, 1e6], dtype=torch.float64)
    found = p_value(beyond, calibration).tolist()
    assert found[0] == pytest.approx(1 / 251, rel=1e-5)
    assert found == sorted(set(found), reverse=True)
    assert min(found) > 0
    assert all(p > stats.gumbel_r.sf(value) for value, p in zip(beyond[1:].tolist(), found[1:], strict=True))
    alike = p_value(torch.tensor([1.0, 2.0]), torch.ones(9))
    assert alike.tolist() == [1.0, 0.05]  # nothing to tell an excess by but its own unit


def test_alarms_follow_the_beta_binomial_law():
    """Of m films exchangeable with n of a calibration, BetaBinomial(m, k, n + 1 - k) alarm at level k / (n + 1)."""
    rng, n, m, rounds, k = np.random.default_rng(0), 99, 40, 4000, 5
    scores = torch.from_numpy(rng.standard_normal((rounds, n + m)))
    alarms = [int((p_value(row[n:], row[:n]) <= k / (n + 1)).sum()) for row in scores]
    law = stats.betabinom(m, k, n + 1 - k)
    last = 8  # and more
    observed = np.bincount(np.minimum(alarms, last), minlength=last + 1)
    expected = rounds * np.append(law.pmf(np.arange(last)), law.sf(last - 1))
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_weights_that_are_not_calibrated_say_so():
    model = RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16).eval()
    film = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 32, 32)
    for scorer in (None, Scorer(16, 4, critic=True, films=0).eval()):
        model.scorer = scorer
        with pytest.raises(InputError, match="not calibrated for scores"):
            score(model, *film)


def test_scores_join_the_standardised_aspects(critical: RadiographVAE, new_films: Films):
    with torch.no_grad():
        look = examine(critical, critical.scorer, *new_films)
        standardised = critical.scorer.standardised(look)
    column = dict(zip(critical.scorer.aspects, standardised.double().T.numpy(), strict=True))
    for told, *rows in zip(score(critical, *new_films)[0], *column.values(), strict=True):
        row = dict(zip(column, rows, strict=True))
        for name, each in SCORES.items():
            parts = {n: w * row[n] for n, w in each.weights(critic=True).items()}
            joined = (special.logsumexp if each.soft_maximum else np.mean)(list(parts.values()))
            assert getattr(told, name) == pytest.approx(joined, rel=1e-4, abs=1e-6 if each.soft_maximum else 1e-5)
            assert getattr(told, f"{name}_part") == max(parts, key=parts.get)


@pytest.mark.parametrize("critic", [True, False])
def test_scores_are_those_of_the_formulas_that_are_published(critic: bool):
    """docs/explanation/scores.md; the calibrations in shipped weights hold for these numbers alone."""
    numbers = {name: 0.5 * i - 1 for i, name in enumerate(ASPECTS)}
    quality = [numbers[name] for name in ("residual", "latent", "exposure", "texture")]
    anomaly = [0.1 * numbers["local"], 0.1 * numbers["latent"]]
    if critic:
        quality, anomaly = [numbers["latent"], 1.5 * numbers["fault"]], [numbers["finding"]]
    scorer = Scorer(16, 4, critic=critic, films=0)
    row = torch.tensor([[numbers[name] for name in scorer.aspects]], dtype=torch.float64)
    found = [values.item() for values in scorer.scores(row).values()]
    assert found == pytest.approx([special.logsumexp(quality), np.mean(anomaly)])


def test_without_a_critic_no_part_needs_one(plain: RadiographVAE, new_films: Films):
    told, _ = score(plain, *new_films)
    assert {row.quality_part for row in told} <= {"residual", "latent", "exposure", "texture"}
    assert {row.anomaly_part for row in told} <= {"local", "latent"}


@pytest.mark.parametrize("kind", ["plain", "critical"])
def test_p_values_lie_in_range_and_fall_with_the_score(kind: str, new_films: Films, request: pytest.FixtureRequest):
    model = request.getfixturevalue(kind)
    told, _ = score(model, *new_films)
    for name in SCORES:
        calibration = getattr(model.scorer, f"{name}_calibration").tolist()
        rows = sorted((getattr(row, name), getattr(row, f"{name}_p")) for row in told)
        for value, p in rows:
            counted = (1 + sum(other >= value for other in calibration)) / (1 + len(calibration))
            assert p == counted if value <= max(calibration) else p < counted
        assert [p for _, p in rows] == sorted((p for _, p in rows), reverse=True)
        assert 0 < rows[-1][1] <= rows[0][1] <= 1


@pytest.mark.parametrize("kind", ["plain", "critical"])
def test_a_film_in_a_batch_has_the_scores_of_the_film_alone(
    kind: str, new_films: Films, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    together, heat = score(model, *new_films)
    for i in range(0, len(together), 7):
        [alone], own = score(model, *(part[i : i + 1] for part in new_films))
        assert (alone.quality_part, alone.anomaly_part) == (together[i].quality_part, together[i].anomaly_part)
        assert alone.quality == pytest.approx(together[i].quality, abs=1e-4)
        assert alone.anomaly == pytest.approx(together[i].anomaly, abs=1e-4)
        torch.testing.assert_close(own[0], heat[i], atol=1e-4, rtol=0)


def test_films_without_padding_need_no_mask(plain: RadiographVAE, new_films: Films):
    image, detail, _ = new_films
    told, heat = score(plain, image, detail)
    again, same = score(plain, image, detail, torch.ones_like(image, dtype=torch.bool))
    assert told == again
    assert torch.equal(heat, same)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_padding_does_not_count(plain: RadiographVAE, new_films: Films, seed: int):
    """Whatever stands outside of the film, in it or in its reconstruction, changes neither a score nor the map."""
    image, detail, mask = new_films
    scorer = plain.scorer
    with torch.no_grad():
        latent, _ = plain.encode(image)
        reconstruction = plain.decode(latent)
        before = scorer.measurements(image, detail, mask, latent, reconstruction)
        generator = torch.Generator().manual_seed(seed)
        wide = mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert not mask.all()
        image, detail, reconstruction = (
            torch.where(inside, part, torch.rand(part.shape, generator=generator))
            for part, inside in ((image, mask), (detail, wide), (reconstruction, mask))
        )
        after = scorer.measurements(image, detail, mask, latent, reconstruction)
    assert torch.equal(scorer.standardised(before), scorer.standardised(after))
    heat = scorer.heat(after)
    assert torch.equal(scorer.heat(before), heat)
    assert not heat[~mask].any()


def test_heat_is_half_at_the_limit_of_the_calibration(plain: RadiographVAE, critical: RadiographVAE, new_films: Films):
    """Of the local deviation without a critic, of what the critic says of a place with one, and of nothing else."""
    scorer = plain.scorer
    look = examine(plain, scorer, *new_films)
    assert not scorer.heat(look._replace(squares=torch.zeros_like(look.squares))).any()
    highest = scorer.raw_heat(look).amax((1, 2, 3))
    for share in (0.5, 1.0, 1.5, 10.0):
        squares = look.squares * (share * scorer.heat_limit / highest).view(-1, 1, 1, 1)
        found = scorer.heat(look._replace(squares=squares)).amax((1, 2, 3))
        torch.testing.assert_close(found, torch.full_like(found, min(1.0, share / 2)), rtol=1e-4, atol=0)
    scorer = critical.scorer
    look = examine(critical, scorer, *new_films)
    assert not scorer.heat(look._replace(places=torch.full_like(look.places, -1e3))).any()
    places = torch.logit(scorer.heat_limit).expand(look.places.shape)
    heat = scorer.heat(look._replace(places=places, squares=10 * look.squares))
    torch.testing.assert_close(heat[look.mask], torch.full_like(heat[look.mask], 0.5), rtol=1e-4, atol=0)
    assert not heat[~look.mask].any()


def test_technique_is_exposure_texture_and_the_latents_distance(critical: RadiographVAE, new_films: Films):
    scorer = critical.scorer
    with torch.no_grad():
        look = examine(critical, scorer, *new_films)
        distance = scorer.standardised(look)[:, scorer.aspects.index("latent"), None]
    told = torch.tensor([row.technique for row in score(critical, *new_films)[0]])
    assert told.shape == (len(new_films[0]), len(TECHNIQUE))
    torch.testing.assert_close(told, torch.cat([distance, look.exposure, look.texture], 1), atol=1e-4, rtol=1e-4)


def test_heat_maps_are_on_one_scale_within_range(plain: RadiographVAE, new_films: Films):
    image, detail, mask = new_films
    spoilt = image.clone()
    spoilt[:, :, 10:14, 18:22] = 1 - spoilt[:, :, 10:14, 18:22]
    detail = torch.where(
        (spoilt != image).repeat_interleave(2, 2).repeat_interleave(2, 3),
        spoilt.repeat_interleave(2, 2).repeat_interleave(2, 3),
        detail,
    )
    _, normal = score(plain, image, new_films[1], mask)
    _, heat = score(plain, spoilt, detail, mask)
    for maps in (normal, heat):
        assert maps.shape == image.shape
        assert maps.dtype == torch.float32
        assert maps.min() >= 0
        assert maps.max() <= 1
    peak = heat.flatten(1).argmax(1)
    assert ((peak // 32 - 12).abs() <= 4).float().mean() > 0.8
    assert ((peak % 32 - 20).abs() <= 4).float().mean() > 0.8
    assert heat[:, :, 10:14, 18:22].mean() > 2 * normal[:, :, 10:14, 18:22].mean()


GROSS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "blank": blank,
    "noise": lambda film, rng: rng.random(film.shape, dtype=np.float32),
    "inverted": inverted,
    "turned": lambda film, rng: np.rot90(film, rng.integers(1, 4)),
    "dark": lambda film, rng: 0.3 * film,
}


@pytest.mark.parametrize("fault", GROSS)
def test_gross_faults_are_told_from_normal_films(fault: str, stretched: RadiographVAE, datasets: Callable):
    detail = datasets(stretched)[2].images()
    rng = np.random.default_rng(0)
    faulty = np.stack([GROSS[fault](film, rng) for film in detail[:, 0].numpy()])
    faulty = torch.from_numpy(faulty.clip(0, 1).astype(np.float32))[:, None]
    films = torch.cat([detail, faulty])
    told, _ = score(stretched, torch.nn.functional.avg_pool2d(films, 2), films)
    truth = np.repeat([0, 1], len(detail))
    assert roc_auc_score(truth, [row.quality for row in told]) > 0.99
    assert np.mean([row.quality_p < 0.05 for row in told[len(detail) :]]) > 0.9


@pytest.mark.parametrize("kind", ["plain", "critical"])
def test_new_normal_films_raise_alarms_as_often_as_promised(
    kind: str, new_films: Films, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(kind)
    told, _ = score(model, *new_films)
    n = len(model.scorer.quality_calibration)
    k = (n + 1) // 5
    low, high = stats.betabinom.ppf((0.005, 0.995), len(told), k, n + 1 - k)
    for name in SCORES:
        assert low <= sum(getattr(row, f"{name}_p") <= k / (n + 1) for row in told) <= high
