"""Bootstrap intervals against what they promise and against another implementation."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from monai_cxr_vae.evaluation.bootstrap import Bootstrap


def taken(values: torch.Tensor, parts: int = 1, **settings: int) -> Bootstrap:
    """All films' values, taken in parts."""
    bootstrap = Bootstrap(len(values), **settings)
    for part in values.tensor_split(parts):
        bootstrap.add({"metric": part})
    return bootstrap


def test_interval_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(300):
        summary = taken(torch.randn(60, generator=generator) + 3, resamples=500).summary("metric")
        covered += summary["ci95"][0] <= 3 <= summary["ci95"][1]
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_is_that_of_scipy():
    values = torch.randn(80, generator=torch.Generator().manual_seed(2)).exp()
    judge = stats.bootstrap((values.numpy(),), np.mean, n_resamples=20000, method="percentile", random_state=0)
    low, high = taken(values, resamples=20000).summary("metric")["ci95"]
    width = judge.confidence_interval.high - judge.confidence_interval.low
    assert abs(low - judge.confidence_interval.low) < 0.03 * width
    assert abs(high - judge.confidence_interval.high) < 0.03 * width


def test_every_resample_has_as_many_films():
    bootstrap = taken(torch.ones(7, dtype=torch.float64), parts=3, resamples=40)
    assert torch.equal(bootstrap._weights["metric"], torch.full((41, 1), 7.0, dtype=torch.float64))


def test_parts_change_nothing():
    values = torch.randn(23, 4, generator=torch.Generator().manual_seed(3))
    whole, parts = (taken(values, n, resamples=50) for n in (1, 5))
    torch.testing.assert_close(whole.means("metric"), parts.means("metric"))


def test_it_is_seeded_and_leaves_nan_out():
    values = torch.tensor([1.0, 2.0, math.nan, 4.0, 6.0])
    summary = taken(values).summary("metric")
    assert summary == taken(values).summary("metric")
    assert summary["ci95"] != taken(values, seed=1, resamples=50).summary("metric")["ci95"]
    assert (summary["mean"], summary["n"]) == (13 / 4, 4)
    assert 1 <= summary["ci95"][0] < 13 / 4 < summary["ci95"][1] <= 6
    assert "metric" not in taken(torch.full((3,), math.nan))


def test_metrics_share_the_resamples():
    values = torch.randn(20, 3)
    together, apart = Bootstrap(20, resamples=50), Bootstrap(20, resamples=50)
    together.add({"all": values})
    apart.add({str(i): column for i, column in enumerate(values.T)})
    columns = torch.cat([apart.means(str(i)) for i in range(3)], 1)
    torch.testing.assert_close(together.means("all"), columns)
