"""Principal components against scikit-learn, of films that never lie in memory together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from monai_cxr_vae.networks import components
from monai_cxr_vae.networks.components import Formed, parts, principal_components


class Read:
    """Films that tell how many of them were read at a time."""

    def __init__(self, films: Tensor) -> None:
        self.films, self.most = films, 0

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, chosen: Any) -> Tensor:
        found = self.films[chosen]
        self.most = max(self.most, len(found))
        return found


def films(n: int, side: int = 8) -> Tensor:
    """Films whose pixels hang together."""
    generator = torch.Generator().manual_seed(n)
    mixing = torch.randn(side**2, side**2, generator=generator) / side
    return (0.5 + 0.1 * torch.randn(n, side**2, generator=generator) @ mixing).view(n, 1, side, side)


@pytest.mark.parametrize("n", [40, 100], ids=["fewer films than pixels", "more films than pixels"])
def test_components_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, n: int):
    monkeypatch.setattr(components, "_VALUES", 7 * 64)
    read = Read(films(n))
    found = principal_components(read, 10)
    judge = PCA(10, svd_solver="full").fit(read.films.flatten(1).double().numpy())
    assert read.most == 7
    np.testing.assert_allclose(found.mean, judge.mean_, atol=1e-9)
    np.testing.assert_allclose(found.variance, judge.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(found.total, (judge.explained_variance_ / judge.explained_variance_ratio_)[0], rtol=1e-9)
    np.testing.assert_allclose(np.abs(judge.components_ @ found.directions.numpy()), np.eye(10), atol=1e-7)


def test_many_films_are_chosen_evenly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(components, "MOST_FILMS", 50)
    many = films(99)
    chosen = torch.cat(list(parts(many, 8)))
    assert torch.equal(chosen, many[::2])
    assert principal_components(many, 3).total == pytest.approx(principal_components(chosen, 3).total)


def test_films_are_formed_as_they_are_read():
    read = Read(films(30))
    formed = Formed(read, lambda part: part[..., ::2, ::2])
    assert len(formed) == 30
    assert torch.equal(formed[3:5], read.films[3:5, :, ::2, ::2])
    assert read.most == 2
