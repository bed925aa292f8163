"""Procedural materials: each paints a square of itself, with its own random scale, angle and tint.

``material(rng, size) -> (size, size, 3) float32 in [0, 1]``. Lengths are relative to ``size``, so that a material
looks the same at every resolution. ``numpy.random.RandomState`` is used throughout, because its stream is frozen
by numpy's compatibility policy: the same seed draws the same image with every numpy version.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from PIL import Image


class Canvas:
    """What a material is painted on: a square of which only some pixels are asked for.

    Random numbers are drawn, and ranges taken, over the whole square, so that a pixel looks the same whatever else is
    asked for. All other arithmetic is done for the pixels asked for only.

    Args:
        rng: source of randomness.
        size: side of the square in pixels.
        pixels: indices of the pixels asked for in the flattened square; default: all. Everything has their shape.
    """

    def __init__(self, rng: RandomState, size: int, pixels: np.ndarray | None = None) -> None:
        self.rng, self.size = rng, size
        self._pixels = np.arange(size**2) if pixels is None else pixels

    def grain(self) -> np.ndarray:
        """A random number in [0, 1) for each pixel."""
        return self.rng.rand(self.size**2).take(self._pixels)

    def noise(self, cells: float, octaves: int = 1) -> np.ndarray:
        """Smooth value noise in [0, 1], with about ``cells`` bumps along a side."""
        total = np.zeros((self.size, self.size), np.float32)
        for octave in range(octaves):
            n = max(2, round(cells * 2**octave))
            grid = Image.fromarray(self.rng.rand(n + 1, n + 1).astype(np.float32))
            total += np.asarray(grid.resize(total.shape, Image.Resampling.BICUBIC)) * 0.5**octave
        low, high = total.min(), total.max()
        return (total.take(self._pixels) - low) / max(high - low, 1e-6)

    def plane(self, max_angle: float = np.pi) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (u, v) in units of the side, turned by a random angle within +-max_angle, shifted at random."""
        return self._plane(max_angle)[0]

    def cells(self, count: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Jittered cell centres: distance to the nearest and second nearest (in cells), the nearest's random number."""
        (u, v), corners = self._plane(np.pi)
        x, y, corner_x, corner_y = u * count, v * count, corners[0] * count, corners[1] * count
        left, top = np.floor(corner_x.min()), np.floor(corner_y.min())
        x, y = x - left + 1, y - top + 1
        side = int(max((corner_x - left + 1).max(), (corner_y - top + 1).max())) + 3
        jitter, number = self.rng.uniform(0.15, 0.85, (side, side, 2)), self.rng.rand(side, side)
        line = np.arange(side)
        centre_x, centre_y = line + jitter[..., 0], line[:, None] + jitter[..., 1]
        home = y.astype(int) * side + x.astype(int)
        first, second = np.full(home.shape, 9.0), np.full(home.shape, 9.0)
        nearest = home.copy()
        for step in (dy * side + dx for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
            cell = home + step
            distance = np.hypot(centre_x.take(cell) - x, centre_y.take(cell) - y)
            nearest += (cell - nearest) * (distance < first)
            np.minimum(second, np.maximum(first, distance), out=second)
            np.minimum(first, distance, out=first)
        return first, second, number.take(nearest)

    def _plane(self, max_angle: float) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """:meth:`plane`, and the same for the four corners of the square.

        Along a row and along a column u and v only grow or only fall, and rounding keeps that: their least and
        largest values in the square are exactly those of the corners.
        """
        angle = self.rng.uniform(-max_angle, max_angle)
        line = np.arange(self.size).astype(np.float32) / self.size
        cosine, sine = line * np.cos(angle), line * np.sin(angle)
        shift_u, shift_v = self.rng.rand(), self.rng.rand()

        def turned(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            u, v = cosine.take(columns) + sine.take(rows), cosine.take(rows) - sine.take(columns)
            return u + shift_u, v + shift_v

        end = self.size - 1
        rows = self._pixels // self.size
        return turned(rows, self._pixels - rows * self.size), turned(
            np.array([0, 0, end, end]), np.array([0, end, 0, end])
        )


Material = Callable[[Canvas], np.ndarray]


def colour(*rgb: float) -> np.ndarray:
    """One colour for all pixels, (3, 1)."""
    return np.array(rgb, np.float32)[:, None]


def blend(weight: np.ndarray, *colours: tuple[float, float, float]) -> np.ndarray:
    """Colours along ``weight`` in [0, 1]: the first at 0, the last at 1, linear between."""
    stops, table = np.linspace(0, 1, len(colours)), np.asarray(colours, np.float32).T
    mixed = np.empty((3, *weight.shape), np.float32)
    for channel, values in zip(mixed, table, strict=True):
        channel[:] = np.interp(weight, stops, values)
    return mixed


def fraction(x: np.ndarray) -> np.ndarray:
    """``x % 1``, which numpy computes twenty times as slowly."""
    return x - np.floor(x)


def to_whole(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number."""
    rest = fraction(x)
    return np.minimum(rest, 1 - rest)


def odd(whole: np.ndarray) -> np.ndarray:
    """1 where a whole number is odd, 0 where it is even."""
    return whole - 2 * np.floor(whole / 2)


def soft(distance: np.ndarray, size: int) -> np.ndarray:
    """1 where ``distance`` (in sides) is negative, 0 where it is positive, with an edge about a pixel wide."""
    return np.clip(0.5 - distance * size, 0, 1)


def grass(canvas: Canvas) -> np.ndarray:
    u, _v = canvas.plane(0.3)
    blades = np.sin(u * canvas.rng.uniform(150, 220) + 6 * canvas.noise(12)) * 0.25 + canvas.noise(40) * 0.75
    return blend(np.clip(blades, 0, 1), (0.05, 0.25, 0.04), (0.2, 0.55, 0.1), (0.5, 0.8, 0.25))


def water(canvas: Canvas) -> np.ndarray:
    _, v = canvas.plane(0.2)
    waves = np.sin(v * canvas.rng.uniform(50, 90) + 7 * canvas.noise(5)) * 0.5 + 0.5
    return blend(waves * 0.7 + 0.3 * canvas.noise(6), (0.02, 0.15, 0.4), (0.1, 0.4, 0.65), (0.65, 0.85, 0.95))


def sand(canvas: Canvas) -> np.ndarray:
    _, v = canvas.plane(0.6)
    ripples = np.sin(v * canvas.rng.uniform(35, 60) + 5 * canvas.noise(4)) * 0.5 + 0.5
    grain = canvas.grain()
    return blend(0.5 * ripples + 0.25 * canvas.noise(4) + 0.25 * grain, (0.65, 0.5, 0.3), (0.95, 0.85, 0.6))


def snow(canvas: Canvas) -> np.ndarray:
    drifts = canvas.noise(3, 2)
    sparkle = (canvas.grain() > 0.98) * 0.2
    return np.clip(blend(drifts, (0.75, 0.82, 0.92), (0.97, 0.98, 1.0)) + sparkle, 0, 1)


def brick(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.15)
    rows, joint = canvas.rng.uniform(9, 15), canvas.rng.uniform(0.08, 0.13)
    row = np.floor(v * rows)
    x = u * rows * 0.5 + 0.5 * odd(row)
    gap = np.minimum(to_whole(x) * 2, to_whole(v * rows)) < joint
    tint = canvas.rng.rand(64, 64)[row.astype(int) % 64, np.floor(x).astype(int) % 64]
    clay = blend(0.7 * tint + 0.3 * canvas.noise(30), (0.45, 0.13, 0.08), (0.8, 0.35, 0.22))
    return np.where(gap, np.float32(0.75), clay)


def wood(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.3)
    rings = np.sin((v * canvas.rng.uniform(8, 14) + 1.5 * canvas.noise(3) + 0.15 * np.sin(u * 9)) * 6.28) * 0.5 + 0.5
    planks = to_whole(v * 5) < 0.03
    grain = blend(0.7 * rings + 0.3 * canvas.noise(20), (0.35, 0.19, 0.08), (0.72, 0.48, 0.25))
    return np.where(planks, grain * 0.4, grain)


def gravel(canvas: Canvas) -> np.ndarray:
    first, second, number = canvas.cells(canvas.rng.uniform(13, 19))
    stone = blend(number, (0.35, 0.35, 0.35), (0.6, 0.57, 0.53), (0.8, 0.8, 0.8))
    return stone * np.clip((second - first) * 4, 0.15, 1) * np.clip(1.1 - 0.5 * first, 0, 1)


def lava(canvas: Canvas) -> np.ndarray:
    first, second, _ = canvas.cells(canvas.rng.uniform(5, 8))
    crack = np.clip(1 - (second - first) * 3 + 0.4 * (canvas.noise(12) - 0.5), 0, 1)
    return blend(crack, (0.1, 0.05, 0.05), (0.3, 0.05, 0.02), (0.95, 0.3, 0.02), (1.0, 0.9, 0.3))


def clouds(canvas: Canvas) -> np.ndarray:
    cover = np.clip(canvas.noise(canvas.rng.uniform(3, 5), 4) * 2.4 - 0.8, 0, 1)
    return blend(cover, (0.35, 0.6, 0.92), (0.75, 0.85, 0.97), (1.0, 1.0, 1.0))


def marble(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane()
    vein = np.abs(np.sin((u + v * 0.3) * canvas.rng.uniform(9, 15) + 7 * canvas.noise(4, 3)))
    return blend(np.clip(vein * 1.8, 0, 1), (0.35, 0.38, 0.4), (0.88, 0.87, 0.85), (0.97, 0.96, 0.94))


def zebra_stripes(canvas: Canvas) -> np.ndarray:
    u, _ = canvas.plane()
    stripes = np.sin(u * canvas.rng.uniform(60, 90) + 4 * canvas.noise(4))
    return blend(np.clip(stripes * 4 + 0.5, 0, 1), (0.04, 0.04, 0.05), (0.96, 0.95, 0.93))


def leopard_spots(canvas: Canvas) -> np.ndarray:
    first, _, _number = canvas.cells(canvas.rng.uniform(9, 13))
    radius = first + 0.12 * (canvas.noise(30) - 0.5)
    ring = np.exp(-(((radius - 0.3) / 0.09) ** 2))
    fur = blend(np.clip(1.2 - radius * 1.6, 0, 1), (0.88, 0.68, 0.35), (0.62, 0.38, 0.12))
    return fur * (1 - ring) + ring * np.float32(0.08)


def polka_dots(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.8)
    count = canvas.rng.uniform(9, 13)
    row = np.floor(v * count)
    distance = np.hypot(fraction(u * count + 0.5 * odd(row)) - 0.5, fraction(v * count) - 0.5)
    cloth = colour(*[(0.85, 0.1, 0.3), (0.9, 0.25, 0.45), (0.75, 0.05, 0.2)][canvas.rng.randint(3)])
    return cloth + (1 - cloth) * soft((distance - 0.3) / count, canvas.size)


def checkerboard(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.5)
    count = canvas.rng.uniform(9, 14)
    dark = odd(np.floor(u * count) + np.floor(v * count))
    return blend(dark, (0.95, 0.95, 0.92), (0.06, 0.06, 0.08))


def tartan(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.2)
    count = canvas.rng.uniform(4, 6)

    def threads(t: np.ndarray) -> np.ndarray:
        return blend(fraction(t * count), (0.65, 0.06, 0.08), (0.65, 0.06, 0.08), (0.05, 0.25, 0.12), (0.05, 0.1, 0.3))

    weave = odd(np.floor(u * canvas.size / 2) + np.floor(v * canvas.size / 2)) * 0.12 + 0.44
    line = np.minimum(fraction(u * count), fraction(v * count)) < 0.05
    cloth = threads(u) * weave + threads(v) * (1 - weave)
    return np.where(line, colour(0.95, 0.85, 0.25), cloth)


def honeycomb(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane()
    x, y = u * canvas.rng.uniform(10, 14), v * canvas.rng.uniform(10, 14)
    a = np.stack([fraction(x) - 0.5, y % np.sqrt(3) - np.sqrt(3) / 2])
    b = np.stack([fraction(x - 0.5) - 0.5, (y - np.sqrt(3) / 2) % np.sqrt(3) - np.sqrt(3) / 2])
    nearest = np.abs(np.where((a**2).sum(0) < (b**2).sum(0), a, b))
    edge = 0.5 - np.maximum(nearest[0], nearest[0] * 0.5 + nearest[1] * np.sqrt(3) / 2)
    return blend(np.clip(edge * 5, 0, 1), (1.0, 0.82, 0.3), (0.75, 0.45, 0.05), (0.4, 0.2, 0.02))


def fish_scales(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.4)
    count = canvas.rng.uniform(9, 13)
    y = v * count * 1.6
    shade = np.zeros(y.shape, np.float32)
    for lift in (2, 1, 0):
        row = np.floor(y) - lift
        distance = np.hypot(fraction(u * count + 0.5 * odd(row)) - 0.5, (y - row) / 1.6 * 0.8 - 0.1)
        shade = np.where(distance < 0.62, np.clip(1.15 - distance * 1.7, 0, 1), shade)
    return blend(shade, (0.02, 0.2, 0.25), (0.1, 0.6, 0.6), (0.75, 0.95, 0.85))


def denim(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.2)
    twill = np.sin((u + v) * canvas.rng.uniform(190, 240)) * 0.3 + canvas.grain() * 0.3
    return blend(np.clip(0.3 + twill + 0.3 * canvas.noise(4), 0, 1), (0.06, 0.1, 0.28), (0.45, 0.55, 0.75))


def rust(canvas: Canvas) -> np.ndarray:
    patches = canvas.noise(canvas.rng.uniform(5, 9), 4)
    return blend(patches, (0.35, 0.42, 0.45), (0.42, 0.3, 0.25), (0.55, 0.22, 0.05), (0.85, 0.42, 0.1))


def rainbow(canvas: Canvas) -> np.ndarray:
    u, _ = canvas.plane()
    hue = fraction(u * canvas.rng.uniform(3, 5) + 0.15 * canvas.noise(3))
    return np.clip(np.abs((hue * 6 + colour(0, 4, 2)) % 6 - 3) - 1, 0, 1) * 0.85 + 0.1


def tiger_stripes(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.5)
    stripes = np.sin(v * canvas.rng.uniform(50, 75) + 9 * canvas.noise(6)) + 0.8 * np.sin(u * 17)
    return blend(np.clip(stripes * 2.5 + 0.1, 0, 1), (0.95, 0.5, 0.1), (0.05, 0.03, 0.02))


def mosaic(canvas: Canvas) -> np.ndarray:
    first, second, number = canvas.cells(canvas.rng.uniform(7, 10))
    glass = blend(number, (0.7, 0.25, 0.03), (0.85, 0.55, 0.08), (0.55, 0.12, 0.05))
    ripple = 1 - 0.35 * np.exp(-((np.sin(first * 22)) ** 2) * 6)
    return glass * (ripple * np.clip((second - first) * 5, 0.1, 1))


def circuit_board(canvas: Canvas) -> np.ndarray:
    u, v = canvas.plane(0.1)
    count = int(canvas.rng.randint(14, 20))
    x, y = u * count, v * count
    horizontal = canvas.rng.rand(64, 64)[np.floor(y).astype(int) % 64, np.floor(x / 3).astype(int) % 64] > 0.45
    vertical = canvas.rng.rand(64, 64)[np.floor(y / 3).astype(int) % 64, np.floor(x).astype(int) % 64] > 0.55
    trace = (horizontal & (np.abs(fraction(y) - 0.5) < 0.14)) | (vertical & (np.abs(fraction(x) - 0.5) < 0.14))
    pad = np.hypot(x % 3 - 1.5, y % 3 - 1.5) < 0.45
    board = blend(canvas.noise(4), (0.0, 0.22, 0.15), (0.02, 0.32, 0.2))
    board = np.where(trace, colour(0.35, 0.75, 0.45), board)
    return np.where(pad, colour(0.85, 0.8, 0.55), board)


def bubbles(canvas: Canvas) -> np.ndarray:
    first, _, number = canvas.cells(canvas.rng.uniform(7, 11))
    radius = 0.3 + 0.2 * number
    rim = np.exp(-(((first - radius) / 0.06) ** 2))
    inside = np.clip(1 - first / radius, 0, 1)
    base = blend(canvas.noise(3), (0.45, 0.3, 0.7), (0.65, 0.5, 0.9))
    return np.clip(base + (0.6 * rim + 0.25 * (inside > 0) + 0.5 * (inside > 0.75)), 0, 1)


SEEN: tuple[Material, ...] = (
    grass, water, sand, snow, brick, wood, gravel, clouds, leopard_spots, polka_dots, checkerboard, tartan, denim,
    rust, rainbow, tiger_stripes, circuit_board, bubbles,
)  # fmt: skip
UNSEEN: tuple[Material, ...] = (lava, marble, zebra_stripes, honeycomb, fish_scales, mosaic)
"""Materials that SAN's training set never shows. They come last, so that seen classes keep their label values."""

MATERIALS: dict[str, Material] = {paint.__name__.replace("_", " "): paint for paint in SEEN + UNSEEN}
"""Name -> painter, in the order of the class indices."""
