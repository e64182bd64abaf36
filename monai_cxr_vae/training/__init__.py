"""The training loop: batches and handlers."""

from __future__ import annotations

from . import validation
from .batches import Augmentation, PrepareBatch
from .handlers import CollapseNotice, EpochSeed, FitStatistics, GradientGuard, LinearStart, Posterior, UpdateAverage
from .parameters import parameter_groups
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
    "parameter_groups",
    "validation",
]
