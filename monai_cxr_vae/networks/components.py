"""Principal components of films that are read in parts: what is in memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from monai_cxr_vae.progress import Progress

MOST_FILMS = 5000  # more of them hardly change a component, and a matrix of all their products would not be small
_VALUES = 2**24  # of a part: 128 MiB in double precision


class Films(Protocol):
    """Films that are read when they are asked for; a tensor ``(N, 1, S, S)`` is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Any, /) -> Tensor:
        """``(n, 1, S, S)`` of a slice or of indices."""


class Formed:
    """What a function makes of films, when they are read.

    Args:
        films: ``(N, 1, S, S)``.
        form: from ``(n, 1, S, S)`` to ``(n, ...)``.
    """

    def __init__(self, films: Films, form: Callable[[Tensor], Tensor]) -> None:
        self.films, self.form = films, form

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, chosen: Any, /) -> Tensor:
        return self.form(self.films[chosen])


class Components(NamedTuple):
    """The leading principal components of N rows of D values, in double precision."""

    mean: Tensor  # (D,)
    variance: Tensor  # (k,), largest first
    directions: Tensor  # (D, k), unit columns
    total: float  # variance of all D values together


def parts(films: Films, size: int, what: str | None = None) -> Iterator[Tensor]:
    """At most 5,000 of the films, evenly chosen and in order, ``size`` at a time.

    Args:
        films: ``(N, 1, S, S)``.
        size: films at a time.
        what: what is done, to be shown with how far it has come; None shows nothing.
    """
    chosen = np.linspace(0, len(films) - 1, min(len(films), MOST_FILMS)).round().astype(int)
    with Progress(what or "", len(chosen), shown=what is not None) as bar:
        for start in range(0, len(chosen), size):
            part = films[chosen[start : start + size]]
            yield part
            bar.update(len(part))


def principal_components(films: Films, k: int) -> Components:
    """Leading principal components of at most 5,000 of the films, evenly chosen.

    Args:
        films: ``(N, 1, S, S)``, at least two of them.
        k: number of components; fewer when the films have no more.
    """
    n, size = min(len(films), MOST_FILMS), max(1, _VALUES // films[:1].numel())

    def rows(shown: bool = False) -> Iterator[Tensor]:
        return (part.flatten(1).double() for part in parts(films, size, "principal components" if shown else None))

    mean = _sum(part.sum(0) for part in rows()) / n
    d = len(mean)
    # The smaller of covariance and Gram matrix has the same leading eigenvalues.
    if n > d:
        matrix = _sum((part - mean).T @ (part - mean) for part in rows(shown=True))
    else:
        blocks: list[list[Tensor]] = []
        for i, part in enumerate(rows(shown=True)):
            blocks.append([(part - mean) @ (other - mean).T for other in islice(rows(), i + 1)])
        matrix = torch.zeros(n, n, dtype=torch.float64)
        for i, row in enumerate(blocks):
            for j, block in enumerate(row):
                matrix[i * size : (i + 1) * size, j * size : (j + 1) * size] = block  # eigh reads the lower half
    total = float(matrix.trace()) / (n - 1)
    values, vectors = torch.linalg.eigh(matrix)
    k = min(k, n - 1, d)
    values, vectors = values.flip(0)[:k].clamp(min=1e-12), vectors.flip(1)[:, :k]
    if n <= d:
        products = ((part - mean).T @ own for part, own in zip(rows(), vectors.split(size), strict=True))
        vectors = _sum(products) / values.sqrt()
    return Components(mean, values / (n - 1), vectors, total)


def _sum(values: Iterator[Tensor]) -> Tensor:
    total = next(values).clone()
    for value in values:
        total += value
    return total
