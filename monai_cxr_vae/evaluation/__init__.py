"""Evaluation: metrics, baselines, sample quality, figures."""

from .evaluate import evaluate as evaluate
from .samples import sample_quality as sample_quality

__all__ = ["evaluate", "sample_quality"]
