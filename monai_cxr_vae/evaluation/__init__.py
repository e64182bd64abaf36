"""Evaluation: metrics, baselines, figures."""
