"""Synthetic faults of films: what an intake gate should stop, made from films that it should let pass.

The functions of :data:`FAULTS` are each a :class:`Fault`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np


class Fault(Protocol):
    """A family of faults."""

    def __call__(self, film: np.ndarray, rng: np.random.Generator, /) -> np.ndarray:
        """Make a film faulty.

        Args:
            film: ``(S, S)`` float32 in [0, 1], bone bright, upright and frontal; it stays as it is.
            rng: chooses and shapes the fault.

        Returns:
            ``(S, S)``, whose values may leave [0, 1]; :func:`add_fault` clips them.
        """
        ...


def turned(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotated by a quarter or half turn, or upside down."""
    turn = int(rng.integers(4))
    return film[::-1] if turn == 0 else np.rot90(film, turn)


def mirrored(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Left and right exchanged."""
    return film[:, ::-1]


def tilted(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotated by 10 to 45 degrees either way, at 0.8 to 1.1 times the size."""
    angle = rng.uniform(10, 45) * rng.choice([-1, 1])
    centre = (film.shape[1] / 2 - 0.5, film.shape[0] / 2 - 0.5)
    matrix = cv2.getRotationMatrix2D(centre, float(angle), float(rng.uniform(0.8, 1.1)))
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    return cv2.warpAffine(film, matrix, film.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=border)


def inverted(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bone dark instead of bright."""
    return 1 - film


def blank(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """No picture: one grey, or a ramp."""
    level, slope = rng.random(), rng.uniform(-0.5, 0.5) * (rng.random() < 0.5)
    return np.clip(level + slope * np.linspace(-1, 1, len(film), dtype=np.float32)[:, None] + 0 * film, 0, 1)


def noisy(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of standard deviation 0.02 to 0.4 over the film, or nothing but noise."""
    if rng.random() < 0.25:
        return rng.random(film.shape, dtype=np.float32)
    return film + rng.standard_normal(film.shape, dtype=np.float32) * np.exp(rng.uniform(np.log(0.02), np.log(0.4)))


def cropped(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Only 0.25 to 0.8 of the side, or the whole chest at 0.35 to 0.75 of its size in a wide frame."""
    size = len(film)
    if rng.random() < 0.25:
        inner = round(size * rng.uniform(0.35, 0.75))
        small = cv2.resize(film, (inner, inner), interpolation=cv2.INTER_AREA)
        top, left = rng.integers(0, size - inner + 1, 2)
        frame = np.full_like(film, 0.0 if rng.random() < 0.7 else rng.random())
        frame[top : top + inner, left : left + inner] = small
        return frame
    inner = round(size * rng.uniform(0.25, 0.8))
    top, left = rng.integers(0, size - inner + 1, 2)
    return cv2.resize(film[top : top + inner, left : left + inner], (size, size), interpolation=cv2.INTER_LINEAR)


def blurred(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus, or moved during the exposure: a Gaussian blur of 0.006 to 0.05 of the side."""
    blur = len(film) * np.exp(rng.uniform(np.log(0.006), np.log(0.05)))
    return cv2.GaussianBlur(film, (0, 0), float(blur), sigmaY=float(blur * (1 if rng.random() < 0.7 else 0.2)))


def dark(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Under-exposed, or shown with a window far too wide: 0.15 to 0.7 of the intensity."""
    return film * rng.uniform(0.15, 0.7)


def bright(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Over-exposed, the upper end clipped: 1.4 to 3 times the intensity, or 0.25 to 0.6 more of it."""
    return film * rng.uniform(1.4, 3) if rng.random() < 0.5 else film + rng.uniform(0.25, 0.6)


def bent(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wrong gamma: an exponent of 1.5 to 3, or its inverse."""
    return film ** np.exp(rng.uniform(np.log(1.5), np.log(3)) * rng.choice([-1, 1]))


def flat(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Low contrast: 0.15 to 0.6 of the film's own."""
    return film.mean() + (film - film.mean()) * rng.uniform(0.15, 0.6)


def covered(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0.15 to 0.5 of the side hidden by a bar along a border, or by a square plate."""
    turns, size = int(rng.integers(4)), len(film)
    result = np.rot90(film, turns).copy()  # each side has its turn
    extent, value = round(size * rng.uniform(0.15, 0.5)), rng.choice([0.0, 1.0, rng.random()])
    if rng.random() < 0.6:
        result[:extent] = value
    else:
        top, left = rng.integers(0, size - extent + 1, 2)
        result[top : top + extent, left : left + extent] = value
    return np.rot90(result, -turns)


FAULTS: dict[str, Fault] = {
    function.__name__: function
    for function in (
        turned,
        mirrored,
        tilted,
        inverted,
        blank,
        noisy,
        cropped,
        blurred,
        dark,
        bright,
        bent,
        flat,
        covered,
    )
}


def add_fault(film: np.ndarray, rng: np.random.Generator, families: Sequence[str] | None = None) -> np.ndarray:
    """Add a fault of a random family.

    Args:
        film: ``(S, S)`` in [0, 1].
        rng: chooses and shapes it.
        families: names in :data:`FAULTS`; None for all.

    Returns:
        ``(S, S)`` float32 in [0, 1].
    """
    names = list(families or FAULTS)
    faulty = FAULTS[names[rng.integers(len(names))]](film, rng)
    return np.ascontiguousarray(np.clip(faulty, 0, 1), dtype=np.float32)
