"""Outlines of things: each is a signed distance-like field, negative inside, over coordinates centred on the thing."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState

from san_cliptrase.scenes.materials import Canvas


def _polygon(x: np.ndarray, y: np.ndarray, sides: int) -> np.ndarray:
    angles = np.arange(sides) * 2 * np.pi / sides
    return np.max([x * np.cos(a) + y * np.sin(a) for a in angles], axis=0) - np.cos(np.pi / sides)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = np.arctan2(y, x)
    return np.hypot(x, y) - (0.68 + 0.32 * np.cos(5 * angle))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = 1.3 * x**2 + 1.3 * y**2 - 0.8, 1.3 * y
    return a * a * a * 2.0 + x**2 * (b * b * b)  # numpy's third power is slow


OUTLINES = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "ellipse": lambda x, y: np.hypot(x, y * 1.8) - 1,
    "rectangle": lambda x, y: np.maximum(np.abs(x), np.abs(y) * 1.5) - 0.9,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.8,
    "triangle": lambda x, y: _polygon(x, y, 3),
    "hexagon": lambda x, y: _polygon(x, y, 6),
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    "heart": _heart,
    "cross": lambda x, y: np.minimum(
        np.maximum(np.abs(x), np.abs(y) * 2.8), np.maximum(np.abs(x) * 2.8, np.abs(y))
    ) - 0.95,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.6, y)),
}  # fmt: skip

FARTHEST = 1.132
"""No outline reaches farther from its centre; the corners of "square", at 0.8 * sqrt(2), do nearly."""
_WOBBLE = 0.25
_REACH = FARTHEST + np.sqrt(2) * _WOBBLE / 2


def thing_pixels(rng: RandomState, size: int) -> np.ndarray:
    """A randomly placed, turned, stretched and slightly wobbled outline.

    Args:
        rng: source of randomness.
        size: side of the image in pixels.

    Returns:
        Indices of its pixels in the flattened image. Radii are 0.14 to 0.38 of the side, centres lie inside the image.
    """
    outline = OUTLINES[sorted(OUTLINES)[rng.randint(len(OUTLINES))]]
    radius, angle = rng.uniform(0.14, 0.38), rng.uniform(-np.pi, np.pi)
    cx, cy = rng.uniform(0.12, 0.88, 2)
    stretch, centres = rng.uniform(0.8, 1.25), (np.arange(size) + 0.5) / size
    x, y = (centres - cx) / radius, (centres - cy) / radius * stretch
    # Before it is turned, a thing lies in the square of its reach: only there need the outline be computed.
    columns, rows = np.flatnonzero(np.abs(x) < _REACH), np.flatnonzero(np.abs(y) < _REACH)[:, None]
    x, y, pixels = x[columns], y[rows], rows * size + columns
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wobble = rng.uniform(0, _WOBBLE) * (Canvas(rng, size, pixels).noise(6) - 0.5)
    return pixels[outline(x + wobble, y + wobble) < 0]
