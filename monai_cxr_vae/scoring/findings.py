"""Synthetic findings in normal films: what a chest may show that normal chests do not, drawn where it would be.

They teach and test the score of unusual films without a single label. Sizes are shares of the film's side S, so any S
will do; the functions of :data:`FINDINGS` are each a :class:`Finding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import cv2
import numpy as np

# Brightness of soft tissue and fluid relative to the film's own range.
_DENSE = 0.85
# A change below this share of the grey range is not called one.
_VISIBLE = 0.02


class Finding(Protocol):
    """A family of findings."""

    def __call__(self, film: np.ndarray, rng: np.random.Generator, /) -> tuple[np.ndarray, np.ndarray]:
        """Draw one into a film.

        Args:
            film: ``(S, S)`` float32 in [0, 1], bone bright, upright and frontal; it stays as it is.
            rng: places and shapes the finding.

        Returns:
            The changed film, ``(S, S)`` float32 in [0, 1], and where it was changed, ``(S, S)`` bool.
        """
        ...


def opacity(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Consolidation or ground glass: one to three soft patches in the lungs, semi-axes 0.05 to 0.25 of the side."""
    lung = lungs(film)
    cover = np.zeros_like(film)
    for _ in range(rng.integers(1, 4)):
        y, x = _place(lung, rng)
        patch = _ellipse(film.shape, y, x, rng.uniform(0.05, 0.25), rng.uniform(0.05, 0.25), rng.uniform(0, np.pi), rng)
        cover = np.maximum(cover, patch)
    cover *= np.clip(0.6 + 0.8 * _noise(film.shape, rng, rng.uniform(0.03, 0.12)), 0, 1.2)
    cover *= 0.25 + 0.75 * _blur(lung, 0.02)
    return _densify(film, cover * rng.uniform(0.15, 0.75), rng.uniform(0.0, 0.6))


def veil(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Edema or interstitial disease: fine-grained density over one or both lungs, stronger towards one end."""
    lung = _blur(lungs(film), 0.03)
    y, x = _axes(film.shape)
    if rng.random() < 0.4:
        lung = lung * ((x < 0.5) if rng.random() < 0.5 else (x > 0.5))
    slope = rng.uniform(-1, 1)
    cover = lung * np.clip(0.6 + slope * (y - 0.45) * 2, 0, 1.2)
    grain = _noise(film.shape, rng, rng.uniform(0.012, 0.03)) * rng.uniform(0.1, 0.6)
    patches = _noise(film.shape, rng, rng.uniform(0.08, 0.25)) * rng.uniform(0.0, 0.4)
    return _densify(film, np.clip(cover * (0.6 + grain + patches), 0, 1) * rng.uniform(0.12, 0.6), 0.3)


def effusion(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pleural fluid: one or both lungs dense in their lower 5 to 50%, below a line that climbs towards the outside."""
    lung = lungs(film) > 0.3
    y, x = _axes(film.shape)
    cover = np.zeros_like(film)
    for side in (0, 1) if rng.random() < 0.35 else (rng.integers(2),):
        half = (x < 0.5) if side == 0 else (x >= 0.5)
        rows = np.nonzero((lung & half).any(1))[0]
        if not len(rows):
            continue
        base, top = rows[-1] / len(film), rows[0] / len(film)
        level = base - rng.uniform(0.05, 0.5) * (base - top)
        outwards = (0.5 - x if side == 0 else x - 0.5) / 0.4
        line = level - rng.uniform(0, 0.25) * np.clip(outwards, 0, 1) ** 2
        inside = _sigmoid((y - line) / rng.uniform(0.008, 0.03)) * _sigmoid((base + 0.06 - y) / 0.02)
        cover = np.maximum(
            cover, inside * half * _sigmoid((outwards - 0.12) / 0.04) * _sigmoid((1.0 - outwards) / 0.04)
        )
    return _densify(film, _blur(cover, 0.01) * rng.uniform(0.5, 0.95), 0.5)


def nodules(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nodules and masses: one to six round densities, sharp or soft, radius about 0.015 to 0.07 of the side."""
    lung = lungs(film)
    cover = np.zeros_like(film)
    radius = rng.uniform(0.015, 0.07)
    for _ in range(1 if radius > 0.04 else rng.integers(1, 7)):
        y, x = _place(lung, rng)
        size = radius * rng.uniform(0.7, 1.3)
        cover = np.maximum(cover, _ellipse(film.shape, y, x, size, size * rng.uniform(0.8, 1.2), 0.0, rng, soft=0.3))
    return _densify(film, cover * rng.uniform(0.2, 0.7), 0.0)


def large_heart(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cardiomegaly: the middle of the lower chest 1.4 to 2.2 times as wide, the lungs pushed aside."""
    y, x = _axes(film.shape)
    cy, cx, width = rng.uniform(0.58, 0.68), rng.uniform(0.5, 0.56), rng.uniform(0.26, 0.34)
    push = rng.uniform(0.3, 0.55) * np.exp(-(((y - cy) / 0.2) ** 2)) * np.exp(-(((x - cx) / width) ** 4))
    return _moved(film, x - (x - cx) * push, y)


def volume_loss(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Atelectasis or a raised diaphragm: one base pulled up, or heart and trachea drawn to one side, or both.

    By 0.04 to 0.16 of the side upwards, 0.03 to 0.09 across.
    """
    y, x = _axes(film.shape)
    outwards = rng.choice([-1.0, 1.0])  # the side that has lost volume
    side = _sigmoid(outwards * (x - 0.5) / 0.06)
    kind = rng.random()
    up = rng.uniform(0.04, 0.16) * (kind < 0.75)
    across = rng.uniform(0.03, 0.09) * (kind > 0.5)
    pull = up * side * np.exp(-(((y - rng.uniform(0.62, 0.75)) / 0.2) ** 2))
    shift = across * np.exp(-(((x - 0.5) / 0.17) ** 2)) * np.exp(-(((y - rng.uniform(0.3, 0.7)) / 0.3) ** 2))
    return _moved(film, x - outwards * shift, y + pull)


def air(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pneumothorax: a dark, smooth rim at the outside of an upper lung with the pleura as a fine line.

    Up to 0.03 to 0.1 of the side wide; on a film without a lung an :func:`opacity` instead.
    """
    lung = lungs(film) * body(film) > 0.3
    y, x = _axes(film.shape)
    left = rng.random() < 0.5
    half = lung & ((x < 0.5) if left else (x >= 0.5))
    if not half.any():
        return opacity(film, rng)
    inside = cv2.distanceTransform(half.astype(np.uint8), cv2.DIST_L2, 3) / len(film)
    outer = ((0.5 - x) if left else (x - 0.5)) / 0.4
    rim = rng.uniform(0.03, 0.1) * np.clip(1.3 - y / rng.uniform(0.45, 0.8), 0, 1)
    cover = _blur((half & (inside < rim) & (outer > 0.2)).astype(np.float32), 0.006)
    smooth = _blur(film, 0.03)
    result = film + cover * (0.85 * smooth - rng.uniform(0.02, 0.08) - film)
    edge = np.exp(-(((inside - rim) / 0.006) ** 2)) * half * (rim > 0.01) * (outer > 0.2)
    result = np.clip(result + rng.uniform(0.03, 0.1) * edge, 0, 1).astype(np.float32)
    return result, np.abs(result - film) > _VISIBLE


def device(film: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One to four tubes, wires, electrodes, clips or pacemakers: bright, sharp and man-made."""
    size = len(film)
    scale = 4  # drawn large and reduced, so that a line may be thinner than a pixel
    canvas = np.zeros((size * scale, size * scale), np.float32)
    for _ in range(rng.integers(1, 5)):
        kind, value = rng.random(), float(rng.uniform(0.3, 1.0))
        y, x = rng.uniform(0.05, 0.9), rng.uniform(0.15, 0.85)
        if kind < 0.6:  # a tube or wire, a smooth curve
            steps = rng.normal(0, 0.08, (4, 2)) + rng.normal(0, 0.1, (1, 2))
            if kind < 0.3:  # one that comes from the neck or a shoulder and ends near the heart
                y, x = rng.uniform(0, 0.15), rng.uniform(0.25, 0.75)
                end = rng.uniform((0.3, 0.42), (0.8, 0.62))
                steps = (end - (y, x)) / 4 + rng.normal(0, 0.03, (4, 2))
            points = np.cumsum(np.concatenate([[[y, x]], steps]), 0)
            t = np.linspace(0, 4, 60)
            curve = np.stack([_smooth_curve(points[:, i], t) for i in (1, 0)], 1)
            thickness = max(1, round(rng.uniform(0.003, 0.012) * size * scale))
            cv2.polylines(
                canvas, [np.rint(curve * size * scale).astype(np.int32)], False, value, thickness, cv2.LINE_AA
            )
        elif kind < 0.85:  # an electrode or a button
            centre = (round(x * size * scale), round(y * size * scale))
            radius = max(2, round(rng.uniform(0.008, 0.025) * size * scale))
            cv2.circle(canvas, centre, radius, value, -1 if rng.random() < 0.5 else 2, cv2.LINE_AA)
        else:  # a pacemaker or a plate
            box = ((x * size * scale, y * size * scale), tuple(rng.uniform(0.05, 0.13, 2) * size * scale))
            corners = cv2.boxPoints((box[0], box[1], float(rng.uniform(0, 90))))
            cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], value, cv2.LINE_AA)
    cover = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    result = np.clip(film + cover * rng.uniform(0.1, 0.5), 0, 1).astype(np.float32)
    return result, np.abs(result - film) > _VISIBLE


def transplant(
    film: np.ndarray, rng: np.random.Generator, other: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A piece of another film, semi-axes 0.05 to 0.2 of the side, its border matched in brightness (after FPI and NSA).

    Args:
        film, rng: see :class:`Finding`.
        other: ``(S, S)`` film to take it from; None for the film's own mirror image.

    Returns:
        See :class:`Finding`.
    """
    other = film[:, ::-1] if other is None else other
    lung = _blur(lungs(film), 0.02)
    y, x = _place(lung, rng)
    cover = _ellipse(film.shape, y, x, rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.2), rng.uniform(0, np.pi), rng)
    dy, dx = np.rint(rng.normal(0, 0.12, 2) * len(film)).astype(int)
    donor = np.roll(other, (dy, dx), (0, 1))
    cover *= body(film)
    weight = cover / max(float(cover.sum()), 1e-6)
    shift = float((weight * (film - donor)).sum())
    result = film + cover * rng.uniform(0.5, 1.0) * (donor + rng.uniform(0.5, 1.0) * shift - film)
    result = np.clip(result, 0, 1).astype(np.float32)
    return result, np.abs(result - film) > _VISIBLE


FINDINGS: dict[str, Finding] = {
    function.__name__: function
    for function in (
        opacity,
        veil,
        effusion,
        nodules,
        large_heart,
        volume_loss,
        air,
        device,
        transplant,
    )
}


def add_findings(
    film: np.ndarray,
    rng: np.random.Generator,
    families: Sequence[str] | None = None,
    other: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one or two findings of random families into a film.

    Args:
        film: ``(S, S)`` float32 in [0, 1], bone bright, upright and frontal.
        rng: the source of all choices.
        families: names in :data:`FINDINGS` to draw from; all of them by default.
        other: another film, of which a transplant is taken; the film's own mirror image without one.

    Returns:
        The changed film, ``(S, S)`` float32 in [0, 1], and where it was changed, ``(S, S)`` bool.
    """
    drawn = FINDINGS if other is None else FINDINGS | {"transplant": partial(transplant, other=other)}
    names = list(families or FINDINGS)
    changed = np.zeros(film.shape, bool)
    for _ in range(1 if rng.random() < 0.6 else 2):
        film, where = drawn[names[rng.integers(len(names))]](film, rng)
        changed |= where
    return film, changed


def body(film: np.ndarray) -> np.ndarray:
    """Where the patient is, ``(S, S)`` float32 in [0, 1]: all but the dark air that reaches the film's border."""
    smooth = _blur(film, 0.008)
    low, high = np.quantile(smooth[::2, ::2], (0.01, 0.99))
    _, label = cv2.connectedComponents((smooth < low + 0.1 * (high - low)).astype(np.uint8))
    border = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
    air = np.isin(label, border[border > 0])
    if air.mean() > 0.45:  # it has leaked into the lungs
        return np.ones_like(film)
    return 1 - _blur(cv2.dilate(air.astype(np.float32), np.ones((3, 3))), 0.008)


def lungs(film: np.ndarray) -> np.ndarray:
    """Where lung is likely, ``(S, S)`` float32 in [0, 1]: dark areas where the lungs of frontal films lie."""
    y, x = _axes(film.shape)
    prior = np.zeros_like(film)
    for cx in (0.29, 0.71):
        prior = np.maximum(prior, np.exp(-((((x - cx) / 0.2) ** 2 + ((y - 0.43) / 0.36) ** 2) ** 2)))
    smooth = _blur(film, 0.02)
    middle = float((smooth * prior).sum() / prior.sum())
    spread = float(np.sqrt((prior * (smooth - middle) ** 2).sum() / prior.sum())) + 1e-3
    return (prior * _sigmoid((middle + 0.6 * spread - smooth) / (0.4 * spread))).astype(np.float32)


def _densify(film: np.ndarray, cover: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Pull towards the brightness of soft tissue, hiding texture as a dense region does, within the body."""
    cover = np.clip(cover, 0, 1) * body(film)
    dense = max(_DENSE * float(np.quantile(film[::4, ::4], 0.95)), 0.1)
    texture = film - _blur(film, 0.02)
    target = np.maximum(dense, film) + (1 - smoothing) * texture
    result = np.clip(film + cover * (target - film), 0, 1).astype(np.float32)
    return result, np.abs(result - film) > _VISIBLE


def _moved(film: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The film with each pixel taken from ``(x, y)``, shares of the side."""
    size = len(film)
    x, y = ((np.broadcast_to(a, film.shape) * size - 0.5).astype(np.float32) for a in (x, y))
    result = cv2.remap(film, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    result = np.clip(result, 0, 1).astype(np.float32)
    return result, _blur(np.abs(result - film), 0.01) > 2 * _VISIBLE


def _axes(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column positions of pixel centres, as shares of the side."""
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in shape)
    return y[:, None], x[None, :]


def _place(weight: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    flat = np.cumsum(weight, dtype=np.float64).ravel()
    index = int(np.searchsorted(flat, rng.random() * flat[-1]))
    y, x = divmod(min(index, weight.size - 1), weight.shape[1])
    return (y + 0.5) / weight.shape[0], (x + 0.5) / weight.shape[1]


def _ellipse(
    shape: tuple[int, ...],
    cy: float,
    cx: float,
    ry: float,
    rx: float,
    angle: float,
    rng: np.random.Generator,
    soft: float | None = None,
) -> np.ndarray:
    y, x = _axes(shape)
    c, s = np.cos(angle), np.sin(angle)
    u, v = ((x - cx) * c + (y - cy) * s) / rx, ((y - cy) * c - (x - cx) * s) / ry
    # The border is uneven; without a limit a place far away could count as the middle.
    distance = np.sqrt(u * u + v * v) * np.clip(1 + 0.35 * _noise(shape, rng, 0.12) * (soft is None), 0.4, None)
    return _sigmoid((1 - distance) / (rng.uniform(0.1, 0.4) if soft is None else soft * rng.uniform(0.2, 1)))


def _noise(shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth noise of unit variance whose grain is ``scale`` of the side."""
    cells = max(2, round(1 / scale))
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    noise = cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return noise / max(float(noise.std()), 1e-6)


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    return cv2.GaussianBlur(np.ascontiguousarray(image, dtype=np.float32), (0, 0), max(share * len(image), 0.3))


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -30, 30)))


def _smooth_curve(values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Catmull-Rom spline through ``values`` at 0, 1, 2, ..."""
    padded = np.concatenate([[2 * values[0] - values[1]], values, [2 * values[-1] - values[-2]]])
    i = np.clip(t.astype(int), 0, len(values) - 2)
    u = t - i
    a, b, c, d = (padded[i + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
