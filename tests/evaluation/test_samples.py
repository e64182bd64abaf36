"""Sample quality: known distances, and whether copies, noise and collapse are told from good samples."""

from __future__ import annotations

import pytest
import torch

from monai_cxr_vae.evaluation.samples import (
    diversity,
    maximum_mean_discrepancy,
    nearest_distance,
    sample_quality,
)


def films(n, seed):
    """Films ``(n, 1, 16, 16)`` of one smooth distribution."""
    small = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, 16, mode="bilinear")


def test_discrepancy_by_definition():
    x, y = torch.randn(5, 3).double(), torch.randn(6, 3).double()
    width = torch.pdist(y).median()

    def kernel(a, b):
        return float(torch.exp(-((a - b) ** 2).sum() / (2 * width**2)))

    expected = sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    expected += sum(kernel(y[i], y[j]) for i in range(6) for j in range(6) if i != j) / 30
    expected -= 2 * sum(kernel(a, b) for a in x for b in y) / 30
    assert maximum_mean_discrepancy(x, y) == pytest.approx(expected, abs=1e-9)


def test_discrepancy_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    same = [maximum_mean_discrepancy(*torch.randn(2, 40, 5, generator=generator)) for _ in range(60)]
    assert abs(sum(same) / 60) < 0.003
    assert maximum_mean_discrepancy(torch.randn(40, 5) + 1, torch.randn(40, 5)) > 0.05


def test_distances_in_intensities():
    flat = torch.stack([torch.full((1, 4, 4), value) for value in (0.0, 0.1, 0.5)])
    assert diversity(flat) == pytest.approx((0.1 + 0.5 + 0.4) / 3, abs=1e-6)
    assert nearest_distance(flat[1:], flat[:1]).tolist() == pytest.approx([0.1, 0.5], abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "measure", "low", "high"),
    [
        ("good", "mmd", -1.0, 0.003),
        ("noise", "mmd", 0.02, 2.0),
        ("collapsed", "diversity", 0.0, 0.3),
        ("copies", "nearest_training_film", 0.0, 0.05),
    ],
)
def test_what_is_wrong_shows(kind, measure, low, high):
    train, held_out = films(150, 1), films(80, 2)
    samples = {
        "good": films(80, 3),
        "noise": torch.rand(80, 1, 16, 16, generator=torch.Generator().manual_seed(4)),
        "collapsed": held_out[:1] + 0.1 * (films(80, 3) - 0.5),
        "copies": train[:80] + 0.001,
    }[kind]
    quality = sample_quality(samples, held_out, train, components=20)
    assert set(quality) == {"mmd", "diversity", "nearest_training_film"}
    found = quality[measure]["samples"] - (quality["mmd"]["real"] if measure == "mmd" else 0)
    if measure != "mmd":
        found /= quality[measure]["real"]
    assert low <= found <= high
