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

Material = Callable[[RandomState, int], np.ndarray]


def noise(rng: RandomState, size: int, cells: float, octaves: int = 1) -> np.ndarray:
    """Smooth value noise, (size, size) in [0, 1], with about ``cells`` bumps along a side."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        n = max(2, round(cells * 2**octave))
        grid = Image.fromarray(rng.rand(n + 1, n + 1).astype(np.float32))
        total += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) * 0.5**octave
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def blend(weight: np.ndarray, *colours: tuple[float, float, float]) -> np.ndarray:
    """Colours along ``weight`` in [0, 1]: the first at 0, the last at 1, linear between."""
    stops = np.linspace(0, 1, len(colours))
    table = np.asarray(colours, np.float32)
    return np.stack([np.interp(weight, stops, table[:, c]) for c in range(3)], -1).astype(np.float32)


def plane(rng: RandomState, size: int, max_angle: float = np.pi) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (u, v) in units of the side, rotated by a random angle within +-max_angle and shifted at random."""
    angle = rng.uniform(-max_angle, max_angle)
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    return u + rng.rand(), v + rng.rand()


def soft(distance: np.ndarray, size: int) -> np.ndarray:
    """1 where ``distance`` (in sides) is negative, 0 where it is positive, with an edge about a pixel wide."""
    return np.clip(0.5 - distance * size, 0, 1)


def cells(rng: RandomState, size: int, count: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jittered cell centres: distance to the nearest and second nearest (in cells), and the nearest's random number."""
    u, v = plane(rng, size)
    x, y = u * count, v * count
    x, y = x - np.floor(x.min()) + 1, y - np.floor(y.min()) + 1
    side = int(max(x.max(), y.max())) + 3
    jitter, number = rng.uniform(0.15, 0.85, (side, side, 2)), rng.rand(side, side)
    first = np.full((size, size), 9.0, np.float32)
    second, nearest = first.copy(), np.zeros((size, size), np.float32)
    ix, iy = x.astype(int), y.astype(int)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            centre = jitter[iy + dy, ix + dx]
            distance = np.hypot(ix + dx + centre[..., 0] - x, iy + dy + centre[..., 1] - y)
            closer = distance < first
            second = np.where(closer, first, np.minimum(second, distance))
            nearest = np.where(closer, number[iy + dy, ix + dx], nearest)
            first = np.where(closer, distance, first)
    return first, second, nearest


def grass(rng: RandomState, size: int) -> np.ndarray:
    u, _v = plane(rng, size, 0.3)
    blades = np.sin(u * rng.uniform(150, 220) + 6 * noise(rng, size, 12)) * 0.25 + noise(rng, size, 40) * 0.75
    return blend(np.clip(blades, 0, 1), (0.05, 0.25, 0.04), (0.2, 0.55, 0.1), (0.5, 0.8, 0.25))


def water(rng: RandomState, size: int) -> np.ndarray:
    _, v = plane(rng, size, 0.2)
    waves = np.sin(v * rng.uniform(50, 90) + 7 * noise(rng, size, 5)) * 0.5 + 0.5
    return blend(waves * 0.7 + 0.3 * noise(rng, size, 6), (0.02, 0.15, 0.4), (0.1, 0.4, 0.65), (0.65, 0.85, 0.95))


def sand(rng: RandomState, size: int) -> np.ndarray:
    _, v = plane(rng, size, 0.6)
    ripples = np.sin(v * rng.uniform(35, 60) + 5 * noise(rng, size, 4)) * 0.5 + 0.5
    grain = rng.rand(size, size)
    return blend(0.5 * ripples + 0.25 * noise(rng, size, 4) + 0.25 * grain, (0.65, 0.5, 0.3), (0.95, 0.85, 0.6))


def snow(rng: RandomState, size: int) -> np.ndarray:
    drifts = noise(rng, size, 3, 2)
    sparkle = (rng.rand(size, size) > 0.98) * 0.2
    return np.clip(blend(drifts, (0.75, 0.82, 0.92), (0.97, 0.98, 1.0)) + sparkle[..., None], 0, 1)


def brick(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.15)
    rows, joint = rng.uniform(9, 15), rng.uniform(0.08, 0.13)
    row = np.floor(v * rows)
    x = u * rows * 0.5 + 0.5 * (row % 2)
    gap = np.minimum(np.minimum(x % 1, 1 - x % 1) * 2, np.minimum((v * rows) % 1, 1 - (v * rows) % 1)) < joint
    tint = rng.rand(64, 64)[row.astype(int) % 64, np.floor(x).astype(int) % 64]
    clay = blend(0.7 * tint + 0.3 * noise(rng, size, 30), (0.45, 0.13, 0.08), (0.8, 0.35, 0.22))
    return np.where(gap[..., None], np.float32(0.75), clay)


def wood(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.3)
    rings = np.sin((v * rng.uniform(8, 14) + 1.5 * noise(rng, size, 3) + 0.15 * np.sin(u * 9)) * 6.28) * 0.5 + 0.5
    planks = np.minimum((v * 5) % 1, 1 - (v * 5) % 1) < 0.03
    grain = blend(0.7 * rings + 0.3 * noise(rng, size, 20), (0.35, 0.19, 0.08), (0.72, 0.48, 0.25))
    return np.where(planks[..., None], grain * 0.4, grain)


def gravel(rng: RandomState, size: int) -> np.ndarray:
    first, second, number = cells(rng, size, rng.uniform(13, 19))
    stone = blend(number, (0.35, 0.35, 0.35), (0.6, 0.57, 0.53), (0.8, 0.8, 0.8))
    return stone * np.clip((second - first) * 4, 0.15, 1)[..., None] * (1.1 - 0.5 * first)[..., None].clip(0, 1)


def lava(rng: RandomState, size: int) -> np.ndarray:
    first, second, _ = cells(rng, size, rng.uniform(5, 8))
    crack = np.clip(1 - (second - first) * 3 + 0.4 * (noise(rng, size, 12) - 0.5), 0, 1)
    return blend(crack, (0.1, 0.05, 0.05), (0.3, 0.05, 0.02), (0.95, 0.3, 0.02), (1.0, 0.9, 0.3))


def clouds(rng: RandomState, size: int) -> np.ndarray:
    cover = np.clip(noise(rng, size, rng.uniform(3, 5), 4) * 2.4 - 0.8, 0, 1)
    return blend(cover, (0.35, 0.6, 0.92), (0.75, 0.85, 0.97), (1.0, 1.0, 1.0))


def marble(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size)
    vein = np.abs(np.sin((u + v * 0.3) * rng.uniform(9, 15) + 7 * noise(rng, size, 4, 3)))
    return blend(np.clip(vein * 1.8, 0, 1), (0.35, 0.38, 0.4), (0.88, 0.87, 0.85), (0.97, 0.96, 0.94))


def zebra_stripes(rng: RandomState, size: int) -> np.ndarray:
    u, _ = plane(rng, size)
    stripes = np.sin(u * rng.uniform(60, 90) + 4 * noise(rng, size, 4))
    return blend(np.clip(stripes * 4 + 0.5, 0, 1), (0.04, 0.04, 0.05), (0.96, 0.95, 0.93))


def leopard_spots(rng: RandomState, size: int) -> np.ndarray:
    first, _, _number = cells(rng, size, rng.uniform(9, 13))
    radius = first + 0.12 * (noise(rng, size, 30) - 0.5)
    ring = np.exp(-(((radius - 0.3) / 0.09) ** 2))[..., None]
    fur = blend(np.clip(1.2 - radius * 1.6, 0, 1), (0.88, 0.68, 0.35), (0.62, 0.38, 0.12))
    return fur * (1 - ring) + ring * np.float32(0.08)


def polka_dots(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.8)
    count = rng.uniform(9, 13)
    row = np.floor(v * count)
    distance = np.hypot((u * count + 0.5 * (row % 2)) % 1 - 0.5, (v * count) % 1 - 0.5)
    cloth = np.array([(0.85, 0.1, 0.3), (0.9, 0.25, 0.45), (0.75, 0.05, 0.2)][rng.randint(3)], np.float32)
    return cloth + (1 - cloth) * soft((distance - 0.3) / count, size)[..., None]


def checkerboard(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.5)
    count = rng.uniform(9, 14)
    dark = (np.floor(u * count) + np.floor(v * count)) % 2
    return blend(dark, (0.95, 0.95, 0.92), (0.06, 0.06, 0.08))


def tartan(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.2)
    count = rng.uniform(4, 6)

    def threads(t: np.ndarray) -> np.ndarray:
        return blend((t * count) % 1, (0.65, 0.06, 0.08), (0.65, 0.06, 0.08), (0.05, 0.25, 0.12), (0.05, 0.1, 0.3))

    weave = ((np.floor(u * size / 2) + np.floor(v * size / 2)) % 2)[..., None] * 0.12 + 0.44
    line = (((u * count) % 1 < 0.05) | ((v * count) % 1 < 0.05))[..., None]
    cloth = threads(u) * weave + threads(v) * (1 - weave)
    return np.where(line, np.array((0.95, 0.85, 0.25), np.float32), cloth)


def honeycomb(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size)
    x, y = u * rng.uniform(10, 14), v * rng.uniform(10, 14)
    a = np.stack([x % 1 - 0.5, y % np.sqrt(3) - np.sqrt(3) / 2])
    b = np.stack([(x - 0.5) % 1 - 0.5, (y - np.sqrt(3) / 2) % np.sqrt(3) - np.sqrt(3) / 2])
    nearest = np.abs(np.where((a**2).sum(0) < (b**2).sum(0), a, b))
    edge = 0.5 - np.maximum(nearest[0], nearest[0] * 0.5 + nearest[1] * np.sqrt(3) / 2)
    return blend(np.clip(edge * 5, 0, 1), (1.0, 0.82, 0.3), (0.75, 0.45, 0.05), (0.4, 0.2, 0.02))


def fish_scales(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.4)
    count = rng.uniform(9, 13)
    y = v * count * 1.6
    shade = np.zeros((size, size), np.float32)
    for lift in (2, 1, 0):
        row = np.floor(y) - lift
        distance = np.hypot((u * count + 0.5 * (row % 2)) % 1 - 0.5, (y - row) / 1.6 * 0.8 - 0.1)
        shade = np.where(distance < 0.62, np.clip(1.15 - distance * 1.7, 0, 1), shade)
    return blend(shade, (0.02, 0.2, 0.25), (0.1, 0.6, 0.6), (0.75, 0.95, 0.85))


def denim(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.2)
    twill = np.sin((u + v) * rng.uniform(190, 240)) * 0.3 + rng.rand(size, size) * 0.3
    return blend(np.clip(0.3 + twill + 0.3 * noise(rng, size, 4), 0, 1), (0.06, 0.1, 0.28), (0.45, 0.55, 0.75))


def rust(rng: RandomState, size: int) -> np.ndarray:
    patches = noise(rng, size, rng.uniform(5, 9), 4)
    return blend(patches, (0.35, 0.42, 0.45), (0.42, 0.3, 0.25), (0.55, 0.22, 0.05), (0.85, 0.42, 0.1))


def rainbow(rng: RandomState, size: int) -> np.ndarray:
    u, _ = plane(rng, size)
    hue = (u * rng.uniform(3, 5) + 0.15 * noise(rng, size, 3)) % 1
    return np.clip(np.abs((hue[..., None] * 6 + np.array((0, 4, 2), np.float32)) % 6 - 3) - 1, 0, 1) * 0.85 + 0.1


def tiger_stripes(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.5)
    stripes = np.sin(v * rng.uniform(50, 75) + 9 * noise(rng, size, 6)) + 0.8 * np.sin(u * 17)
    return blend(np.clip(stripes * 2.5 + 0.1, 0, 1), (0.95, 0.5, 0.1), (0.05, 0.03, 0.02))


def mosaic(rng: RandomState, size: int) -> np.ndarray:
    first, second, number = cells(rng, size, rng.uniform(7, 10))
    glass = blend(number, (0.7, 0.25, 0.03), (0.85, 0.55, 0.08), (0.55, 0.12, 0.05))
    ripple = 1 - 0.35 * np.exp(-((np.sin(first * 22)) ** 2) * 6)
    return glass * (ripple * np.clip((second - first) * 5, 0.1, 1))[..., None]


def circuit_board(rng: RandomState, size: int) -> np.ndarray:
    u, v = plane(rng, size, 0.1)
    count = int(rng.randint(14, 20))
    x, y = u * count, v * count
    horizontal = rng.rand(64, 64)[np.floor(y).astype(int) % 64, np.floor(x / 3).astype(int) % 64] > 0.45
    vertical = rng.rand(64, 64)[np.floor(y / 3).astype(int) % 64, np.floor(x).astype(int) % 64] > 0.55
    trace = (horizontal & (np.abs(y % 1 - 0.5) < 0.14)) | (vertical & (np.abs(x % 1 - 0.5) < 0.14))
    pad = np.hypot(x % 3 - 1.5, y % 3 - 1.5) < 0.45
    board = blend(noise(rng, size, 4), (0.0, 0.22, 0.15), (0.02, 0.32, 0.2))
    board = np.where(trace[..., None], np.array((0.35, 0.75, 0.45), np.float32), board)
    return np.where(pad[..., None], np.array((0.85, 0.8, 0.55), np.float32), board)


def bubbles(rng: RandomState, size: int) -> np.ndarray:
    first, _, number = cells(rng, size, rng.uniform(7, 11))
    radius = 0.3 + 0.2 * number
    rim = np.exp(-(((first - radius) / 0.06) ** 2))
    inside = np.clip(1 - first / radius, 0, 1)
    base = blend(noise(rng, size, 3), (0.45, 0.3, 0.7), (0.65, 0.5, 0.9))
    return np.clip(base + (0.6 * rim + 0.25 * (inside > 0) + 0.5 * (inside > 0.75))[..., None], 0, 1)


SEEN: tuple[Material, ...] = (
    grass, water, sand, snow, brick, wood, gravel, clouds, leopard_spots, polka_dots, checkerboard, tartan, denim,
    rust, rainbow, tiger_stripes, circuit_board, bubbles,
)  # fmt: skip
UNSEEN: tuple[Material, ...] = (lava, marble, zebra_stripes, honeycomb, fish_scales, mosaic)
"""Materials that SAN's training set never shows. They come last, so that seen classes keep their label values."""

MATERIALS: dict[str, Material] = {paint.__name__.replace("_", " "): paint for paint in SEEN + UNSEEN}
"""Name -> painter, in the order of the class indices."""
