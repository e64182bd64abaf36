"""The colours of an overlay mean the same on every film."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from monai_cxr_vae.data.pictures import BAND, LIMIT, captioned, draw_heat, thumbnails

FILM = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(40, 30)


def test_no_heat_no_colour():
    picture = draw_heat(FILM, np.full_like(FILM, 0.24))
    np.testing.assert_array_equal(picture, np.repeat(np.rint(FILM * 255)[..., None], 3, axis=-1))


def test_one_scale_for_all_films():
    """A place has the colour that its film and its map give it, whatever else is on the film."""
    heat = np.full_like(FILM, 0.7)
    alone = draw_heat(FILM, heat)
    among = heat.copy()
    among[:20] = 1.0
    np.testing.assert_array_equal(draw_heat(FILM, among)[25:], alone[25:])


def test_red_grows_with_the_map_and_amber_is_not_red():
    grey = np.full((9, 9), 0.5, np.float32)
    middle = [
        draw_heat(grey, np.full_like(grey, value))[4, 4].astype(int) for value in (0.3, 0.4, 0.49, 0.51, 0.7, 1.0)
    ]
    redness = [red - (green + blue) / 2 for red, green, blue in middle]
    assert redness == sorted(redness)
    assert all(green > blue + 10 for _, green, blue in middle[1:3])  # amber
    assert all(red - green > 2 * abs(green - blue) for red, green, blue in middle[3:])


def test_a_line_where_the_limit_is_crossed():
    heat = np.zeros_like(FILM)
    heat[10:30, 10:20] = LIMIT
    line = (draw_heat(np.zeros_like(FILM), heat) == [255, 255, 153]).all(axis=-1)
    expected = np.zeros_like(line)
    expected[10:30, 10:20] = True
    expected[11:29, 11:19] = False
    np.testing.assert_array_equal(line, expected)


@pytest.mark.parametrize("bad", [np.full((40, 30), np.nan), np.zeros((30, 40)), np.zeros((40, 30, 1))])
def test_what_is_no_map_of_the_film_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        draw_heat(FILM, bad)


def test_strip_is_one_small_picture():
    data = thumbnails([FILM, 1 - FILM, draw_heat(FILM, FILM)])
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("WEBP", (90, 40))
    assert np.abs(np.asarray(image)[:, :30, 0] / 255 - FILM).mean() < 0.03
    assert data == thumbnails([FILM, 1 - FILM, draw_heat(FILM, FILM)])


@pytest.mark.parametrize("shape", [(256, 213), (213, 256), (1024, 853), (400, 1024), (96, 64)])
@pytest.mark.parametrize("colour", [False, True])
def test_caption_stands_below_and_covers_nothing(shape: tuple[int, int], colour: bool):
    picture = np.full((*shape, 3), 90, np.uint8) if colour else np.full(shape, 0.3, np.float32)
    marked = captioned(picture, "AI RECONSTRUCTION", "NOT FOR DIAGNOSIS")
    assert marked.dtype == picture.dtype
    np.testing.assert_array_equal(marked[: shape[0]], picture)
    band = marked[shape[0] :].astype(float) / (255 if colour else 1)
    assert len(band) == round(BAND * shape[0]) < 0.2 * shape[0]
    if colour:
        assert (np.ptp(band, axis=-1) == 0).all()
        band = band[..., 0]
    assert (band[0] > 0.9).all()  # a line between film and caption
    text = band[2:] > 0.5
    assert 0.03 < text.mean() < 0.4
    assert not text[:, 0].any()
    assert not text[:, -1].any()


def test_caption_is_text_that_stands_upright_and_can_be_read_in_a_thumbnail():
    """Half its size, it is more like the words as OpenCV writes them than like others, or upside down, or mirrored."""
    band = captioned(np.zeros((256, 213), np.float32), "AI HEAT MAP", "NOT FOR DIAGNOSIS")[258:]
    small = cv2.resize(band, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    rows = np.flatnonzero(small.max(axis=1) > 0.3)
    upper, lower = np.split(small, [int(rows.mean()) + 1])

    def ink(part: np.ndarray) -> np.ndarray:
        rows, columns = np.nonzero(part > 0.3)
        return part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32)

    def likeness(part: np.ndarray, words: str) -> float:
        part = ink(part)
        (width, height), base = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 2, 5)
        drawn = np.zeros((height + base + 20, width + 20), np.uint8)
        cv2.putText(drawn, words, (10, height + 10), cv2.FONT_HERSHEY_SIMPLEX, 2, 255, 5)
        drawn = cv2.resize(ink(drawn), part.shape[::-1], interpolation=cv2.INTER_AREA)
        return float(np.corrcoef(cv2.blur(part, (3, 3)).ravel(), cv2.blur(drawn, (3, 3)).ravel())[0, 1])

    for part, words, others in (
        (upper, "AI HEAT MAP", ["NOT FOR DIAGNOSIS", "AI MEAT HAP", "A RESIDUAL"]),
        (lower, "NOT FOR DIAGNOSIS", ["AI HEAT MAP", "FOR NOT DIAGNOSIS", "FIT FOR DIAGNOSIS"]),
    ):
        right = likeness(part, words)
        wrong = [likeness(part, other) for other in others]
        wrong += [likeness(turned, words) for turned in (part[::-1], part[:, ::-1], part[::-1, ::-1])]
        assert right > max(wrong), (right, wrong)
