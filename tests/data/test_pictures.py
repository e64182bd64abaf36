"""The colours of an overlay mean the same on every film."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from monai_cxr_vae.data.pictures import LIMIT, overlay, strip

FILM = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(40, 30)


def test_no_heat_no_colour():
    picture = overlay(FILM, np.full_like(FILM, 0.24))
    np.testing.assert_array_equal(picture, np.repeat(np.rint(FILM * 255)[..., None], 3, axis=-1))


def test_one_scale_for_all_films():
    """A place has the colour that its film and its map give it, whatever else is on the film."""
    heat = np.full_like(FILM, 0.7)
    alone = overlay(FILM, heat)
    among = heat.copy()
    among[:20] = 1.0
    np.testing.assert_array_equal(overlay(FILM, among)[25:], alone[25:])


def test_red_grows_with_the_map_and_amber_is_not_red():
    grey = np.full((9, 9), 0.5, np.float32)
    middle = [overlay(grey, np.full_like(grey, value))[4, 4].astype(int) for value in (0.3, 0.4, 0.49, 0.51, 0.7, 1.0)]
    redness = [red - (green + blue) / 2 for red, green, blue in middle]
    assert redness == sorted(redness)
    assert all(green > blue + 10 for _, green, blue in middle[1:3])  # amber
    assert all(red - green > 2 * abs(green - blue) for red, green, blue in middle[3:])


def test_a_line_where_the_limit_is_crossed():
    heat = np.zeros_like(FILM)
    heat[10:30, 10:20] = LIMIT
    line = (overlay(np.zeros_like(FILM), heat) == [255, 255, 153]).all(axis=-1)
    expected = np.zeros_like(line)
    expected[10:30, 10:20] = True
    expected[11:29, 11:19] = False
    np.testing.assert_array_equal(line, expected)


@pytest.mark.parametrize("bad", [np.full((40, 30), np.nan), np.zeros((30, 40)), np.zeros((40, 30, 1))])
def test_what_is_no_map_of_the_film_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        overlay(FILM, bad)


def test_strip_is_one_small_picture():
    data = strip([FILM, 1 - FILM, overlay(FILM, FILM)])
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("WEBP", (90, 40))
    assert np.abs(np.asarray(image)[:, :30, 0] / 255 - FILM).mean() < 0.03
    assert data == strip([FILM, 1 - FILM, overlay(FILM, FILM)])
