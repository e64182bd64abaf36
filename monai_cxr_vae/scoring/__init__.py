"""Scores: how fit for use and how unusual a film is, against normal films, with calibrated p-values."""

from __future__ import annotations

from monai_cxr_vae.scoring.fit import FEWEST_FILMS, calibrate, check_films, detail_films, fit_scorer
from monai_cxr_vae.scoring.regions import Region, regions
from monai_cxr_vae.scoring.score import Scores, is_fitted, score
from monai_cxr_vae.scoring.transforms import AddDetaild, ScoreRadiographd

__all__ = [
    "FEWEST_FILMS",
    "AddDetaild",
    "Region",
    "ScoreRadiographd",
    "Scores",
    "calibrate",
    "check_films",
    "detail_films",
    "fit_scorer",
    "is_fitted",
    "regions",
    "score",
]
