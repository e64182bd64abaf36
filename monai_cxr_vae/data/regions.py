"""Regions of a heat map above a threshold: what a report or an overlay can point at."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from monai_cxr_vae.data.pictures import LIMIT


@dataclass(frozen=True)
class Region:
    """One connected region of a heat map.

    Attributes:
        peak: the map's largest value in it.
        place: row and column of that pixel.
        area: number of pixels.
        mask: ``(H, W)`` bool.
        outline: ``(n, 2)`` rows and columns of the pixels along its outer border, in order, the first not repeated.
    """

    peak: float
    place: tuple[int, int]
    area: int
    mask: np.ndarray
    outline: np.ndarray


def regions(heat: np.ndarray, threshold: float = LIMIT) -> list[Region]:
    """The connected regions, corners included, whose values exceed a threshold, the hottest first.

    Args:
        heat: ``(H, W)`` in [0, 1], as :func:`monai_cxr_vae.scoring.score` makes it or resampled to a film's size.
        threshold: in [0, 1].
    """
    count, labels = cv2.connectedComponents((heat > threshold).astype(np.uint8), connectivity=8)
    found = []
    for label in range(1, count):
        mask = labels == label
        y, x = divmod(int(np.where(mask, heat, -1).argmax()), heat.shape[1])
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        found.append(Region(float(heat[y, x]), (y, x), int(mask.sum()), mask, contours[0][:, 0, ::-1]))
    return sorted(found, key=lambda region: -region.peak)
