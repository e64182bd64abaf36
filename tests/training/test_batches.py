"""What augmentation may and may not do to a film."""

from __future__ import annotations

import pytest
import torch

from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.training import Augmentation, PrepareBatch, parameter_groups


@pytest.fixture(scope="module")
def films() -> torch.Tensor:
    return torch.stack([torch.from_numpy(render(seed, (64, 64)).image)[None] for seed in range(4)]).repeat(16, 1, 1, 1)


def test_a_share_of_the_films_stays_and_the_rest_stays_a_film(films: torch.Tensor):
    torch.manual_seed(0)
    changed = Augmentation()(films)
    same = (changed == films).flatten(1).all(1)
    assert 0.1 < same.float().mean() < 0.45
    assert changed.min() >= 0
    assert changed.max() <= 1
    # still the same chest: nearer to its own film than to any other or to its mirror image
    distance = lambda other: (changed - other).square().flatten(1).mean(1)  # noqa: E731
    assert (distance(films) < distance(films.flip(3))).float().mean() > 0.9


def test_draws_repeat_with_the_seed_and_films_differ_from_each_other(films: torch.Tensor):
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(Augmentation(keep=0.0)(films[:1].repeat(4, 1, 1, 1)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0][0], runs[0][1])


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_all_or_none_may_be_changed(films: torch.Tensor, keep: float):
    same = (Augmentation(keep=keep)(films) == films).flatten(1).all(1)
    assert same.all() if keep else not same.any()


def test_the_target_is_the_augmented_film(films: torch.Tensor):
    image, target = PrepareBatch(Augmentation(keep=0.0))({"image": films}, torch.device("cpu"))
    assert torch.equal(image, target)
    assert not torch.equal(image, films)
    assert torch.equal(PrepareBatch()({"image": films}, torch.device("cpu"))[0], films)


def test_every_parameter_is_in_one_group_and_linear_maps_move_slowly():
    network = torch.nn.ModuleDict({"linear_encoder": torch.nn.Linear(4, 2), "head": torch.nn.Linear(2, 2)})
    matrices, vectors, linear = parameter_groups(network, 0.01)
    assert {id(p) for group in (matrices, vectors, linear) for p in group["params"]} == set(
        map(id, network.parameters())
    )
    assert len(linear["params"]) == 2
    assert (linear["lr"], linear["weight_decay"], vectors["weight_decay"]) == (0.001, 0.0, 0.0)
    assert matrices["weight_decay"] > 0
