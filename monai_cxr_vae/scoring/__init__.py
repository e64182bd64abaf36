"""Scores: how fit for use and how unusual a film is, against normal films, with calibrated p-values."""

from __future__ import annotations

from monai_cxr_vae.data.regions import Region, regions
from monai_cxr_vae.scoring.critic import Critic
from monai_cxr_vae.scoring.fit import (
    FEW_FILMS,
    FEWEST_FILMS,
    calibrate,
    check_films,
    detail_films,
    expected_alarms,
    fit_scorer,
)
from monai_cxr_vae.scoring.score import ScoredModel, Scores, is_fitted, score
from monai_cxr_vae.scoring.scorer import Scorer
from monai_cxr_vae.scoring.transforms import AddDetaild, ScoreRadiographd

__all__ = [
    "FEWEST_FILMS",
    "FEW_FILMS",
    "AddDetaild",
    "Critic",
    "Region",
    "ScoreRadiographd",
    "ScoredModel",
    "Scorer",
    "Scores",
    "calibrate",
    "check_films",
    "detail_films",
    "expected_alarms",
    "fit_scorer",
    "is_fitted",
    "regions",
    "score",
]
