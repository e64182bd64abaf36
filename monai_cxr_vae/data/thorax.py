"""A procedural frontal thorax: the attenuation that an invented patient puts between an X-ray tube and the film."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

SIDE_MM = 394.0  # side of a square film; other shapes keep the area (a 5:6 film is 360 x 432 mm, the usual cassette)
WATER = 0.0185  # attenuation of soft tissue per mm at chest tube voltages; bone below is given as what it adds to it
AERATED = 0.78  # the share of a lung that is air
_HEART = 130.0  # width in mm, as seen against the lungs, of a heart of size 1, see Thorax.lungs

# Outlines in mm from the shoulder joint outwards and down.
_BLADE = (0, 0), (-38, -6), (-44, 30), (-22, 112), (-10, 106), (-2, 34)
_BLADE_SPINE = (-44, 30), (-10, -8), (14, -16)
_ARM = (4, -14), (40, -16), (52, 14), (70, 120), (46, 124), (26, 30), (2, 20)


class Canvas:
    """The film plane: x in mm from the midline towards the patient's left, y in mm down from the film's top edge.

    Args:
        shape: rows and columns of the film.
        zoom: magnification; 1 fills a square film of :data:`SIDE_MM`.
        shift: ``(2,)``, of the patient in mm.
        tilt: of the patient in radians.
    """

    def __init__(self, shape: tuple[int, int], zoom: float, shift: Sequence[float], tilt: float):
        self.shape = shape
        self.scale = float(np.sqrt(shape[0] * shape[1]) / SIDE_MM * zoom)
        turn = self.scale * np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        self.centre = np.array([0.0, SIDE_MM / 2]) - np.asarray(shift)
        self.matrix, self.offset = turn, np.array([shape[1] - 1, shape[0] - 1]) / 2 - turn @ self.centre
        columns, rows = np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32)[:, None]
        back = np.linalg.inv(turn).astype(np.float32)
        self.x, self.y = (
            back[k, 0] * (columns - np.float32(self.offset[0])) + back[k, 1] * (rows - np.float32(self.offset[1]))
            for k in (0, 1)
        )

    def film(self, across: float, down: float) -> np.ndarray:
        """A place of the film, ``across`` and ``down`` from -1 (left, top edge) to 1, in mm: ``(2,)``."""
        return self.centre + np.linalg.inv(self.matrix) @ (np.array([across, down]) * self.shape[::-1] / 2)

    def points(self, mm: ArrayLike) -> np.ndarray:
        """OpenCV's pixel positions of places in mm, both ``(..., 2)``: int32 with 4 fractional bits."""
        return np.rint((np.asarray(mm) @ self.matrix.T + self.offset) * 16).astype(np.int32)

    def empty(self) -> np.ndarray:
        """``(H, W)`` uint8, all 0."""
        return np.zeros(self.shape, np.uint8)

    def fill(self, mm: ArrayLike, value: float = 1.0, into: np.ndarray | None = None) -> np.ndarray:
        """Fill an outline.

        Args:
            mm: ``(N, 2)`` corners.
            value: in [0, 1], of 255.
            into: ``(H, W)`` uint8 to draw on; None for an empty one.

        Returns:
            ``(H, W)`` uint8, ``into`` itself if given.
        """
        into = self.empty() if into is None else into
        cv2.fillPoly(into, [self.points(mm)], round(255 * value), cv2.LINE_AA, 4)
        return into

    def lines(self, curves: ArrayLike, width: float, value: float, into: np.ndarray) -> None:
        """Draw strokes; one thinner than a pixel is drawn a pixel wide and fainter.

        Args:
            curves: ``(M, N, 2)`` points in mm.
            width: in mm.
            value: in [0, 1], of 255.
            into: ``(H, W)`` uint8 to draw on.
        """
        pixels = width * self.scale
        grey, thickness = round(255 * value * min(pixels, 1)), max(1, round(pixels))
        cv2.polylines(into, list(self.points(curves)), False, grey, thickness, cv2.LINE_AA, 4)

    def blur(self, image: np.ndarray, mm: float) -> np.ndarray:
        """Gaussian blur of ``(H, W)``, its standard deviation in mm; float32."""
        return cv2.GaussianBlur(image.astype(np.float32), (0, 0), max(mm * self.scale, 0.3))

    def haze(self, image: np.ndarray, mm: float) -> np.ndarray:
        """A wide Gaussian blur of ``(H, W)`` float32, its standard deviation in mm, taken at an eighth of the size."""
        small = cv2.resize(image, (self.shape[1] // 8, self.shape[0] // 8), interpolation=cv2.INTER_AREA)
        return cv2.resize(cv2.GaussianBlur(small, (0, 0), mm * self.scale / 8), self.shape[::-1])

    def solid(self, mm: ArrayLike, depth: float, edge: float) -> np.ndarray:
        """Thickness of a body that rounds off towards its outline.

        Args:
            mm: ``(N, 2)`` corners of the outline.
            depth: largest thickness in mm.
            edge: width in mm of the part that rounds off.

        Returns:
            ``(H, W)`` float32, mm.
        """
        distance = cv2.distanceTransform((self.fill(mm) > 127).view(np.uint8), cv2.DIST_L2, 5) / self.scale
        return depth * _chord(1 - distance / edge)

    def ellipsoid(
        self,
        centre: Sequence[float] | np.ndarray,
        radii: Sequence[float] | np.ndarray,
        depth: float,
        angle: float = 0.0,
    ) -> np.ndarray:
        """Thickness of an ellipsoid.

        Args:
            centre: ``(2,)`` in mm.
            radii: ``(2,)`` in mm, in the film plane.
            depth: largest thickness in mm.
            angle: of the first radius to x, in radians.

        Returns:
            ``(H, W)`` float32, mm.
        """
        x, y = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        c, s = np.array([np.cos(angle), np.sin(angle)], np.float32)
        u, v = (x * c + y * s) / np.float32(radii[0]), (y * c - x * s) / np.float32(radii[1])
        return np.float32(depth) * np.sqrt(np.maximum(1 - u * u - v * v, 0))


def _chord(u: np.ndarray) -> np.ndarray:
    """Height of the unit circle over ``u``, 1 left of its centre and 0 right of its edge."""
    return np.sqrt(1 - np.clip(u, 0, 1) ** 2)


def _smooth(outline: ArrayLike, rounds: int = 3) -> np.ndarray:
    """A closed outline with its corners cut (Chaikin)."""
    points = np.asarray(outline, float)
    for _ in range(rounds):
        after = np.roll(points, -1, 0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], 1).reshape(-1, 2)
    return points


def _mirror(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The outline of a body given by its right half from top to bottom."""
    return [*points, *[(-x, y) for x, y in points[::-1]]]


def _band(curve: np.ndarray, half: float | np.ndarray) -> np.ndarray:
    """The outlines (..., 2 N, 2) of bands of ``half`` width (mm) around curves (..., N, 2)."""
    along = np.gradient(curve, axis=-2)
    normal = np.stack([-along[..., 1], along[..., 0]], -1) / np.linalg.norm(along, axis=-1, keepdims=True)
    return np.concatenate([curve + normal * half, (curve - normal * half)[..., ::-1, :]], -2)


class Thorax:
    """One invented patient: sizes in mm drawn from ``rng``, then attenuation maps drawn on a canvas.

    Maps are ``(H, W)`` float, those of attenuation without a unit (line integrals), those of tissue and gas in mm.

    Args:
        rng: the source of all sizes, and of what each map varies by.
    """

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform
        self.rng = rng
        self.ap = rng.random() < 0.2
        self.woman = rng.random() < 0.5
        self.width = u(114, 138) - 6 * self.woman  # from the midline to the inside of the ribs
        self.apex, self.arch = u(44, 58), u(118, 132)
        self.domes = {-1: u(262, 306) - 22 * self.ap}  # -1 is the patient's right, the left of the picture
        self.domes[1] = self.domes[-1] + u(4, 20)
        self.turn = rng.normal(0, 0.05)  # rotation: structures in front shift against those behind
        # Its width over the chest's is below 0.5 on normal PA films (Danzer 1919); an AP film magnifies it.
        self.heart = u(0.42, 0.5) * (1.1 if self.ap else 1.0) * 2 * self.width / _HEART
        self.thick = u(185, 250)
        self.fat = u(8, 34)

    def lateral(self, y: float | np.ndarray) -> np.ndarray:
        """Distance in mm of the rib cage's inside from the midline at height ``y`` in mm."""
        t = np.clip((y - self.apex) / ((self.domes[-1] - self.apex) * 0.95), 0, 1)
        return self.width * np.sqrt(1 - (1 - t) * (1 - t) * (1 - t))

    def attenuation(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        """Line integrals of attenuation, and the depth of aerated lung in mm: both ``(H, W)`` float32."""
        soft = self.body(canvas)
        air, gas, lungs = self.lungs(canvas)
        grain = self.rng.standard_normal((90, 90), dtype=np.float32)
        fine = self.vessels(canvas) + 0.03 * cv2.resize(grain, canvas.shape[::-1], interpolation=cv2.INTER_CUBIC)
        bones = self.ribs(canvas) + self.spine(canvas) + self.shoulders(canvas)
        soft = canvas.blur(WATER * (soft - AERATED * air - gas) + fine * lungs, 0.8)
        return soft + canvas.blur(bones, 0.6), air

    def body(self, canvas: Canvas) -> np.ndarray:
        """Soft tissue in mm: trunk with shoulders and neck, breasts."""
        u, w = self.rng.uniform, self.width + 12 + self.fat
        neck, slope, pit = u(52, 64), u(18, 36), u(128, 165)
        trunk = [(neck, -60), (neck - 4, -8), (neck + 20, slope - 8), (150, slope + 10), (208, slope + 36), (250, 140)]
        trunk += [(w + 46, pit + 40), (w + 16, pit), (w, pit + 60), (w + 1, 300), (w + u(-8, 8), 380), (w, 520)]
        soft = canvas.solid(_smooth(_mirror(trunk), 2), self.thick, 62)
        heights = 0, 90, self.domes[-1] - 30, self.domes[-1] + 90
        soft *= np.interp(canvas.y, heights, (0.6, 1, 1, 1.2)).astype(np.float32)
        if self.woman:
            r = u(52, 72)
            for side in (-1, 1):
                centre = side * (self.width * 0.62 + u(0, 8)), self.domes[-1] - u(10, 40)
                soft += canvas.ellipsoid(centre, (r, r * u(0.9, 1.15)), r * 0.55)
        return soft

    def lungs(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Depth in mm of aerated lung and of other gas, and the lungs as a weight in [0, 1]: all ``(H, W)``."""
        x, y, u = canvas.x, canvas.y, self.rng.uniform
        outside = np.float32(1) * self.lateral(canvas.y)
        t = np.clip((y - self.apex) / np.float32(110), 0, 1)
        depth = (60 + 100 * t) * _chord(1 - (y - self.apex) / 28) * (self.thick / 215)
        k, arch, base = self.heart, self.arch, self.domes[-1]
        front = 45 * self.turn
        outline = [(22, 10), (25, arch - 45), (34, arch - 20), (39, arch), (33, arch + 17), (38 * k, arch + 34)]
        outline += [(44 * k, arch + 52), (60 * k, base - 70), (86 * k, base - 28), (90 * k, base + 6)]
        outline += [(58 * k, base + 30), (0, base + 40), (-38, base + 24), (-49 * k, base - 14), (-47 * k, base - 46)]
        outline += [(-33, arch + 46), (-31, arch), (-28, arch - 40), (-22, 10)]
        heart = canvas.solid(_smooth(np.add(outline, (front, 0))), 125 * k, 40)
        air = np.zeros(canvas.shape, np.float32)
        for side in (-1, 1):
            inside = 20 + 20 * np.exp(-4 * t)
            s = np.clip((side * x - inside) / np.maximum(outside - inside, 1), 0, 1)
            profile = np.sqrt(np.minimum(1, 9 * s)) * _chord((s - 0.25) / 0.75)
            v = np.maximum(side * x - np.float32(0.52 * self.width), -60) / np.float32(0.48 * self.width)
            dome = self.domes[side] + v * v * np.where(v > 0, u(34, 52) * v, u(8, 18)) - u(2, 8)
            below = (y - dome).astype(np.float32)
            lung = depth * profile * (outside > inside) * np.where(below < 0, 1, 0.16 * np.exp(-np.abs(below) / 22))
            air += np.where(side * x > 0, np.maximum(lung - heart * (below < 0), 0), 0)
        left = self.domes[1]
        gas = canvas.ellipsoid((u(52, 96), left + u(20, 34)), (u(12, 34), u(9, 20)), u(20, 60), u(-0.4, 0.4))
        gas *= np.clip((left + u(24, 50) - y) * 0.7, 0, 1)  # the stomach bubble ends at the fluid's level
        for _ in range(self.rng.integers(0, 5)):
            gas += canvas.ellipsoid((u(-110, 120), base + u(70, 120)), (u(6, 16), u(5, 12)), u(8, 30), u(-1, 1))
        trachea, carina, lean = u(7, 9.5), arch + 22, u(0, 5) + front * 0.3
        tube = _band(np.array([(lean * 0.5, -20), (0, 40), (-lean, arch), (-lean, carina)]), trachea)
        gas += canvas.solid(tube, 2.4 * trachea, trachea)
        for side, drop in ((-1, 40), (1, 26)):
            bronchus = [(-lean, carina - 4), (side * 18 - lean, carina + drop * 0.5), (side * 34, carina + drop)]
            gas += 0.7 * canvas.solid(_band(np.array(bronchus), np.linspace(6.5, 4, 3)[:, None]), 11, 6)
        return air, gas, np.clip(air / 110, 0, 1) ** 2

    def vessels(self, canvas: Canvas) -> np.ndarray:
        """Pulmonary vessels as attenuation: trees that fork from the hila and taper."""
        rng, drawn, front = self.rng, canvas.empty(), 20 * self.turn
        levels: list[np.ndarray] = []
        for side in (-1, 1):
            hilum = np.array([side * 36.0 + front, self.arch + (38 if side < 0 else 29)])
            angle = np.linspace(-1.3, 1.5, 13) + rng.normal(0, 0.13, 13)
            start = hilum + np.stack([0 * angle, 15 * angle], 1) + rng.normal(0, 3, (13, 2))
            length = rng.uniform(22, 42, 13)
            for _ in range(6):
                bend = angle + rng.normal(0, 0.22, len(angle))
                step = [0.5 * length[:, None] * np.stack([side * np.cos(a), np.sin(a)], 1) for a in (angle, bend)]
                levels.append(np.stack([start, start + step[0], start + step[0] + step[1]], 1))
                fork = rng.uniform(0.15, 0.6, (2, len(angle))) * ((1,), (-1,))
                start, angle = np.tile(levels[-1][:, 2], (2, 1)), (bend + fork).ravel()
                length = np.tile(length, 2) * rng.uniform(0.5, 0.95, len(angle))
        for level in range(5, -1, -1):  # the finest first: the wide ones lie on top
            for tree in (levels[level], levels[level + 6]):
                canvas.lines(tree, 4.4 * 0.7**level, 0.9 * 0.74**level, drawn)
        hila = sum(canvas.ellipsoid((s * 38 + front, self.arch + 39 - 5 * s), (14, 27), 0.2, -0.3 * s) for s in (-1, 1))
        return rng.uniform(0.35, 0.6) / np.float32(255) * drawn + hila

    def ribs(self, canvas: Canvas) -> np.ndarray:
        """What the ribs add to the attenuation: each is a tilted ellipse round the chest."""
        rng, u = self.rng, self.rng.uniform
        back, front, edge = canvas.empty(), canvas.empty(), canvas.empty()
        pitch, drop, half = (self.domes[-1] + 50 - self.apex) / 10.5, u(62, 88), u(4.6, 5.8)
        number = np.arange(11)
        top = self.apex - 12 + pitch * number + rng.uniform(-1.5, 1.5, 11)
        fall = drop * (0.66 + 0.05 * number)
        reach = self.lateral(top + 0.42 * fall) + 3
        bright = np.array([0.7, *[1.0] * 8, 0.7, 0.5])
        # The angle runs from the spine (0) round the side to the sternum; film, from, to, steps, half width, ribs.
        parts = ((back, 0.05, 1.62, 26, half, 11), (front, 1.52, 2.5, 16, 1.2 * half, 7), (edge, 1.1, 2.0, 14, 0, 11))
        for drawn, start, stop, steps, wide, count in parts:
            a = np.linspace(start, stop, steps)
            thin = wide * (0.4 + 0.6 * np.abs(np.cos(a)) ** 0.6)[:, None]
            y = (top[:, None] + fall[:, None] * (1 - np.cos(a)) / 2 - 5 * np.sin(2 * a))[:count]
            for side in (-1, 1):
                x = side * (4 + reach[:count, None] * np.sin(a) ** 0.85) - 75 * self.turn * np.cos(a)
                curves = np.stack([x, y], 2)
                if drawn is edge:
                    canvas.lines(curves, 3, 0.9, drawn)
                    continue
                for outer, inner, value in zip(_band(curves, thin), _band(curves, 0.68 * thin), bright, strict=False):
                    canvas.fill(outer, value, drawn)
                    canvas.fill(inner, 0.6 * value, drawn)
        return (0.36 * back + 0.2 * front + 0.2 * canvas.blur(edge, 1.6)) / np.float32(255)

    def spine(self, canvas: Canvas) -> np.ndarray:
        """What the vertebrae add: bodies, end plates, pedicles, transverse and spinous processes."""
        bodies, details = canvas.empty(), canvas.empty()
        sway, phase, y = self.rng.uniform(0, 5), self.rng.uniform(0, 6), -20.0
        while y < 460:
            x, tall = sway * np.sin(y / 90 + phase) - 40 * self.turn, 15 + 15 * np.clip((y + 20) / 380, 0, 1)
            wide = 12.5 + 9 * np.clip((y - 20) / 330, 0, 1)
            right = np.array([(wide, 0), (wide - 1.5, tall / 2), (wide, tall)])
            box = np.add(np.concatenate([right, right[::-1] * (-1, 1)]), (x, y))
            canvas.fill(box, 0.62, bodies)
            canvas.lines([box[[0, 5]], box[[2, 3]]], 1.5, 0.6, details)
            for side in (-wide, wide):
                canvas.lines([[(x + 0.6 * side, y + 0.3 * tall), (x + 0.6 * side, y + 0.55 * tall)]], 4.2, 0.7, details)
                canvas.lines([[(x + side, y + 0.35 * tall), (x + 1.7 * side, y + 0.2 * tall)]], 6, 0.3, details)
            canvas.lines([[(x, y + 0.7 * tall), (x, y + 1.05 * tall)]], 4.5, 0.7, details)
            y += tall + 3.5 + 2 * np.clip(y / 300, 0, 1)
        return (0.36 * bodies + 0.2 * details) / np.float32(255)

    def shoulders(self, canvas: Canvas) -> np.ndarray:
        """What clavicles, shoulder blades and upper arms add."""
        u, clavicles, arms = self.rng.uniform, canvas.empty(), canvas.empty()
        lift = u(-6, 14) + 12 * self.ap
        steps = np.linspace(0, 1, 25)
        wide = np.interp(steps, [0, 0.2, 0.6, 1], [8, 5.5, 5, 4])[:, None]
        for side in (-1, 1):
            c = self.apex + 22 - lift * 0.3 + u(-4, 4)
            y = np.interp(steps, (0, 0.17, 0.4, 0.63, 1), c + np.array([9, -1, -8, -14, -12]) - steps[::6] * 0.6 * lift)
            y[1:-1] = (y[:-2] + y[1:-1] + y[2:]) / 3
            clavicle = np.stack([side * (13 + 145 * steps) + 70 * self.turn, y], 1)
            canvas.fill(_band(clavicle, wide), 0.9, clavicles)
            canvas.fill(_band(clavicle, 0.65 * wide), 0.6, clavicles)
            joint = np.array([side * (self.width + u(18, 30) - 22 * self.ap), c - 12 - lift * 0.5])
            blade, spine, arm = (joint + np.array(part) * (side, 1) for part in (_BLADE, _BLADE_SPINE, _ARM))
            canvas.fill(blade, 0.2, arms)
            canvas.lines([blade[[3, 4, 5, 0]]], 3, 0.5, arms)
            canvas.lines([spine], 5, 0.4, arms)
            canvas.fill(_smooth(arm), 0.85, arms)
        return (0.5 * clavicles + 0.5 * canvas.blur(arms, 0.8)) / np.float32(255)

    def shadow(self, canvas: Canvas, finding: str, air: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Attenuation that a finding adds.

        Args:
            canvas: the film plane.
            finding: of :data:`monai_cxr_vae.data.phantom.FINDINGS`.
            air: ``(H, W)``, depth of aerated lung in mm, of :meth:`attenuation`.
            rng: places and shapes it.

        Returns:
            ``(H, W)`` float32, what is added to the line integrals.
        """
        u, side = rng.uniform, rng.choice((-1, 1))
        y = u(self.arch - 20, self.domes[-1] - 35)
        centre = side * self.lateral(y) * u(0.5, 0.8), y
        if finding == "nodule":
            r = u(7, 15)
            added = canvas.ellipsoid(centre, (r, r * u(0.85, 1.15)), 2 * r * WATER * 1.6, u(-1, 1))
        elif finding == "opacity":
            added = np.zeros(canvas.shape, np.float32)
            for _ in range(5):
                patch = canvas.ellipsoid(centre + rng.normal(0, 14, 2), u(14, 32, 2), u(0.25, 0.5), u(-1, 1))
                added = np.maximum(added, patch)
            added = np.minimum(added, WATER * AERATED * air)
        else:
            outwards = np.clip(side * canvas.x / np.float32(self.width), 0, 1)
            level = self.domes[side] + u(-5, 25) - u(40, 90) * outwards * outwards * outwards
            fluid = np.clip((canvas.y - level) / 6, 0, 1) * (side * canvas.x > 30)
            added = (WATER * AERATED * air * fluid).astype(np.float32)
        return canvas.blur(added, 0.8)
