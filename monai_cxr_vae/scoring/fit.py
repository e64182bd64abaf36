"""Fitting a scorer to normal films, and telling its p-values against others."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.covariance import LedoitWolf
from torch import Tensor

from monai_cxr_vae.data.cache import FilmDataset
from monai_cxr_vae.data.readers import film_transforms
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.progress import progress
from monai_cxr_vae.scoring.critic import Critic
from monai_cxr_vae.scoring.score import ScoredModel, examine
from monai_cxr_vae.scoring.scorer import DETAIL, Aspects, Scorer, distance

FOLDS = 5
FEWEST_FILMS = 2 * FOLDS
# Scores need no more films than this to be standardised, and every film must be read at twice the network's size.
MOST_FILMS = 3000
# With fewer films in a calibration, the rate of alarms is hardly known.
FEW_FILMS = 50
# One normal film in ten has a place hotter than the middle of the scale.
_HEAT_QUANTILE = 0.9


def detail_films(
    model: ScoredModel,
    data: Sequence[dict[str, str]],
    cache_dir: str | os.PathLike | None = None,
    unreadable: str | os.PathLike | None = None,
    skip_unreadable: bool = False,
    bits: int | None = None,
) -> FilmDataset:
    """Films at the size that scores need.

    Args:
        model: tells the size and how a film becomes square.
        data: ``[{"image": path}, ...]``; at most 3,000 of them are taken, evenly chosen.
        cache_dir, unreadable, skip_unreadable: see :class:`monai_cxr_vae.data.FilmDataset`.
        bits: depth of 16-bit PNG, see :func:`monai_cxr_vae.radiograph.read_radiograph`.

    Returns:
        The films, ``(1, 2 S, 2 S)`` each.

    Raises:
        InputError, OutputError: as of the data set.
    """
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), MOST_FILMS)).round().astype(int))
    transform = film_transforms(DETAIL * model.image_size, model.fit, bits)
    return FilmDataset([data[i] for i in chosen], transform, cache_dir, unreadable, skip_unreadable)


@torch.no_grad()
def fit_scorer(
    model: ScoredModel, films: FilmDataset, calibration_films: FilmDataset, critic: Critic | None = None
) -> None:
    """Give a model a scorer that knows what normal films are like.

    Means and covariances (shrunk after Ledoit and Wolf 2004) are those of ``films``; what they say of a film of their
    own is told by statistics of the other folds, so that standard deviations mean the same for new films. The network
    itself has seen the films that it was trained on, which the p-values, told against others, allow for.

    Args:
        model: in evaluation mode; its ``scorer`` is replaced.
        films: normal films, see :func:`detail_films`; those of the training will do.
        calibration_films: other normal films, for the p-values.
        critic: a trained critic; None for scores without one.

    Raises:
        InputError: fewer than ten films.
    """
    check_films(films, calibration_films)
    scorer = Scorer(model.image_size, model.latent_size, critic is not None, len(calibration_films)).eval()
    if critic is not None and scorer.critic is not None:
        scorer.critic.load_state_dict(critic.state_dict())
    measurements = _examine_all(model, scorer, films)
    if critic is None:
        scorer.variance.copy_(_place_variance(measurements))
    for name in scorer.distances:
        mean, precision = _normal_distribution(getattr(measurements, name))
        getattr(scorer, f"{name}_mean").copy_(mean)
        getattr(scorer, f"{name}_precision").copy_(precision)
    measures = scorer.measure(measurements)
    for name in scorer.distances:
        measures[:, scorer.aspects.index(name)] = _cross_fitted(getattr(measurements, name))
    scorer.centre.copy_(measures.mean(0))
    scorer.spread.copy_(measures.std(0).clamp(min=1e-6))
    model.scorer = scorer
    calibrate(model, calibration_films)


def check_films(films: FilmDataset, calibration_films: FilmDataset) -> None:
    """Refuse films that :func:`fit_scorer` could not use.

    Args:
        films: those that scores are standardised with.
        calibration_films: those that p-values are told against.

    Raises:
        InputError: fewer than ten films, or none to tell p-values against.
    """
    if len(films) < FEWEST_FILMS:
        raise InputError(f"scores need at least {FEWEST_FILMS} normal films to be standardised, not {len(films)}")
    if not len(calibration_films):
        raise InputError("a calibration needs films")


@torch.no_grad()
def calibrate(model: ScoredModel, films: FilmDataset) -> None:
    """Tell a fitted model's p-values and heat maps against these normal films from now on.

    Args:
        model: changed in place.
        films: normal films at the size of details, see :func:`detail_films`.

    Raises:
        InputError: the model has no fitted scorer, or there are no films.
    """
    scorer = model.scorer
    if scorer is None or not scorer.knows_normal_films:
        raise InputError("these weights have no scores to calibrate; a finished training run fits them")
    if not len(films):
        raise InputError("a calibration needs films")
    measurements = _examine_all(model, scorer, films)
    for name, values in scorer.scores(scorer.standardised(measurements)).items():
        setattr(scorer, f"{name}_calibration", values.sort().values)
    scorer.technique_calibration = scorer.technique(measurements)
    highest = scorer.raw_heat(measurements).amax((1, 2, 3))
    scorer.heat_limit.copy_(torch.quantile(highest, _HEAT_QUANTILE).clamp(min=1e-6))
    model.settings["calibration"] = {"films": len(films), "date": datetime.date.today().isoformat()}


def expected_alarms(films: int, of: int = 100, level: float = 0.05) -> tuple[int, int]:
    """How many of so many new normal films will have a p-value below ``level``: the range that holds in 19 of 20 cases.

    With n calibration films, of which k may be exceeded for such a p-value, the number has the law BetaBinomial(of, k,
    n + 1 - k): which rate a site gets depends on the films that it happened to calibrate with.

    Args:
        films: n, at least 1.
        of: number of new films, exchangeable with those of the calibration.
        level: of the p-value, in (0, 1).

    Returns:
        The lowest and the highest number of alarms among ``of`` films.
    """
    # Of very few films none but those beyond the whole calibration have such a p-value, and not all of those.
    k = max(1, math.ceil(level * (films + 1)) - 1)
    low, high = stats.betabinom.ppf((0.025, 0.975), of, k, films + 1 - k)
    return int(low), int(high)


def _examine_all(model: ScoredModel, scorer: Scorer, films: FilmDataset) -> Aspects:
    looks = []
    for start in progress(range(0, len(films), 64), "parts of 64 films", -(-len(films) // 64)):
        batch = films.__getitems__(range(start, min(start + 64, len(films))))
        detail, mask = batch["image"], F.avg_pool2d(batch["mask"].float(), DETAIL) > 0.5
        looks.append(examine(model, scorer, F.avg_pool2d(detail, DETAIL), detail, mask))
    return Aspects(*(torch.cat(values) for values in zip(*looks, strict=True)))


def _place_variance(measurements: Aspects) -> Tensor:
    """Mean squared difference at each place ``(S, S)``, of the films that have the place; of all places elsewhere."""
    count = measurements.mask.sum((0, 1))
    return torch.where(
        count > 0,
        measurements.squares.sum((0, 1)) / count.clamp(min=1),
        measurements.squares.sum() / measurements.mask.sum().clamp(min=1),
    )


def _normal_distribution(features: Tensor) -> tuple[Tensor, Tensor]:
    fit = LedoitWolf().fit(features.double().numpy())
    return torch.from_numpy(fit.location_).float(), torch.from_numpy(fit.precision_).float()


def _cross_fitted(features: Tensor) -> Tensor:
    """Distances of each film to the distribution of the films of the other folds, ``(N,)``."""
    fold = torch.arange(len(features)) % FOLDS
    result = torch.empty(len(features))
    for i in range(FOLDS):
        result[fold == i] = distance(features[fold == i], *_normal_distribution(features[fold != i]))
    return result
