"""Scenes: one or two grounds with things on them, and which material every pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from san_cliptrase.scenes.materials import MATERIALS, SEEN, Canvas
from san_cliptrase.scenes.shapes import thing_pixels

CLASS_NAMES: tuple[str, ...] = tuple(MATERIALS)
"""The 24 classes of the embedded world, in the order of their label values."""

SEEN_CLASSES: tuple[str, ...] = CLASS_NAMES[: len(SEEN)]
"""The 18 classes that ``demo_scenes_train`` labels."""

UNSEEN_CLASSES: tuple[str, ...] = CLASS_NAMES[len(SEEN) :]
"""The 6 classes that never occur in ``demo_scenes_train``; the CLIP knows them from captions only."""

GROUNDS: tuple[str, ...] = (
    "grass", "water", "sand", "snow", "brick", "wood", "gravel", "lava", "clouds", "marble", "denim", "mosaic",
)  # fmt: skip
_MIN_VISIBLE = 0.01


@dataclass(frozen=True)
class Scene:
    """One image with its ground truth.

    Attributes:
        image: (size, size, 3) uint8, RGB.
        labels: (size, size) uint8, index into :data:`CLASS_NAMES`.
    """

    image: np.ndarray
    labels: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the classes that show, largest area first (what a caption may speak of)."""
        area = np.bincount(self.labels.ravel(), minlength=len(CLASS_NAMES))
        return [CLASS_NAMES[i] for i in np.argsort(-area, kind="stable") if area[i] > 0]


def make_scene(seed: tuple[int, ...], size: int = 192, unseen: bool = True) -> Scene:
    """Draws a scene: the same arguments give the same layout, and the same colours up to rounding.

    Random numbers are the same with every numpy; sine and exponential differ between platforms in their last bits.

    Args:
        seed: non-negative integers, for example (split, index).
        size: side in pixels.
        unseen: whether :data:`UNSEEN_CLASSES` may occur.

    Returns:
        A scene with one or two grounds and up to four things; every labelled class covers at least 1 % of it.

    Raises:
        ValueError: if ``size`` is below 16.
    """
    if size < 16:
        raise ValueError(f"a scene needs a side of at least 16 pixels, got {size}")
    rng = RandomState(list(seed))
    names = list(CLASS_NAMES if unseen else SEEN_CLASSES)
    layout = _draw_layout(rng, size, names)
    colours = np.empty((3, size**2), np.float32)
    for label in np.flatnonzero(np.bincount(layout.ravel())):
        here = np.flatnonzero(layout == label)
        for channel, paint in zip(colours, MATERIALS[CLASS_NAMES[label]](Canvas(rng, size, here)), strict=True):
            channel[here] = paint
    return Scene(_develop(rng, colours, size), layout)


def make_swatch(seed: tuple[int, ...], name: str, size: int = 192) -> np.ndarray:
    """A image of one material alone, (size, size, 3) uint8.

    Raises:
        ValueError: if ``name`` is not one of :data:`CLASS_NAMES`.
    """
    if name not in MATERIALS:
        raise ValueError(f"unknown material {name!r}; known are: {', '.join(CLASS_NAMES)}")
    rng = RandomState(list(seed))
    return _develop(rng, MATERIALS[name](Canvas(rng, size)), size)


def _draw_layout(rng: RandomState, size: int, names: list[str]) -> np.ndarray:
    """Label map: grounds first, then things on top of each other; slivers go back to what they would have covered."""
    grounds = [name for name in GROUNDS if name in names]
    first, second = rng.choice(len(grounds), 2, replace=False)
    layout = np.full((size, size), CLASS_NAMES.index(grounds[first]), np.uint8)
    if rng.rand() < 0.4:
        horizon = rng.uniform(0.3, 0.7) + 0.1 * (Canvas(rng, size, np.arange(size)).noise(4) - 0.5)
        below = (np.arange(size) + 0.5)[:, None] / size > horizon[None]
        layout[below if rng.rand() < 0.7 else below.T] = CLASS_NAMES.index(grounds[second])
    area = np.bincount(layout.ravel(), minlength=len(CLASS_NAMES))
    for _ in range(rng.randint(1, 5)):
        label = CLASS_NAMES.index(names[rng.randint(len(names))])
        thing = thing_pixels(rng, size)
        left = area - np.bincount(layout.ravel()[thing], minlength=len(CLASS_NAMES))
        left[label] += len(thing)
        share = left / layout.size
        if not ((share > 0) & (share < _MIN_VISIBLE)).any():
            layout.ravel()[thing], area = label, left
    return layout


def _develop(rng: RandomState, colours: np.ndarray, size: int) -> np.ndarray:
    """Light, exposure, tint and sensor noise on (3, size * size); then eight bits, (size, size, 3)."""
    light = 0.75 + 0.45 * Canvas(rng, size).noise(2)
    exposure, tint = rng.uniform(0.85, 1.1), rng.uniform(0.94, 1.06, 3)
    image = rng.normal(0, 3, (size**2, 3))
    for channel, (paint, factor) in enumerate(zip(colours, tint, strict=True)):
        image[:, channel] += np.multiply(paint * light * exposure, factor, dtype=np.float64) * 255 + 0.5
    return np.clip(image, 0, 255, out=image).astype(np.uint8).reshape(size, size, 3)
