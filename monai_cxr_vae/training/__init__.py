"""The training loop: batches and handlers."""

from __future__ import annotations

from monai_cxr_vae.training import critic, priors, validation
from monai_cxr_vae.training.batches import Augmentation, PrepareBatch
from monai_cxr_vae.training.bundle_update import update_bundle
from monai_cxr_vae.training.critic import (
    CriticInferer,
    CriticLoss,
    SpoilFilms,
    WhitenFeatures,
    model_with_critic,
)
from monai_cxr_vae.training.federated import SharedWeights, shared_weights
from monai_cxr_vae.training.handlers import (
    CollapseNotice,
    EpochSeed,
    GradientGuard,
    LinearStart,
    Posterior,
    UpdateAverage,
)
from monai_cxr_vae.training.inferer import PrecisionInferer
from monai_cxr_vae.training.parameters import parameter_groups
from monai_cxr_vae.training.priors import FlowInferer, FlowLoss, fit_vector_flow, model_with_priors
from monai_cxr_vae.training.run_folder import Checkpoints, RunLog
from monai_cxr_vae.training.statistics import FitScores, FitStatistics, ForgetStatistics, forget_statistics

__all__ = [
    "Augmentation",
    "Checkpoints",
    "CollapseNotice",
    "CriticInferer",
    "CriticLoss",
    "EpochSeed",
    "FitScores",
    "FitStatistics",
    "FlowInferer",
    "FlowLoss",
    "ForgetStatistics",
    "GradientGuard",
    "LinearStart",
    "Posterior",
    "PrecisionInferer",
    "PrepareBatch",
    "RunLog",
    "SharedWeights",
    "SpoilFilms",
    "UpdateAverage",
    "WhitenFeatures",
    "critic",
    "fit_vector_flow",
    "forget_statistics",
    "model_with_critic",
    "model_with_priors",
    "parameter_groups",
    "priors",
    "shared_weights",
    "update_bundle",
    "validation",
]
