"""What people are shown of a film: a map laid over it in colour, a caption below it, small pictures for the report."""

from __future__ import annotations

import io
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

LIMIT = 0.5
# (map value, red, green, blue, opacity), linear in between.
_COLOURS = np.array(
    [(0, 1, 0.8, 0, 0), (0.25, 1, 0.8, 0, 0), (LIMIT, 1, 0.7, 0, 0.3), (LIMIT, 1, 0.2, 0, 0.35), (1, 0.9, 0, 0.1, 0.75)]
)
_LINE = (255, 255, 153)
_QUALITY, _EFFORT = 75, 2
BAND = 0.18  # of the film's height


def draw_heat(film: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map over a film, on one scale for all films.

    No colour below 0.25, amber from there to the limit of 0.5, red from the limit to 1; a line where the limit is
    crossed. Where there is no colour the film's grey is kept.

    Args:
        film: ``(H, W)`` in [0, 1].
        heat: ``(H, W)`` in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8, red, green, blue.
    """
    if film.ndim != 2 or film.shape != heat.shape or not (np.isfinite(film).all() and np.isfinite(heat).all()):
        raise ValueError("two finite (H, W) images on one grid are needed")
    film, heat = (np.clip(plane, 0, 1).astype(np.float32) for plane in (film, heat))
    colour, grey = _tables()
    level = (heat * 255).astype(np.uint8)
    kept = film * cv2.LUT(level, grey)
    picture = cv2.convertScaleAbs(cv2.add(cv2.LUT(cv2.merge([level] * 3), colour), cv2.merge([kept] * 3)))
    above = heat >= LIMIT
    width = 1 + max(film.shape) // 400
    inside = cv2.erode(above.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=width, borderValue=1)
    picture[above & (inside == 0)] = _LINE
    return picture


@lru_cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """For each of 256 values of the map: what is added to the picture, and what its grey is multiplied by."""
    at, *channels = _COLOURS.T
    *colour, opacity = (np.interp(np.arange(256) / 255, at, channel) for channel in channels)
    added = (np.stack(colour, axis=-1) * opacity[:, None] * 255)[:, None].astype(np.float32)
    return added, ((1 - opacity) * 255).astype(np.float32)


def captioned(picture: np.ndarray, *lines: str) -> np.ndarray:
    """Put a black band with white text below a picture, of which it covers nothing.

    The text is as large as the band allows, on one line or one below the other, so that it can be read in a thumbnail.

    Args:
        picture: ``(H, W)`` in [0, 1] or ``(H, W, 3)`` uint8.
        lines: short texts, in ASCII.

    Returns:
        ``(1.18 H, W)`` or ``(1.18 H, W, 3)`` of the same type, the first H rows unchanged.
    """
    height, width = picture.shape[:2]
    band = _band(max(1, round(BAND * height)), width, lines)
    below = band.astype(picture.dtype) if picture.dtype == np.uint8 else (band / 255).astype(picture.dtype)
    return np.concatenate([picture, below if picture.ndim == 2 else np.repeat(below[..., None], 3, axis=-1)])


@lru_cache(maxsize=64)
def _band(height: int, width: int, lines: tuple[str, ...]) -> np.ndarray:
    """``(height, width)`` uint8: white on black, a line on top where the film ends."""
    layouts = [lines, ("   ".join(lines),)]
    size, text = max((_largest(text, width, height), "\n".join(text)) for text in (tuple(layout) for layout in layouts))
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, width, 0), fill=255)
    place = (width / 2, (height + 1) / 2)
    spacing = size / 5
    draw.multiline_text(place, text, 255, ImageFont.load_default(size), "mm", spacing=spacing, align="center")
    return np.asarray(image)


def _largest(text: tuple[str, ...], width: int, height: int) -> float:
    """Size of the font at which the lines just fit, with a margin."""
    left, _, right, _ = ImageFont.load_default(100).getbbox(max(text, key=len))
    return max(1.0, min(0.94 * 100 * width / (right - left), 0.84 * height / len(text)))


def thumbnails(pictures: list[np.ndarray]) -> bytes:
    """Pictures of one height, ``(H, W)`` in [0, 1] or ``(H, W, 3)`` uint8, side by side as a WebP file."""
    coloured = [
        p if p.ndim == 3 else np.repeat(np.rint(np.clip(p, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
        for p in pictures
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(coloured, axis=1)).save(buffer, format="WEBP", quality=_QUALITY, method=_EFFORT)
    return buffer.getvalue()
