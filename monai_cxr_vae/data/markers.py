"""Side markers and other letters of lead or print on films, and how they are taken away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

# Lengths below are in pixels of a film of this side.
_SIDE = 256
_STROKE = 13  # what is bright and narrower than this may be a letter
_GAP = 7  # what lies between strokes so close to each other goes with them
_MARGIN = 7
_LONGEST = 48
_CONTRAST = 0.22  # to what lies behind, in intensity


def marker_mask(film: np.ndarray) -> np.ndarray:
    """Where letters stand on a film: bright strokes, close together, in its outer part.

    By the white top-hat (Serra 1982) and the size of what is connected. Ribs have less contrast. Where skin is seen
    from the side a part of the chest wall may be taken too.

    Args:
        film: (S, S) float32 in [0, 1], upright, frontal.

    Returns:
        (S, S) bool, with a margin around the strokes.
    """
    unit = film.shape[0] / _SIDE
    smooth = cv2.GaussianBlur(film, (0, 0), 0.5 * unit)
    strokes = cv2.morphologyEx(smooth, cv2.MORPH_TOPHAT, _disc(_STROKE * unit)) > _CONTRAST
    # The film's edge may pass through a letter.
    along = cv2.getStructuringElement(cv2.MORPH_RECT, (max(1, round(_LONGEST * unit)), 1))
    for line in (along, along.T):
        strokes &= cv2.morphologyEx(strokes.astype(np.uint8), cv2.MORPH_OPEN, line) == 0
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(strokes.astype(np.uint8))
    left, top, width, height, area = boxes.T / np.array([[unit]] * 4 + [[unit**2]])
    x, y = centres.T / unit
    outer = (y < 70) | (x < 40) | (x > _SIDE - 40)
    at_border = (np.minimum(left, top) <= 0) | (np.maximum(left + width, top + height) >= _SIDE)
    edge = at_border & (np.minimum(width, height) <= 5)
    chosen = outer & ~edge & (np.maximum(width, height) <= _LONGEST) & (area >= 6) & (area > 0.12 * width * height)
    chosen[0] = False  # the background
    letters = chosen[labels].astype(np.uint8)
    return cv2.dilate(cv2.morphologyEx(letters, cv2.MORPH_CLOSE, _disc(_GAP * unit)), _disc(_MARGIN * unit)) > 0


def erase_markers(film: np.ndarray) -> np.ndarray:
    """A film ``(S, S)``, float32 in [0, 1], with its letters filled in from what lies around them (Telea 2004)."""
    mask = marker_mask(film)
    levels = np.round(film * 65535).astype(np.uint16)  # OpenCV's method is not right for float32
    filled = cv2.inpaint(levels, mask.astype(np.uint8), 4 * film.shape[0] / _SIDE, cv2.INPAINT_TELEA)
    return np.where(mask, filled.astype(np.float32) / 65535, film)


class EraseMarkersd(MapTransform):
    """:func:`~monai_cxr_vae.data.markers.erase_markers` of the films ``(1, S, S)`` under ``keys``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            film = result[key]
            erased = torch.from_numpy(erase_markers(np.asarray(convert_to_numpy(film), np.float32)[0])[None])
            result[key] = MetaTensor(erased, meta=film.meta) if isinstance(film, MetaTensor) else erased
        return result


def _disc(diameter: float) -> np.ndarray:
    size = max(1, 2 * round((diameter - 1) / 2) + 1)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
