"""Label maps in colours: which class each colour stands for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from san_cliptrase.class_lists import Color, color_text
from san_cliptrase.errors import DataError
from san_cliptrase.images import read_colors


@dataclass(frozen=True)
class Palette:
    """The colours of a dataset's label maps.

    Attributes:
        classes: colours of each class, in the order of the class names.
        ignored: colours of pixels without a label.
    """

    classes: tuple[tuple[Color, ...], ...]
    ignored: tuple[Color, ...] = ()

    def read(self, path: str | os.PathLike[str], ignore_label: int) -> np.ndarray:
        """(H, W) int64 label map of a file in colours.

        Args:
            path: PNG or TIFF file; RGB, RGBA without transparency, or with a palette in any order.
            ignore_label: the value that pixels without a label get.

        Raises:
            DataError: see :func:`san_cliptrase.images.read_colors`; or a pixel has a colour of no class, or is
                transparent. Says where and how many.
        """
        packed = read_colors(path).view("<u4")[..., 0]
        known, classes = self._table
        places = np.minimum(np.searchsorted(known, packed), len(known) - 1)
        strange = known[places] != packed
        if strange.any():
            raise DataError(f"label file {path}: {_strange_colors(packed, strange)}")
        labels = classes[places]
        return labels if not self.ignored else np.where(labels < 0, ignore_label, labels)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Packed colours in ascending order, and the class of each; -1 for those without a label."""
        pairs = [(color, index) for index, colors in enumerate(self.classes) for color in colors]
        pairs += [(color, -1) for color in self.ignored]
        packed = _pack([color for color, _ in pairs])
        order = np.argsort(packed)
        return packed[order], np.array([index for _, index in pairs])[order]


def _pack(colors: Sequence[Color]) -> np.ndarray:
    """Opaque RGBA pixels as unsigned integers of 32 bits."""
    return np.array([(*color, 255) for color in colors], np.uint8).view("<u4")[:, 0]


def _strange_colors(packed: np.ndarray, strange: np.ndarray) -> str:
    """Which pixels have a colour that stands for nothing."""
    y, x = np.unravel_index(strange.argmax(), strange.shape)
    first, values = packed[y, x], packed[strange]
    *color, alpha = np.array([first], "<u4").view(np.uint8).tolist()
    same, others = int((values == first).sum()), len(np.unique(values)) - 1
    where = f"{same} pixel{'s' * (same > 1)}, the first at x {x}, y {y}"
    more = (
        f" {others} more colour{'s' * (others > 1)} of no class: {len(values) - same} pixels (many colours come from "
        f"smoothing, or from a copy as JPEG)."
    )
    if alpha < 255:
        found = f"it is transparent, with alpha {alpha}, at {where}. Paint these pixels in an opaque colour."
    else:
        found = (
            f"the colour {color_text(tuple(color))} is in no line of the class file: {where}. Write it behind the name "
            f"of its class, or, if it means that a pixel has no label, register the folder with --ignore "
            f"'{color_text(tuple(color))}'."
        )
    return found + (more if others else "")
