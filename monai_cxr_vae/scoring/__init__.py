"""Scores of a film: residual, Mahalanobis distance, calibration."""
