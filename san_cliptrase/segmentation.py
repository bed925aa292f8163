"""What a segmentation gives back: labels, names, areas, and on demand scores, regions, an overlay and files."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from san_cliptrase.colors import class_colors
from san_cliptrase.drawing import count_labels, draw_overlay, percent
from san_cliptrase.errors import OutputError
from san_cliptrase.files import write_atomically
from san_cliptrase.texts import printable

MOST_CLASSES = 65536
"""Classes that a PNG file can tell apart."""

_WRITER = "san_cliptrase"
_PNG_MARK = b"tEXtSoftware\0" + _WRITER.encode()
_JSON_MARK = f'{{\n  "written_by": "{_WRITER}"'.encode()
_MARKED = 4096
"""Bytes at the start of a file in which its mark stands."""


class Segmentation:
    """An image, the class of each of its pixels, and what follows from them.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int64, indices into ``names``.
        names: Class names, all different.
        source: File that the image was read from; None for an image from memory.
    """

    def __init__(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        compute_scores: Callable[[], np.ndarray],
        compute_regions: Callable[[], np.ndarray],
        source: str | os.PathLike[str] | None = None,
    ) -> None:
        """Check what belongs together.

        Args:
            image: (H, W, 3) uint8 RGB.
            labels: (H, W) integers, indices into ``names``.
            names: Class names, all different.
            compute_scores: Gives (K, H, W) probabilities; called once, when ``scores`` are first asked for.
            compute_regions: Gives (N, h, w) masks in [0, 1]; called once, when ``regions`` are first asked for.
            source: File that the image was read from.

        Raises:
            TypeError: Labels are no integers.
            ValueError: Sizes differ, labels are not indices into ``names``, or a name is there twice.
        """
        self.image = image
        self.labels = np.asarray(labels).astype(np.int64, casting="safe", copy=False)
        self.names = tuple(names)
        self.source = None if source is None else Path(source)
        self._compute_scores = compute_scores
        self._compute_regions = compute_regions
        if self.labels.shape != image.shape[:2]:
            raise ValueError(f"labels of shape {self.labels.shape} do not fit an image of shape {image.shape}")
        low, high = self.labels.min(), self.labels.max()
        if low < 0 or high >= len(self.names):
            raise ValueError(f"labels from {low} to {high} are not indices into {len(self.names)} names")
        if len(set(self.names)) < len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"class names are there more than once: {', '.join(map(printable, repeated))}")

    @functools.cached_property
    def areas(self) -> dict[str, float]:
        """Share of the image that each class has, in the order of ``names``; they add up to 1."""
        shares = count_labels(self.labels, len(self.names)) / self.labels.size
        return dict(zip(self.names, shares.tolist(), strict=True))

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """(K, H, W) float32: probability of each class for each pixel, computed when first asked for."""
        scores = np.asarray(self._compute_scores(), dtype=np.float32)
        if scores.shape != (len(self.names), *self.labels.shape):
            raise ValueError(f"scores of shape {scores.shape}, not {(len(self.names), *self.labels.shape)}")
        del self._compute_scores  # and the features that it holds
        return scores

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """(H, W) float32: the probability of each pixel's label."""
        return np.take_along_axis(self.scores, self.labels[None], axis=0)[0]

    @functools.cached_property
    def regions(self) -> np.ndarray:
        """(N, h, w) float32 in [0, 1]: masks on the grid on which they were found, computed when first asked for."""
        regions = np.asarray(self._compute_regions(), dtype=np.float32)
        del self._compute_regions
        return regions

    def overlay(self) -> Image.Image:
        """Draw the labels over the image, with names and a legend; see :func:`draw_overlay`."""
        return draw_overlay(self.image, self.labels, self.names)

    def describe(self, limit: int = 5) -> str:
        """Classes with their areas in one line, largest first: "sea 41 %, sky 33 %, boat 4 %".

        Args:
            limit: Classes that are named at most; more are counted.
        """
        present = sorted((name for name, area in self.areas.items() if area), key=self.areas.get, reverse=True)
        parts = [f"{printable(name)} {percent(self.areas[name])}" for name in present[:limit]]
        return ", ".join(parts + ([f"and {len(present) - limit} more"] if len(present) > limit else []))

    def __repr__(self) -> str:
        return f"{printable(self.source.stem) if self.source else 'image'}: {self.describe()}"

    def summary(self) -> dict[str, Any]:
        """Size of the image, and index, name and area of each class; ready for JSON."""
        classes = [
            {"index": index, "name": name, "area": float(f"{area:.6g}")}
            for index, (name, area) in enumerate(self.areas.items())
        ]
        return {"height": self.labels.shape[0], "width": self.labels.shape[1], "classes": classes}

    def save(self, stem: str | os.PathLike[str]) -> list[Path]:
        """Write ``STEM_overlay.png``, ``STEM_labels.png`` and ``STEM.json``.

        The label map has the index of each pixel's class, with a palette of the classes' colours, or in 16 bits for
        more than 256 classes. The JSON file has the summary. Files of an earlier ``save`` are replaced, others never.

        Args:
            stem: Path of the files without the endings, as "out/photo"; ``~`` is expanded, its folder is made.

        Returns:
            The paths of the three files.

        Raises:
            ValueError: The stem has no file name.
            OutputError: A file of that name was not written by ``save``, or cannot be written; nothing is written if
                one of the three is not ours.
        """
        text = os.path.expanduser(os.fspath(stem))
        if os.path.basename(text) in ("", ".", ".."):
            raise ValueError(f"{os.fspath(stem)!r} has no file name; a path without ending is wanted, as out/photo")
        overlay, labels, summary = (Path(text + ending) for ending in ("_overlay.png", "_labels.png", ".json"))
        foreign = [
            path
            for path, mark in ((overlay, _PNG_MARK), (labels, _PNG_MARK), (summary, _JSON_MARK))
            if os.path.lexists(path) and not _has_mark(path, mark)
        ]
        if foreign:
            raise OutputError(
                f"not written by {_WRITER}, so not replaced: {', '.join(map(str, foreign))}."
                " Choose another folder or name, or move what is there"
            )
        if len(self.names) > MOST_CLASSES:
            raise OutputError(f"cannot write {labels}: a PNG file tells {MOST_CLASSES} classes apart, not more")
        write_atomically(overlay, _png(self.overlay()))
        write_atomically(labels, _png(self._label_image()))
        content = json.dumps({"written_by": _WRITER, **self.summary()}, indent=2) + "\n"
        write_atomically(summary, lambda file: file.write(content.encode()))
        return [overlay, labels, summary]

    def _label_image(self) -> Image.Image:
        if len(self.names) > 256:
            return Image.fromarray(self.labels.astype(np.uint16))
        image = Image.fromarray(self.labels.astype(np.uint8))
        # An image of mode P now. With all 256 colours Pillow writes bytes: other tools misread indices of fewer bits.
        image.putpalette(class_colors(256).tobytes())
        return image


def _png(image: Image.Image) -> Callable[[BinaryIO], None]:
    mark = PngInfo()
    mark.add_text("Software", _WRITER)
    return lambda file: image.save(file, "PNG", pnginfo=mark)


def _has_mark(path: Path, mark: bytes) -> bool:
    """Whether a file begins as ours do; what is no regular file, or cannot be read, does not."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return mark in file.read(_MARKED)
    except OSError:
        return False
