"""What a segmentation gives back: labels, names, areas, and on demand scores, regions, an overlay and files."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from san_cliptrase.choices import PARTS
from san_cliptrase.coco import CocoDataset
from san_cliptrase.colors import class_colors
from san_cliptrase.drawing import count_labels, draw_overlay, percent
from san_cliptrase.errors import OptionError, OutputError, suggest
from san_cliptrase.files import refuse_foreign, write_atomically
from san_cliptrase.texts import printable

if TYPE_CHECKING:
    from supervision import Detections

MOST_CLASSES = 65536
"""Classes that a PNG file can tell apart."""

_WRITER = "san_cliptrase"
_MARKS = {
    ".png": b"tEXtSoftware\0" + _WRITER.encode(),
    ".json": f'{{\n  "written_by": "{_WRITER}"'.encode(),
    ".npz": b"written_by.npy",
}
"""What stands at the beginning of our files."""
_ENDINGS = {
    "png": ("_overlay.png", "_labels.png"),
    "scores": ("_scores.npz",),
    "confidence": ("_confidence.png",),
}
"""Files of each format, beside the summary."""


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

    def parts(self, per: str = "class") -> Iterator[tuple[int, np.ndarray]]:
        """The label map as masks: each pixel is in one of them.

        ``region``: a region is of the class that most of its pixels have; a pixel is of that region of its own class
        whose mask, resized to the image, is largest there. So all regions of a class are together its mask.

        Args:
            per: "class", one mask for each class that is there, or "region", one for each of :attr:`regions`.

        Yields:
            Index into ``names`` and mask (H, W) bool.

        Raises:
            OptionError: There is no such division, or the image was segmented without regions.
        """
        if per not in PARTS:
            raise OptionError(f"unknown division into masks {per!r}; {suggest(per, PARTS)}")
        if per == "class":
            for index in np.flatnonzero(count_labels(self.labels, len(self.names))).tolist():
                yield index, self.labels == index
            return
        if not len(self.regions):
            raise OptionError(
                "masks per region need regions, and every pixel was classified by itself: ask for masks per class, or "
                "segment with a way to classify that has regions, such as vote"
            )
        owner = self._owner(self.regions, [None] * len(self.regions))
        classes = [
            int(np.bincount(own).argmax()) if (own := self.labels[owner == number]).size else None
            for number in range(len(self.regions))
        ]
        owner = self._owner(self.regions, classes)
        for index in np.flatnonzero(count_labels(self.labels, len(self.names))).tolist():
            own = np.where(self.labels == index, owner, -2)
            for number in np.unique(own[own > -2]).tolist():
                yield index, own == number

    def _owner(self, regions: np.ndarray, classes: Sequence[int | None]) -> np.ndarray:
        """(H, W): the region with the largest mask at each pixel of its class (None: of any); -1: there is none."""
        height, width = self.labels.shape
        best, owner = np.full((height, width), -1.0, np.float32), np.full((height, width), -1)
        for number, (region, index) in enumerate(zip(regions, classes, strict=True)):
            mask = np.asarray(Image.fromarray(region).resize((width, height), Image.Resampling.BILINEAR))
            larger = mask > best
            if index is not None:
                larger &= self.labels == index
            best[larger], owner[larger] = mask[larger], number
        return owner

    def to_coco(self, per: str = "class") -> dict[str, Any]:
        """The segmentation as a COCO data set of one image, ready for JSON.

        Args:
            per: What an annotation is for, see :meth:`parts`.

        Raises:
            OptionError: See :meth:`parts`, or pycocotools is not installed: ``pip install 'san_cliptrase[coco]'``.
        """
        dataset = CocoDataset(self.names)
        dataset.add(self.source.name if self.source else "image", self.labels, self.parts(per))
        return dataset.content

    def to_supervision(self, per: str = "class") -> Detections:
        """The segmentation as detections of the library supervision: masks, boxes, class indices and names.

        Args:
            per: What a detection is for, see :meth:`parts`.

        Returns:
            ``supervision.Detections``; ``data["class_name"]`` has the names.

        Raises:
            OptionError: See :meth:`parts`, or it is not installed: ``pip install 'san_cliptrase[supervision]'``.
        """
        try:
            import supervision  # an extra of the package
        except ImportError as error:
            raise OptionError(
                "sv.Detections need the package supervision: pip install 'san_cliptrase[supervision]' (in a clone: "
                "'.[supervision]')"
            ) from error
        indices, masks = zip(*self.parts(per), strict=True)
        masks = np.stack(masks)
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(float),
            mask=masks,
            class_id=np.array(indices),
            data={"class_name": np.array([self.names[index] for index in indices])},
        )

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

    def save(self, stem: str | os.PathLike[str], formats: Sequence[str] = ("png",)) -> list[Path]:
        """Write ``STEM.json``, the summary, and what the formats ask for.

        ==============  ===========================================================================================
        png             ``STEM_overlay.png``, and ``STEM_labels.png`` with the index of each pixel's class and a
                        palette of the classes' colours, or in 16 bits for more than 256 classes.
        scores          ``STEM_scores.npz`` with ``scores``, (K, H, W) float16, and ``names``.
        confidence      ``STEM_confidence.png``: gray, 255 times the probability of each pixel's class.
        ==============  ===========================================================================================

        Files of an earlier ``save`` are replaced, others never.

        Args:
            stem: Path of the files without the endings, as "out/photo"; ``~`` is expanded, its folder is made.
            formats: Names of the table; COCO's format has one file for many images, see :meth:`to_coco`.

        Returns:
            The paths of the files, in the order of the table, the summary last.

        Raises:
            ValueError: The stem has no file name.
            OptionError: There is no such format.
            OutputError: A file of that name was not written by ``save``, or cannot be written; nothing is written if
                one of them is not ours.
        """
        text = os.path.expanduser(os.fspath(stem))
        if os.path.basename(text) in ("", ".", ".."):
            raise ValueError(f"{os.fspath(stem)!r} has no file name; a path without ending is wanted, as out/photo")
        if unknown := [name for name in formats if name not in _ENDINGS]:
            raise OptionError(f"unknown format {unknown[0]!r}; {suggest(unknown[0], _ENDINGS)}")
        paths = [Path(text + ending) for name, endings in _ENDINGS.items() if name in formats for ending in endings]
        paths.append(Path(text + ".json"))
        refuse_foreign({path: _MARKS[path.suffix] for path in paths})
        if "png" in formats and len(self.names) > MOST_CLASSES:
            raise OutputError(f"cannot write {paths[1]}: a PNG file tells {MOST_CLASSES} classes apart, not more")
        contents = {
            "_overlay.png": lambda: _png(self.overlay()),
            "_labels.png": lambda: _png(self._label_image()),
            "_scores.npz": lambda: self._write_scores,
            "_confidence.png": lambda: _png(Image.fromarray((255 * self.confidence).round().astype(np.uint8))),
            ".json": lambda: self._write_summary,
        }
        for path in paths:
            write_atomically(path, contents[str(path).removeprefix(text)]())
        return paths

    def _write_scores(self, file: BinaryIO) -> None:
        # "written_by" first: a file of ours is known by its beginning.
        scores = self.scores.astype(np.float16)
        np.savez_compressed(file, written_by=_WRITER, names=np.array(self.names), scores=scores)

    def _write_summary(self, file: BinaryIO) -> None:
        content = json.dumps({"written_by": _WRITER, **self.summary()}, indent=2) + "\n"
        file.write(content.encode())

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
