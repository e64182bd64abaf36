"""Scores of films by a model whose scorer is fitted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.scoring.scorer import Aspects, Scorer


class ScoredModel(Protocol):
    """What scores ask of a model; :class:`monai_cxr_vae.model.RadiographVAE` has it."""

    image_size: int
    latent_size: int
    fit: str
    settings: dict[str, Any]
    scorer: Scorer | None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


class Scores(SimpleNamespace):
    """What is told of one film, in attributes; scores have no unit, larger is less usual.

    There are three of each score in :data:`monai_cxr_vae.scores.SCORES`; named here are those of the first.

    Attributes:
        quality: how unlike a proper frontal chest film it is.
        quality_p: conformal p-value: of films like those of the calibration, this share has a score as large
            (:func:`p_value`).
        quality_part: the aspect that contributed most.
        technique: 16 numbers of how the film was made, in the order of :data:`monai_cxr_vae.scoring.scorer.TECHNIQUE`.
    """

    def as_row(self) -> dict[str, Any]:
        """The columns of a manifest."""
        return dict(vars(self))


@torch.no_grad()
def score(model: ScoredModel, image: Tensor, detail: Tensor, mask: Tensor | None = None) -> tuple[list[Scores], Tensor]:
    """Score films.

    Args:
        model: in evaluation mode, with a fitted scorer.
        image: ``(N, 1, S, S)`` in [0, 1] as :meth:`monai_cxr_vae.model.RadiographVAE.preprocess` makes it.
        detail: the same films with twice the pixels along a side, ``(N, 1, 2 S, 2 S)``.
        mask: ``(N, 1, S, S)`` bool, false on padding; None where there is none.

    Returns:
        One :class:`Scores` per film, and heat maps ``(N, 1, S, S)`` in [0, 1], on one scale for all films: 0.5 is the
        largest value of one normal film in ten.

    Raises:
        InputError: the weights are not calibrated.
    """
    scorer = fitted(model)
    measurements = examine(model, scorer, image, detail, mask)
    standardised = scorer.standardised(measurements)
    columns: dict[str, list[Any]] = {}
    for name, values in scorer.scores(standardised).items():
        columns[name] = values.tolist()
        columns[f"{name}_p"] = p_value(values, scorer.calibration(name)).tolist()
        columns[f"{name}_part"] = _largest(scorer, standardised, name)
    # More digits would only fill manifests.
    columns["technique"] = scorer.technique(measurements).double().numpy(force=True).round(4).tolist()
    scores = [Scores(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    return scores, scorer.heat(measurements)


def fitted(model: ScoredModel) -> Scorer:
    """The model's scorer.

    Raises:
        InputError: there is none, or it has nothing to tell p-values against.
    """
    if not is_fitted(model):
        raise InputError("these weights are not calibrated for scores; a finished training run or `calibrate` does it")
    return cast(Scorer, model.scorer)


def is_fitted(model: ScoredModel) -> bool:
    """Whether the model can score films: an unfinished run leaves at most a critic.

    Args:
        model: any.

    Returns:
        Whether it has a scorer with films to tell p-values against.
    """
    return model.scorer is not None and model.scorer.films > 0


def examine(model: ScoredModel, scorer: Scorer, image: Tensor, detail: Tensor, mask: Tensor | None = None) -> Aspects:
    """What the scorer measures of films; arguments as for :func:`score`."""
    latent, _ = model.encode(image)
    mask = torch.ones_like(image, dtype=torch.bool) if mask is None else mask
    return scorer.measurements(image, detail, mask, latent, model.decode(latent))


def p_value(scores: Tensor, calibration: Tensor) -> Tensor:
    """Conformal p-values ``(N,)``: (1 + number of calibration scores that are as large) / (1 + their number).

    Vovk, Gammerman and Shafer 2005; exact on average over calibrations if both kinds of films are exchangeable.

    Scores beyond all n of the calibration would share 1 / (n + 1). So that they keep their order, p goes on falling as
    a Pareto tail of index 1 does, a tail without a mean: 1 / (n + 1) / (1 + excess), the excess in standard deviations
    of the calibration. Every p of at least 1 / (n + 1) is a rate; a smaller one is an order.

    Args:
        scores: ``(N,)``, larger is less usual.
        calibration: ``(n,)``, scores of normal films.

    Returns:
        ``(N,)`` float64 in (0, 1].
    """
    larger = (calibration[None] >= scores[:, None]).sum(1)
    excess = (scores - calibration.max()).clamp(min=0).double()
    spread = calibration.double().std(correction=0)
    if spread > 0:
        excess /= spread
    return (1 + larger).double() / (1 + len(calibration)) / (1 + excess)


def _largest(scorer: Scorer, standardised: Tensor, name: str) -> list[str]:
    names = list(scorer.joined[name])
    return [names[i] for i in scorer.contributions(standardised, name).argmax(1).tolist()]
