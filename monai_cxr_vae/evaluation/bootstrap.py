"""Bootstrap intervals of means over films that come some at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Bootstrap:
    """Percentile intervals over resampled films (Efron); all metrics of one evaluation share the same resamples.

    Films are drawn with replacement: how often a resample has the next film is a binomial of the draws that it has left
    and the films that are to come. Of a metric the sum over each resample is kept, so that memory does not grow with
    the number of films.

    Args:
        n: number of films.
        resamples: how many times ``n`` films are drawn with replacement.
        level: share of the resampled means that lie inside the interval.
        seed: the same seed draws the same films.
    """

    def __init__(self, n: int, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> None:
        self.level = level
        self._random = np.random.default_rng(seed)
        self._films, self._draws = n, np.full(resamples, n)
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take metrics of the next films, each ``(m, ...)``; those without a value (NaN) are left out of it."""
        counts = self._counts(len(next(iter(metrics.values()))))
        for name, values in metrics.items():
            rows = values.double().reshape(len(values), -1)
            known = ~rows.isnan().any(1)
            of_films = counts * known
            self._sums[name] = self._sums.get(name, 0) + of_films @ rows.nan_to_num()
            self._weights[name] = self._weights.get(name, 0) + of_films.sum(1, keepdim=True)

    def __contains__(self, name: str) -> bool:
        """Whether any film has a value of this metric."""
        return name in self._weights and bool(self._weights[name][0] > 0)

    def mean(self, name: str) -> Tensor:
        """Mean of a metric over the films, ``(values,)``."""
        return self._means(name)[0]

    def means(self, name: str) -> Tensor:
        """Mean of a metric over the films of each resample, ``(resamples, values)``."""
        return self._means(name)[1:]

    def interval(self, statistics: Tensor) -> Tensor:
        """Bounds ``(2, ...)`` of a statistic of each resample, ``(resamples, ...)``."""
        tail = (1 - self.level) / 2
        bounds = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        return statistics.double().nanquantile(bounds, dim=0)

    def summary(self, name: str) -> dict[str, Any]:
        """``{"mean", "ci95" (named after the level), "n"}`` of one value per film, without those that have none."""
        bounds = self.interval(self.means(name))[:, 0].tolist()
        return {"mean": float(self.mean(name)), f"ci{100 * self.level:g}": bounds, "n": int(self._weights[name][0])}

    def _means(self, name: str) -> Tensor:
        return self._sums[name] / self._weights[name]

    def _counts(self, m: int) -> Tensor:
        """How often all films together, then each resample, have each of the next films, ``(1 + resamples, m)``."""
        counts = np.ones((1 + len(self._draws), m))
        for i in range(m):
            counts[1:, i] = self._random.binomial(self._draws, 1 / self._films)
            self._draws = self._draws - counts[1:, i].astype(int)
            self._films -= 1
        return torch.from_numpy(counts)
