"""Synthetic faults: each is what its name says, and a function of the film and the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.scoring import faults
from monai_cxr_vae.scoring.faults import FAULTS, add_fault

seeds = st.integers(0, 2**32)


def film(seed: int, size: int, kind: str = "noise") -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "constant":
        return np.full((size, size), rng.choice([0.0, 0.5, 1.0]), np.float32)
    return rng.random((size, size), dtype=np.float32)


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    return render((9, 1), 64).image


@pytest.mark.parametrize("name", FAULTS)
@settings(max_examples=12)
@given(seed=seeds, size=st.integers(16, 70), kind=st.sampled_from(["noise", "constant"]), view=st.booleans())
def test_a_faulty_film_is_still_a_film(name: str, seed: int, size: int, kind: str, view: bool):
    image = film(seed, size, kind)
    image = image[::-1].T if view else image  # not contiguous, as a turned film is
    before = image.copy()
    faulty, again = (add_fault(image, np.random.default_rng(seed), [name]) for _ in range(2))
    assert faulty.shape == image.shape
    assert faulty.dtype == np.float32
    assert faulty.flags.c_contiguous
    assert np.isfinite(faulty).all()
    assert faulty.min() >= 0
    assert faulty.max() <= 1
    assert np.array_equal(faulty, again)
    assert np.array_equal(image, before)
    assert not np.shares_memory(faulty, image)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_changes_a_film_and_changes_it_anew(name: str, phantom: np.ndarray):
    made = [add_fault(phantom, np.random.default_rng(seed), [name]) for seed in range(20)]
    assert all(np.abs(faulty - phantom).max() > 0.02 for faulty in made)
    different = len({faulty.tobytes() for faulty in made})
    assert different == {"mirrored": 1, "inverted": 1, "turned": 4}.get(name, 20)


@given(seed=seeds, name=st.sampled_from(["mirrored", "inverted"]))
def test_a_film_mirrored_or_inverted_twice_is_the_film(seed: int, name: str):
    image, rng = film(seed, 24), np.random.default_rng(seed)
    twice = add_fault(add_fault(image, rng, [name]), rng, [name])
    np.testing.assert_allclose(twice, image, rtol=0, atol=0 if name == "mirrored" else 1e-7)


@given(seed=seeds)
def test_a_turned_film_is_one_of_four(seed: int):
    image = film(seed, 24)
    turned = add_fault(image, np.random.default_rng(seed), ["turned"])
    ways = [np.flipud(image), image.T[::-1], image[::-1, ::-1], image[::-1].T]
    assert sum(np.array_equal(turned, way) for way in ways) == 1


@pytest.mark.parametrize("seed", range(12))
def test_a_tilted_film_is_tilted_by_10_to_45_degrees(seed: int):
    y, x = np.mgrid[:96, :96] - 47.5
    bar = np.exp(-((x / 14) ** 2) - (y / 4) ** 2).astype(np.float32)
    tilted = add_fault(bar, np.random.default_rng(seed), ["tilted"]).astype(float)
    assert ndimage.center_of_mass(tilted) == pytest.approx((47.5, 47.5), abs=0.1)
    xx, yy, xy = ((tilted * product).sum() for product in (x * x, y * y, x * y))
    angle = np.degrees(np.arctan2(2 * xy, xx - yy) / 2)
    assert 9.5 < abs(angle) < 45.5


@given(seed=seeds)
def test_exposure_faults_keep_the_order_of_the_greys(seed: int):
    """Exposure, gamma and contrast map equal greys to equal ones and never a brighter one to a darker."""
    image = film(seed, 24)
    greys = np.sort(image, None)
    for name, strongest in (("dark", 0.7), ("flat", 0.6), ("bright", None), ("bent", None)):
        faulty = add_fault(image, np.random.default_rng(seed), [name])
        mapped = faulty.ravel()[image.argsort(None)]
        assert (np.diff(mapped) >= 0).all()
        if strongest:
            assert np.ptp(mapped) <= strongest * np.ptp(greys) + 1e-6
    assert abs(add_fault(image, np.random.default_rng(seed), ["flat"]).mean() - image.mean()) < 1e-3
    assert add_fault(image, np.random.default_rng(seed), ["dark"]).mean() < 0.71 * image.mean()
    assert add_fault(image, np.random.default_rng(seed), ["bright"]).mean() > image.mean()


@given(seed=seeds)
def test_a_blank_film_shows_nothing(seed: int):
    blank = add_fault(film(seed, 24), np.random.default_rng(seed), ["blank"])
    assert not np.ptp(blank, axis=1).any()
    steps = np.diff(blank[:, 0])
    assert (steps >= 0).all() or (steps <= 0).all()
    assert np.array_equal(blank, add_fault(film(seed + 1, 24), np.random.default_rng(seed), ["blank"]))


@given(seed=seeds, size=st.integers(20, 40))
def test_a_covered_film_is_one_grey_there_and_itself_elsewhere(seed: int, size: int):
    image = film(seed + 1, size)
    covered = add_fault(image, np.random.default_rng(seed), ["covered"])
    changed = covered != image
    assert 0.015 < changed.mean() < 0.55
    assert np.ptp(covered[changed]) == 0
    assert np.array_equal(changed, changed.any(1)[:, None] & changed.any(0))  # a rectangle


@given(seed=seeds)
def test_a_blurred_film_has_less_detail_and_a_noisy_one_more(seed: int):
    y, x = np.mgrid[:48, :48] / 48
    image = (0.5 + 0.4 * np.sin(12 * x + seed % 7) * np.sin(9 * y)).astype(np.float32)
    energy = lambda a: np.diff(a, axis=0).var() + np.diff(a, axis=1).var()  # noqa: E731
    assert energy(add_fault(image, np.random.default_rng(seed), ["blurred"])) < energy(image)
    assert energy(add_fault(image, np.random.default_rng(seed), ["noisy"])) > energy(image)


def test_families_are_drawn_evenly_and_only_those_asked_for(monkeypatch: pytest.MonkeyPatch):
    names = list(FAULTS)
    for i, name in enumerate(names):
        monkeypatch.setitem(faults.FAULTS, name, lambda film, rng, i=i: np.full_like(film, i / 100))
    rng, image = np.random.default_rng(0), np.zeros((2, 2), np.float32)

    def drawn(families: list[str] | None) -> np.ndarray:
        return np.bincount([round(100 * float(add_fault(image, rng, families)[0, 0])) for _ in range(2600)])

    assert stats.chisquare(drawn(None)).pvalue > 0.001
    assert len(drawn(None)) == len(names)
    assert set(np.nonzero(drawn(names[3:5]))[0]) == {3, 4}
