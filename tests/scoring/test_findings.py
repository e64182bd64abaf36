"""Synthetic findings: where they are drawn, what they look like, and that they say so truly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.scoring.findings import FINDINGS, add_findings, body, lungs

MOVED = ("large_heart", "volume_loss")
DENSE = ("opacity", "veil", "effusion", "nodules")
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def chests() -> list[np.ndarray]:
    return [render((21, i), 96).image for i in range(6)]


def drawn(name: str, films: list[np.ndarray], count: int = 30) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """``count`` films with a finding: (film, result, where)."""
    chosen = [films[i % len(films)] for i in range(count)]
    return [(film, *FINDINGS[name](film, np.random.default_rng([5, i]))) for i, film in enumerate(chosen)]


@pytest.mark.parametrize("name", FINDINGS)
@settings(max_examples=12)
@given(seed=seeds, size=st.sampled_from([16, 32, 47, 64]), kind=st.sampled_from(["noise", "black", "white", "ramp"]))
def test_any_film_with_a_finding_is_still_a_film(name: str, seed: int, size: int, kind: str):
    image = {
        "noise": np.random.default_rng(seed).random((size, size), dtype=np.float32),
        "black": np.zeros((size, size), np.float32),
        "white": np.ones((size, size), np.float32),
        "ramp": np.linspace(0, 1, size, dtype=np.float32)[:, None].repeat(size, 1)[:, ::-1],
    }[kind]
    before = image.copy()
    result, where = add_findings(image, np.random.default_rng(seed), [name])
    again, there = add_findings(image, np.random.default_rng(seed), [name])
    assert result.shape == where.shape == image.shape
    assert (result.dtype, where.dtype) == (np.float32, bool)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert np.array_equal(result, again)
    assert np.array_equal(where, there)
    assert np.array_equal(image, before)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize("name", FINDINGS)
def test_the_mask_is_where_the_film_has_changed(name: str, chests: list[np.ndarray]):
    for film, result, where in drawn(name, chests):
        change = np.abs(result - film)
        if name in MOVED:  # every edge moves a little: what counts is the change around a place
            change = ndimage.gaussian_filter(change, 0.01 * len(film), mode="mirror")
            limit = 0.04
        else:
            limit = 0.02
        clear = np.abs(change - limit) > 0.002
        assert np.array_equal(where[clear], change[clear] > limit)


def test_two_findings_are_both_in_the_mask(chests: list[np.ndarray]):
    families = [name for name in FINDINGS if name not in MOVED]
    for seed in range(60):
        film = chests[seed % len(chests)]
        result, where = add_findings(film, np.random.default_rng(seed), families)
        change = np.abs(result - film)
        assert (change[~where] <= 0.04 + 1e-6).all()  # twice what is not called a change


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_can_be_seen_and_leaves_the_rest_as_it_was(name: str, chests: list[np.ndarray]):
    shares = np.array([where.mean() for _, _, where in drawn(name, chests, 60)])
    assert (shares > 0.001).mean() > 0.9
    assert shares.max() < 0.7
    assert len({result.tobytes() for _, result, _ in drawn(name, chests)}) == 30


@pytest.mark.parametrize("name", ["opacity", "veil", "effusion", "nodules", "air", "transplant"])
def test_diseases_of_the_lung_lie_there(name: str, chests: list[np.ndarray]):
    inside = []
    for film, result, _ in drawn(name, chests):
        change, place = np.abs(result - film), ndimage.maximum_filter(lungs(film), 15)
        inside.append(change[place > 0.2].sum() / max(change.sum(), 1e-6))
    assert np.mean(inside) > 0.8


@pytest.mark.parametrize("name", [*DENSE, "device", "air"])
def test_density_is_brighter_and_air_darker(name: str, chests: list[np.ndarray]):
    changes = [(result - film)[where].mean() for film, result, where in drawn(name, chests, 60) if where.any()]
    brighter = np.mean(np.array(changes) > 0)
    assert brighter < 0.2 if name == "air" else brighter == 1


def test_fluid_lies_at_the_bases_and_air_above(chests: list[np.ndarray]):
    heights = {}
    for name in ("effusion", "air"):
        centres = [ndimage.center_of_mass(np.abs(result - film))[0] for film, result, _ in drawn(name, chests)]
        heights[name] = np.array(centres) / 96
    assert heights["effusion"].mean() > 0.55
    assert heights["air"].mean() < 0.45


def test_a_large_heart_is_wider(chests: list[np.ndarray]):
    """More of the rows through the heart is bright than before."""
    wider = []
    for film, result, _ in drawn("large_heart", chests):
        rows = slice(50, 70)
        middle = (film[rows].mean() + film[rows].max()) / 2
        wider.append((result[rows] > middle).mean() - (film[rows] > middle).mean())
    assert np.mean(np.array(wider) > 0) > 0.9


@pytest.mark.parametrize("index", range(6))
def test_lungs_are_found_in_a_frontal_chest(index: int, chests: list[np.ndarray]):
    found = lungs(chests[index])
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert min(found[30:50, 24:34].mean(), found[30:50, 62:72].mean()) > 0.5
    assert max(found[:6].max(), found[-6:].max(), found[30:60, 45:51].mean()) < 0.35


@pytest.fixture(scope="module")
def framed() -> list[np.ndarray]:
    """Chests with air of a known width at both sides."""
    films = [render((22, i), 96).image[:, 14:-14] for i in range(6)]
    return [np.pad(np.maximum(film, 0.2), ((0, 0), (14, 14))) for film in films]


@pytest.mark.parametrize("name", [*DENSE, "air", "transplant"])
def test_no_density_lies_in_the_air_beside_the_body(name: str, framed: list[np.ndarray]):
    beside = np.zeros((96, 96), bool)
    beside[:, :12] = beside[:, -12:] = True
    for _, _, where in drawn(name, framed):
        assert not where[beside].any()


def test_the_body_is_all_but_the_air_that_reaches_the_border(framed: list[np.ndarray]):
    for film in framed:
        found = body(film)
        assert found.dtype == np.float32
        assert max(found[:, :12].max(), found[:, -12:].max()) < 0.01
        assert found[5:-5, 18:-18].min() > 0.95  # the lungs are dark too
    for plain in (np.zeros((32, 32), np.float32), np.pad(np.ones((4, 4), np.float32), 14)):
        assert body(plain).min() == 1  # nothing to see, or no film with a body in its middle


def test_a_transplant_is_tissue_of_the_other_film(chests: list[np.ndarray]):
    """A film of a pattern that no chest has leaves it where it was transplanted to, and there alone."""
    film, stripes = chests[0], np.tile(np.float32([0.3, 0.7]), (96, 48))
    energy = lambda image: np.abs(np.diff(image, 2, axis=1))  # noqa: E731
    for seed in range(20):
        result, where = add_findings(film, np.random.default_rng(seed), ["transplant"], stripes)
        again, _ = add_findings(film, np.random.default_rng(seed), ["transplant"])
        inside = ndimage.binary_erosion(where, iterations=2)
        assert inside.any()
        assert energy(result)[inside[:, 1:-1]].mean() > 5 * energy(again)[inside[:, 1:-1]].mean()
        assert np.abs(result - film)[~where].max() <= 0.04


@pytest.mark.parametrize("families", [["nodules"], ["air", "device"], None])
def test_only_the_families_asked_for_are_drawn(families: list[str] | None, monkeypatch: pytest.MonkeyPatch):
    called: set[str] = set()
    blank = np.zeros((4, 4), bool)
    for name in FINDINGS:
        monkeypatch.setitem(FINDINGS, name, lambda film, rng, name=name: called.add(name) or (film, blank))
    rng = np.random.default_rng(0)
    for _ in range(200):
        add_findings(np.zeros((4, 4), np.float32), rng, families)
    assert called == set(families or FINDINGS)
