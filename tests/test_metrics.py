"""Metrics against independent implementations and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric
from torch.distributions import Normal, kl_divergence

from monai_cxr_vae.metrics import (
    bits_per_dimension,
    crop_to_mask,
    kl_per_unit,
    multiscale_structural_similarity,
    peak_signal_to_noise_ratio,
    structural_similarity,
)


@pytest.fixture
def pair():
    """Four smooth films and noisy copies, 192 px."""
    generator = torch.Generator().manual_seed(0)
    films = torch.nn.functional.interpolate(torch.rand(4, 1, 12, 12, generator=generator), 192, mode="bilinear")
    return films + 0.1 * torch.randn(films.shape, generator=generator), films


def box(film, top, left, height, width):
    mask = torch.zeros_like(film, dtype=torch.bool)
    mask[..., top : top + height, left : left + width] = True
    return mask


def test_as_monai_computes_them(pair):
    noisy, films = pair
    shown = noisy.clamp(0, 1)
    for ours, theirs in (
        (peak_signal_to_noise_ratio, PSNRMetric(1.0, reduction="none")),
        (structural_similarity, SSIMMetric(2, reduction="none")),
        (multiscale_structural_similarity, MultiScaleSSIMMetric(2, reduction="none")),
    ):
        assert torch.allclose(ours(noisy, films), theirs(shown, films).flatten(), atol=1e-4)


@pytest.mark.parametrize(
    "metric", [peak_signal_to_noise_ratio, structural_similarity, multiscale_structural_similarity]
)
def test_padding_does_not_count(pair, metric):
    noisy, films = pair
    mask = box(films, 0, 10, 192, 178)
    inside = metric(noisy[..., 10:188], films[..., 10:188])
    spoilt = torch.where(mask, noisy, torch.rand(films.shape))
    assert torch.allclose(metric(spoilt, films, mask), inside, atol=1e-5)


def test_multiscale_needs_176_pixels(pair):
    noisy, films = pair
    assert multiscale_structural_similarity(noisy[..., :175, :], films[..., :175, :]).isnan().all()
    assert not multiscale_structural_similarity(noisy[..., :176, :], films[..., :176, :]).isnan().any()
    masks = torch.cat([box(films[:1], 0, 0, 192, 180), box(films[:1], 0, 10, 192, 120)])
    assert multiscale_structural_similarity(noisy[:2], films[:2], masks).isnan().tolist() == [False, True]


def test_cut_gives_the_box(pair):
    _, films = pair
    assert torch.equal(crop_to_mask(films[:1], box(films[:1], 3, 5, 100, 50)), films[:1, :, 3:103, 5:55])


def test_bits_per_dimension_is_the_likelihood(pair):
    noisy, films = pair
    kl = torch.tensor([10.0, 0.0, 300.0, 2.0])
    density = Normal(noisy, 0.1).log_prob(films).flatten(1).sum(1)
    expected = (kl - density) / films[0].numel() / math.log(2) + math.log2(256)
    assert torch.allclose(bits_per_dimension(noisy, films, kl, 0.1), expected, atol=1e-4)
    mask = box(films, 0, 10, 192, 172)
    density = (Normal(noisy, 0.1).log_prob(films) * mask).flatten(1).sum(1)
    expected = (kl - density) / (192 * 172) / math.log(2) + 8
    assert torch.allclose(bits_per_dimension(noisy, films, kl, 0.1, mask), expected, atol=1e-4)


def test_kl_per_unit_is_the_divergence():
    mu, logvar = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    assert torch.allclose(kl_per_unit(mu, logvar), expected, atol=1e-5)
