"""The critic: what it gives, what reaches it, and its histogram against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_cxr_vae.scoring import Critic
from monai_cxr_vae.scoring.critic import BINS, FEATURES, histogram


def inputs(n: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return (
        torch.rand(n, 1, 2 * size, 2 * size, generator=generator),
        torch.rand(n, 1, size, size, generator=generator),
        torch.randn(n, FEATURES, generator=generator),
    )


@pytest.fixture
def critic() -> Critic:
    torch.manual_seed(0)
    made = Critic((8, 16), 12)
    for parameter in made.parameters():  # some layers start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize(("size", "channels"), [(16, (8, 16)), (32, (24, 48, 96)), (24, (8,))])
def test_two_logits_for_a_film_and_one_for_each_place(size: int, channels: tuple[int, ...]):
    logits, places = Critic(channels)(*inputs(3, size))
    assert logits.shape == (3, 2)
    assert places.shape == (3, 1, size // 2, size // 2)


def test_gradient_reaches_every_parameter(critic: Critic):
    logits, places = critic.train()(*inputs(4))
    (logits.square().sum() + places.square().sum()).backward()
    assert [name for name, p in critic.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_in_evaluation_a_film_is_judged_alone_and_the_same_each_time(critic: Critic):
    critic.train()(*inputs(8))  # the features' mean and variance are known after this
    critic.eval()
    films = inputs(3)
    with torch.no_grad():
        together = critic(*films)
        for first, again in zip(together, critic(*films), strict=True):
            assert torch.equal(first, again)
        for i in range(3):
            for all_of_them, own in zip(together, critic(*(part[i : i + 1] for part in films)), strict=True):
                torch.testing.assert_close(all_of_them[i : i + 1], own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", range(3))
def test_film_reconstruction_and_features_all_count(critic: Critic, part: int):
    critic.eval()
    films = list(inputs(2))
    with torch.no_grad():
        before = critic(*films)[0]
        films[part] = films[part] * 0.5
        after = critic(*films)[0]
    assert (before - after).abs().min() > 1e-5


def test_the_map_points_at_the_place(critic: Critic):
    """A change in one corner moves the map there and, but for the statistics of the groups, nowhere else."""
    critic.eval()
    film, reconstruction, features = inputs(1, 32)
    changed = film.clone()
    changed[..., :8, 48:] = 1 - changed[..., :8, 48:]
    with torch.no_grad():
        difference = (critic(changed, reconstruction, features)[1] - critic(film, reconstruction, features)[1]).abs()
    assert difference.shape == (1, 1, 16, 16)
    row, column = divmod(int(difference.argmax()), 16)
    assert row < 5
    assert column > 10


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_histogram_shares_pixels_between_the_nearest_bins(seed: int):
    image = np.random.default_rng(seed).random((7, 9)).astype(np.float32)
    shares = np.zeros(BINS)
    for value in image.ravel().astype(float):
        place = value * BINS - 0.5
        low = int(np.floor(place))
        for i, weight in ((low, low + 1 - place), (low + 1, place - low)):
            if 0 <= i < BINS:
                shares[i] += weight / image.size
    found = histogram(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_allclose(found, np.sqrt(np.maximum(shares, 1e-6)), atol=1e-3)
