"""Image files, read in whole or refused with their name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from san_cliptrase.errors import DataError

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright by its EXIF tag.

    Raises:
        DataError: There is no such file, it is no image, it is cut off, or Pillow holds it for a decompression bomb.
    """
    with _opened(path, "image") as image:
        # In place and only if needed: a copy of 100 megapixels is 400 MB.
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image, upright by its EXIF tag, from the head of its file alone.

    Raises:
        DataError: See :func:`read_image`; a file that is cut off after its head is not noticed.
    """
    with _opened(path, "image") as image:
        # Asked for tags that are not in its head, Pillow would decode a PNG file.
        turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return image.size if turned else (image.height, image.width)


def read_values(path: str | Path) -> np.ndarray:
    """The stored values of a label file, (H, W) or with channels; a palette's indices, not its colours.

    Raises:
        DataError: See :func:`read_image`.
    """
    with _opened(path, "label file") as image:
        return np.asarray(image)


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # Pillow's decoders meet damage with errors of almost any type
        raise DataError(f"cannot read the {kind} {path}: {error}. Is the file whole and an image?") from error
