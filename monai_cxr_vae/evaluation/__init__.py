"""Evaluation: metrics, baselines, sample quality, figures, drift."""

from monai_cxr_vae.evaluation.drift import drift as drift
from monai_cxr_vae.evaluation.evaluate import evaluate as evaluate
from monai_cxr_vae.evaluation.samples import evaluate_samples as evaluate_samples
from monai_cxr_vae.evaluation.samples import sample_quality as sample_quality

__all__ = ["drift", "evaluate", "evaluate_samples", "sample_quality"]
