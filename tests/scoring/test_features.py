"""Exposure and texture against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from monai_cxr_vae.scoring.features import EXPOSURES, TEXTURES, exposure, texture

seeds = st.integers(0, 2**32)


def films(seed: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Two films in [0, 1] that lie in different rectangles."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 1, size, size, generator=generator)
    mask = torch.zeros(2, 1, size, size, dtype=torch.bool)
    mask[0, :, 3:20, :] = True
    mask[1, :, :, 4:17] = True
    return images, mask


def entropy(counts: np.ndarray) -> float:
    return stats.entropy(counts[counts > 0])


@settings(max_examples=30)
@given(seeds)
def test_exposure_is_quantiles_of_what_lies_on_the_film(seed: int):
    images, mask = films(seed)
    found = exposure(images, mask)
    assert found.shape == (2, EXPOSURES)
    for film, inside, row in zip(images.numpy(), mask.numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(row, np.quantile(film[inside], [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]), atol=1e-6)


@settings(max_examples=30)
@given(seeds)
def test_texture_is_energies_and_an_entropy(seed: int):
    images, mask = films(seed)
    found = texture(images, mask)
    assert found.shape == (2, TEXTURES)
    for film, row, (top, bottom, left, right) in zip(
        images[:, 0].double().numpy(), found.exp().numpy(), ((3, 20, 0, 24), (0, 24, 4, 17)), strict=True
    ):
        part = film[top:bottom, left:right]
        expected = []
        for scale in (1, 2, 4):
            height, width = (n // scale for n in part.shape)
            blocks = part[: height * scale, : width * scale].reshape(height, scale, width, scale).mean((1, 3))
            expected += [(np.diff(blocks, axis=axis) ** 2).mean() for axis in (0, 1)]
        fine = part - ndimage.uniform_filter(part, 3)
        expected.append((fine[1:-1, 1:-1] ** 2).mean())
        np.testing.assert_allclose(row[:7], expected, rtol=1e-4)
        steps = np.histogram(np.diff(part, axis=1), 255, (-1, 1))[0]
        assert row[7] == pytest.approx(entropy(steps), rel=1e-2)  # a step on a bin's edge may fall to either side


@settings(max_examples=20)
@given(seeds)
def test_nothing_outside_of_the_film_counts(seed: int):
    images, mask = films(seed)
    other = torch.where(mask, images, torch.rand_like(images))
    for measure in (exposure, texture):
        assert torch.equal(measure(images, mask), measure(other, mask))


def test_a_film_in_a_batch_is_measured_alone():
    images, mask = films(0)
    for measure in (exposure, texture):
        alone = torch.cat([measure(images[i : i + 1], mask[i : i + 1]) for i in range(2)])
        assert torch.equal(measure(images, mask), alone)


def test_mirroring_changes_neither_exposure_nor_energies():
    images = torch.rand(3, 1, 16, 16)
    mask = torch.ones_like(images, dtype=torch.bool)
    for flipped in (images.flip(2), images.flip(3), images.flip(2, 3)):
        torch.testing.assert_close(exposure(images, mask), exposure(flipped, mask))
        torch.testing.assert_close(texture(images, mask)[:, :7], texture(flipped, mask)[:, :7])


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_blank_film_has_finite_features(level: float):
    image = torch.full((1, 1, 16, 16), level)
    mask = torch.ones_like(image, dtype=torch.bool)
    torch.testing.assert_close(exposure(image, mask), torch.full((1, EXPOSURES), level))
    torch.testing.assert_close(texture(image, mask), torch.full((1, TEXTURES), 1e-7).log())


def test_blur_noise_and_compression_show_in_the_texture():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((8, 1, 32, 32)), (0, 0, 1, 1))
    made = {
        "plain": smooth,
        "blurred": ndimage.gaussian_filter(smooth, (0, 0, 1.5, 1.5)),
        "noisy": smooth + 0.1 * rng.standard_normal(smooth.shape),
    }
    mask = torch.ones(8, 1, 32, 32, dtype=torch.bool)
    plain, blurred, noisy = (texture(torch.from_numpy(a.clip(0, 1)).float(), mask) for a in made.values())
    assert (blurred[:, 6:] < plain[:, 6:]).all()
    assert (noisy[:, 6:] > plain[:, 6:]).all()
