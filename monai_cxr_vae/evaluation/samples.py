"""How good a model's samples are: distance in distribution, diversity, memorisation, each beside real films."""

from __future__ import annotations

import torch
from sklearn.decomposition import PCA
from torch import Tensor


def sample_quality(
    samples: Tensor, films: Tensor, train_films: Tensor, components: int = 100, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Compare samples with held-out films, in the space of the training films' principal components.

    Args:
        samples: films drawn from a model, ``(K, 1, S, S)`` in [0, 1].
        films: held-out films ``(N, 1, S, S)`` in [0, 1].
        train_films: films that the model was trained on, ``(M, 1, S, S)`` in [0, 1].
        components: dimensions of the space, at most ``M - 1``.
        seed: of the randomised solver and of the choice of real films that stand in for samples.

    Returns:
        Three measures, each ``{"samples", "real"}``, where ``real`` is the same measure of real films in place of the
        samples, its floor. ``mmd``: squared maximum mean discrepancy to the held-out films (see
        :func:`maximum_mean_discrepancy`), for training films in place of the samples. ``diversity``: mean root mean
        square difference of two samples, for held-out films. ``nearest_training_film``: mean root mean square
        difference to the closest training film, for held-out films; samples much closer than those are copies.
    """
    count = min(len(samples), len(train_films))
    chosen = torch.randperm(len(train_films), generator=torch.Generator().manual_seed(seed))[:count]
    space = PCA(min(components, len(train_films) - 1, train_films[0].numel()), random_state=seed)
    space.fit(train_films.flatten(1).numpy())
    drawn, held_out, trained = (
        torch.from_numpy(space.transform(x.flatten(1).numpy())) for x in (samples, films, train_films[chosen])
    )
    return {
        "mmd": {
            "samples": maximum_mean_discrepancy(drawn, held_out),
            "real": maximum_mean_discrepancy(trained, held_out),
        },
        "diversity": {"samples": diversity(samples), "real": diversity(films)},
        "nearest_training_film": {
            "samples": float(nearest_distance(samples, train_films).mean()),
            "real": float(nearest_distance(films, train_films).mean()),
        },
    }


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two sets of vectors (Gretton et al. 2012, lemma 6), about 0 for the same distribution.

    The kernel is a Gaussian whose width is the median distance within ``y``, the reference.

    Args:
        x, y: ``(K, D)`` and ``(N, D)``, at least two rows each.
    """
    x, y = x.double(), y.double()
    within = torch.pdist(y)
    width = within.median()
    kernel_x, kernel_y, across = (
        torch.exp(-0.5 * (d / width) ** 2) for d in (torch.pdist(x), within, torch.cdist(x, y))
    )
    return float(kernel_x.mean() + kernel_y.mean() - 2 * across.mean())


def diversity(films: Tensor) -> float:
    """Mean root mean square difference of two of the films ``(N, 1, S, S)``."""
    return float(torch.pdist(films.flatten(1)).mean()) / films[0].numel() ** 0.5


def nearest_distance(films: Tensor, train_films: Tensor) -> Tensor:
    """Root mean square difference of each film ``(N, 1, S, S)`` to the closest training film, ``(N,)``."""
    return torch.cdist(films.flatten(1), train_films.flatten(1)).min(1).values / films[0].numel() ** 0.5
