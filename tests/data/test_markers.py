"""Letters on films: found and filled in, and nothing else touched."""

import cv2
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_cxr_vae.data import EraseMarkersd
from monai_cxr_vae.data.markers import erase_markers, marker_mask
from monai_cxr_vae.data.phantom import render


def lettered(film: np.ndarray, text: str, left: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    scale = len(film) / 256
    letters = np.zeros(film.shape, np.uint8)
    cv2.putText(
        letters, text, (round(left * scale), round(bottom * scale)), cv2.FONT_HERSHEY_SIMPLEX, 0.6 * scale, 255, 2
    )
    ink = letters.astype(np.float32) / 255
    return film * (1 - ink) + 0.95 * ink, ink > 0.3


@pytest.mark.parametrize("side", [128, 256, 512])
@pytest.mark.parametrize(("text", "left", "bottom"), [("L", 222, 40), ("R", 20, 44), ("AP", 24, 30)])
def test_letters_are_gone(side, text, left, bottom):
    film = render((4, len(text)), side).image * 0.6
    drawn, ink = lettered(film, text, left, bottom)
    erased = erase_markers(drawn)
    assert marker_mask(drawn)[ink].mean() > 0.98
    assert np.abs(erased - film)[ink].mean() < 0.15 * np.abs(drawn - film)[ink].mean()
    outside = ~marker_mask(drawn)
    assert np.array_equal(erased[outside], drawn[outside])


@pytest.mark.parametrize("side", [128, 256, 512])
def test_letters_between_bright_edges_of_the_film_are_gone(side):
    film = np.full((side, side), 0.3, np.float32)
    ink = np.zeros(film.shape, bool)
    unit = side // 64
    ink[2 * unit : 6 * unit, -4 * unit : -3 * unit] = True  # an L of two bars, its foot in the film's edge
    ink[5 * unit : 6 * unit, -4 * unit :] = True
    drawn = np.where(ink, np.float32(0.95), film)
    drawn[:unit] = drawn[:, -unit:] = 0.95
    beside = ink.copy()
    beside[:, -unit:] = False
    assert beside.sum() > 0.5 * ink.sum()
    assert np.abs(erase_markers(drawn) - film)[beside].mean() < 0.1


def test_a_film_without_letters_is_kept():
    film = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (256, 1))
    film = film + 0.08 * np.sin(np.arange(256, dtype=np.float32) / 3)[:, None]
    assert not marker_mask(film).any()
    assert np.array_equal(erase_markers(film), film)


def test_what_stands_inside_is_no_marker():
    drawn, _ = lettered(np.full((256, 256), 0.3, np.float32), "L", 120, 140)
    assert not marker_mask(drawn).any()


def test_transform_keeps_what_a_film_carries():
    drawn, _ = lettered(np.full((256, 256), 0.3, np.float32), "L", 222, 40)
    item = {"image": MetaTensor(torch.from_numpy(drawn[None]), meta={"geometry": {"rows": 7}}), "label": 1}
    result = EraseMarkersd("image")(item)
    assert result["label"] == 1
    assert result["image"].meta["geometry"] == {"rows": 7}
    assert np.array_equal(result["image"][0].numpy(), erase_markers(drawn))
    assert np.array_equal(item["image"][0].numpy(), drawn)
