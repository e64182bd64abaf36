"""The training loop: batches and handlers."""

from __future__ import annotations

from . import validation
from .batches import Augmentation, PrepareBatch
from .handlers import CollapseNotice, EpochSeed, FitStatistics, GradientGuard, LinearStart, Posterior, UpdateAverage
from .run_folder import Checkpoints, RunLog

__all__ = [
    "Augmentation",
    "Checkpoints",
    "CollapseNotice",
    "EpochSeed",
    "FitStatistics",
    "GradientGuard",
    "LinearStart",
    "Posterior",
    "PrepareBatch",
    "RunLog",
    "UpdateAverage",
    "validation",
]
