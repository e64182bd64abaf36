"""Regions of heat maps, as SciPy finds them, and whether those of phantom films lie where the findings are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from monai_cxr_vae.data.regions import regions

CORNERS = np.ones((3, 3), int)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32), blur=st.sampled_from([0.0, 1.0, 3.0]), threshold=st.sampled_from([0.0, 0.4, 0.5, 1.0])
)
def test_regions_are_those_of_scipy(seed: int, blur: float, threshold: float):
    heat = ndimage.gaussian_filter(np.random.default_rng(seed).random((24, 31)), blur).astype(np.float32)
    heat = (heat - heat.min()) / np.ptp(heat)
    labels, count = ndimage.label(heat > threshold, CORNERS)
    found = regions(heat, threshold)
    assert len(found) == count
    assert [region.peak for region in found] == sorted((region.peak for region in found), reverse=True)
    masks = {region.mask.tobytes() for region in found}
    assert masks == {(labels == i + 1).tobytes() for i in range(count)}
    for region in found:
        assert region.peak == heat[region.place] == heat[region.mask].max()
        assert region.area == region.mask.sum()
        # The outline is the region's own pixels that touch what is not reached from within, without holes.
        filled = ndimage.binary_fill_holes(region.mask)
        border = filled & ~ndimage.binary_erosion(filled, border_value=0)
        drawn = np.zeros_like(border)
        drawn[tuple(region.outline.T)] = True
        assert np.array_equal(drawn, border)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_map_that_nowhere_exceeds_the_threshold_has_no_regions(value: float):
    assert regions(np.full((8, 8), value, np.float32)) == []
