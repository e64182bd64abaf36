"""What augmentation may and may not do to a film."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

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


def test_the_warp_is_the_one_of_pytorchs_own_operators(films: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    """Rotation, size, shift and bend by affine_grid, interpolate and pow from the same draws."""
    drawn: dict[str, list[torch.Tensor]] = {"rand": [], "randn": []}
    for name, values in drawn.items():
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, o=original, v=values, **k: v.append(o(*a, **k)) or v[-1])
    recipe, n = Augmentation(keep=0.0), len(films)
    changed = recipe(films)
    u, *uniform = drawn["rand"]
    strength = torch.where(u < 0.5, 0.4, 1.0)
    ranges = [math.radians(5), 0.08, 0.08, 0.04, 0.04, 0.15, 0.1, 0.05]
    angle, size, aspect, right, down, gamma, gain, level = (
        (2 * value - 1) * limit * strength for value, limit in zip(uniform, ranges, strict=True)
    )
    x, y = torch.exp(-size - aspect), torch.exp(-size + aspect)
    rows = [angle.cos() * x, -angle.sin() * x, 2 * right, angle.sin() * y, angle.cos() * y, 2 * down]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(films.shape), align_corners=False)
    bend = drawn["randn"][0] * (0.015 * strength).view(n, 1, 1, 1)
    bend = F.interpolate(bend, size=(64, 64), mode="bicubic", align_corners=True)
    expected = F.grid_sample(
        films, grid + bend.permute(0, 2, 3, 1), mode="bicubic", padding_mode="border", align_corners=False
    )
    gamma, gain, level = (value.view(n, 1, 1, 1) for value in (gamma, gain, level))
    expected = (expected.clamp(1e-4, 1).pow(gamma.exp()) * (1 + gain) + level).clamp(0, 1)
    torch.testing.assert_close(changed, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_all_or_none_may_be_changed(films: torch.Tensor, keep: float):
    same = (Augmentation(keep=keep)(films) == films).flatten(1).all(1)
    assert same.all() if keep else not same.any()


def test_the_target_is_the_augmented_film(films: torch.Tensor):
    image, target = PrepareBatch(Augmentation(keep=0.0))({"image": films}, torch.device("cpu"))
    assert torch.equal(image, target)
    assert not torch.equal(image, films)
    assert torch.equal(PrepareBatch()({"image": films}, torch.device("cpu"))[0], films)


@pytest.mark.parametrize(("image_size", "rate"), [(32, 0.001), (64, 0.001), (256, 0.00025)])
def test_every_parameter_is_in_one_group_and_linear_maps_move_slowly(image_size: int, rate: float):
    network = torch.nn.ModuleDict({"linear_encoder": torch.nn.Linear(4, 2), "head": torch.nn.Linear(2, 2)})
    network.image_size = image_size
    matrices, vectors, linear = parameter_groups(network, 0.01)
    assert {id(p) for group in (matrices, vectors, linear) for p in group["params"]} == set(
        map(id, network.parameters())
    )
    assert len(linear["params"]) == 2
    assert (linear["lr"], linear["weight_decay"], vectors["weight_decay"]) == (pytest.approx(rate), 0.0, 0.0)
    assert matrices["weight_decay"] > 0
