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


def test_settings_of_technique_that_are_off_draw_nothing(films: torch.Tensor):
    """What a seed gives stays what it was before there were any."""
    torch.manual_seed(0)
    Augmentation(keep=0.0)(films[:1])
    after = torch.random.get_rng_state()
    torch.manual_seed(0)
    n = 1
    torch.rand(n)  # the strength
    for _ in range(5):  # rotation, scale, aspect, two shifts
        torch.rand(n)
    torch.randn(n, 2, 5, 5)
    for _ in range(3):  # gamma, gain and level
        torch.rand(n)
    assert torch.equal(torch.random.get_rng_state(), after)


PLAIN = dict.fromkeys(("rotation", "scale", "aspect", "shift", "elastic", "gamma", "gain", "keep"), 0.0)


def test_every_third_film_comes_closer_and_none_goes_away(films: torch.Tensor):
    """A disc of known radius grows, as the area tells."""
    across = (torch.arange(64) + 0.5) / 32 - 1
    disc = (across.square() + across[:, None].square() < 0.25).float().repeat(600, 1, 1, 1)
    torch.manual_seed(0)
    size = (Augmentation(**PLAIN, closer=0.4)(disc).sum((1, 2, 3)) / disc[0].sum()).sqrt().log()
    assert abs((size > 0.004).float().mean() - 1 / 3) < 0.07
    assert size.min() > -0.004
    assert 0.35 < size.max() < 0.404


def test_the_grey_scale_bends_in_its_middle_and_keeps_its_ends_and_order():
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64).repeat(100, 1, 1, 1)
    torch.manual_seed(0)
    bent = Augmentation(**PLAIN, curve=0.4)(ramp)[:, 0, 0]
    slope = bent[:, 32:34].diff()[:, 0] * 63
    assert slope.min() == pytest.approx(0.6, abs=0.05)
    assert slope.max() == pytest.approx(1.4, abs=0.05)
    assert (bent.diff() > -1e-6).all()
    torch.testing.assert_close(bent[:, [0, -1]], torch.tensor([0.0, 1.0]).expand(100, 2), atol=2e-4, rtol=0)


def test_sharpness_changes_detail_of_one_scale_both_ways_and_no_level(films: torch.Tensor):
    torch.manual_seed(0)
    soft = 0.25 + films / 2  # so that nothing reaches the ends of the range
    changed = Augmentation(**PLAIN, sharpness=0.4)(soft)
    ratio = (changed.std((1, 2, 3)) / soft.std((1, 2, 3))).log()
    assert (ratio > 0.001).any()
    assert (ratio < -0.001).any()
    torch.testing.assert_close(changed.mean((1, 2, 3)), soft.mean((1, 2, 3)), atol=5e-3, rtol=0)


def test_noise_is_white_and_of_the_strength_asked_for():
    grey = torch.full((200, 1, 32, 32), 0.5)
    torch.manual_seed(0)
    noise = Augmentation(**PLAIN, noise=0.05)(grey) - grey
    assert noise.std((1, 2, 3)).max() == pytest.approx(0.05, rel=0.1)
    assert noise.mean().abs() < 1e-3
    assert (noise[..., 1:] * noise[..., :-1]).mean().abs() < 0.02 * noise.square().mean()


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
