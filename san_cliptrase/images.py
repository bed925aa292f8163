"""Images as arrays: read from files, taken from memory, or refused with what was found."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from san_cliptrase.errors import DataError
from san_cliptrase.files import check_regular, from_home
from san_cliptrase.raster_files import check_png, stored_colors, stored_values

# Blocks that the C library gives back to the system when they are freed: those of 100 megapixels are 400 MB.
Image.core.set_block_size(2**26)

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
_ORIENTATIONS = range(2, 9)
"""EXIF orientations of images that are not upright."""
_STRIP_PIXELS = 2**22
"""Pixels that are converted at a time: a second copy of 100 megapixels is 400 MB."""
_SIXTEEN_BIT_FORMATS = (None, "JPEG2000", "PNG", "PPM", "TIFF")
"""Formats whose gray values Pillow gives in the range 0 to 65535; None is an image made in memory."""
_WANTED = "A path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor is wanted"
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)


def load_image(image: str | os.PathLike[str] | Image.Image | np.ndarray | Any) -> np.ndarray:
    """Turn any kind of image into an array of its own.

    Args:
        image: A path (``~`` is expanded), a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor, in RGB
            (OpenCV has BGR). Paths and PIL images are turned upright by their EXIF tag, transparency is dropped, and
            gray values of 16 bits and floats in [0, 1] are scaled to 8 bits.

    Returns:
        (H, W, 3) uint8 RGB, a copy.

    Raises:
        TypeError: The argument is no image.
        DataError: It is one, but cannot be used: see :func:`read_image`, or the array has another shape or type.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        with _named(f"PIL image of mode {image.mode}"):
            return _to_rgb(image)
    if isinstance(image, np.ndarray):
        return np.array(_checked_array(image), order="C")
    torch = sys.modules.get("torch")  # without it, nothing can be a tensor
    if torch is not None and isinstance(image, torch.Tensor):
        try:
            array = image.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"a tensor of {image.dtype}, {image.layout}, on {image.device} is no image. {_WANTED}."
            ) from error
        return np.array(_checked_tensor(array).transpose(1, 2, 0), order="C")
    several = ": give its images one at a time" if isinstance(image, (list, tuple)) else ""
    raise TypeError(f"{type(image).__name__} is no image{several}. {_WANTED}.")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright by its EXIF tag.

    Raises:
        DataError: There is no such file, it is no regular file or no image, it is cut off, Pillow holds it for a
            decompression bomb, or its values cannot be scaled to 8 bits without a guess.
    """
    with _opened(path, "image") as image:
        file, rgb = image.fp, _to_rgb(image)
        if image.format == "PNG" and _may_be_short(image):
            check_png(file)
        return rgb


def _may_be_short(image: Image.Image) -> bool:
    """Whether data that end early could have given an image: what they do not reach, Pillow leaves at 0.

    The last pixel tells, but for interlaced files; looking at all data of every file would take half as long again.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    return "interlace" in image.info or not (all(last) if isinstance(last, tuple) else last)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of an image, upright by its EXIF tag, from the head of its file alone.

    Raises:
        DataError: See :func:`read_image`; a file that is cut off after its head is not noticed.
    """
    with _opened(path, "image") as image:
        # Asked for tags that are not in its head, Pillow would decode a PNG file.
        turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return image.size if turned else (image.height, image.width)


def read_values(path: str | os.PathLike[str]) -> np.ndarray:
    """The stored values of a label file, (H, W) or with channels; a palette's indices, not its colours.

    Raises:
        DataError: See :func:`read_image` and :func:`stored_values`.
    """
    with _opened(path, "label file") as image:
        return stored_values(image, image.fp)


def read_colors(path: str | os.PathLike[str]) -> np.ndarray:
    """The colours of a label file, (H, W, 4) uint8 RGBA.

    Raises:
        DataError: See :func:`read_image` and :func:`stored_colors`.
    """
    with _opened(path, "label file") as image:
        return stored_colors(image, image.fp)


@contextmanager
def _opened(path: str | os.PathLike[str], kind: str) -> Iterator[Image.Image]:
    with _named(f"{kind} {os.fspath(path):.1000}"):
        file = from_home(path)
        _check_file(file, os.fspath(path))
        # From an open file: by a path, Pillow misreads gray TIFF files that EXIF turns (its memory map has their sides
        # swapped).
        with file.open("rb") as opened, Image.open(opened) as image:
            yield image


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"cannot read the {what}: {error}") from error
    except Exception as error:  # Pillow's decoders meet damage with errors of almost any type
        from_the_system = isinstance(error, OSError) and error.errno
        reason = error.strerror if from_the_system else f"{error}. Check that it is a complete image."
        raise DataError(f"cannot read the {what}: {reason}") from error


def _check_file(file: Path, given: str) -> None:
    """Refuse what is no regular file, with what to do."""
    try:
        check_regular(file)
    except IsADirectoryError as error:
        raise DataError("it is a folder. Give the path of an image in it.") from error
    except OSError as error:
        if _URL.match(given):
            raise DataError("it is an address, not a file. Download it first.") from error
        raise DataError(f"{error.strerror or error}. Check the path.") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if not all(image.size):
        raise DataError(f"it is empty: {image.width}x{image.height} pixels.")
    image.load()
    to_bytes = _gray_scaling(image)
    # exif_transpose copies, even where there is nothing to turn.
    if image.getexif().get(ExifTags.Base.Orientation) in _ORIENTATIONS:
        image = ImageOps.exif_transpose(image)
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows, strip in _strips(image):
        if to_bytes:
            rgb[rows] = to_bytes(np.asarray(strip))[..., None]
        else:
            rgb[rows] = strip if strip.mode == "RGB" else strip.convert("RGB")
    return rgb


def _gray_scaling(image: Image.Image) -> Callable[[np.ndarray], np.ndarray] | None:
    """How gray values of more than 8 bits become bytes; None for the modes that Pillow converts rightly.

    Raises:
        DataError: The values' range is not known, so that every scaling would be a guess.
    """
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    if 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()) and bits < 32:
        raise DataError(f"it has signed values of {bits} bits, whose range is not known. Scale it to 0..255 first.")
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    extremes = [(values.min(), values.max()) for values in (np.asarray(strip) for _, strip in _strips(image))]
    low, high = np.min([low for low, _ in extremes]), np.max([high for _, high in extremes])
    found = f"mode {image.mode} with values from {low!s} to {high!s}"
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise DataError(f"{found}; floats are wanted in 0..1. Scale it to 8 bits first.")
    else:
        # 16-bit images have the mode I too, in older versions of Pillow and in PPM files.
        bits = min(bits, 16)
        if image.format not in _SIXTEEN_BIT_FORMATS or low < 0 or high >= 2**bits or 0 < high < 2 ** (bits - 8):
            why = f"that is not clearly an image of {bits} bits, 0..{2**bits - 1}"
            raise DataError(f"{found}; {why}. Scale it to 8 bits first.")
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts 8 bits only

    def to_bytes(values: np.ndarray) -> np.ndarray:
        # The high byte, as Pillow reads RGB images of 16 bits.
        scaled = np.rint(255 * values) if image.mode == "F" else values >> (bits - 8)
        return (255 - scaled if inverted else scaled).astype(np.uint8)

    return to_bytes


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    height = max(1, _STRIP_PIXELS // image.width)
    if height >= image.height:
        yield slice(None), image  # most images: nothing is copied
        return
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _checked_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] not in (1, 3, 4):
        advice = "It has the channels first: image.transpose(1, 2, 0)"
    elif array.ndim == 2:
        advice = "It is grayscale: np.stack([image] * 3, axis=-1)"
    else:
        advice = {
            1: "It is grayscale: np.repeat(image, 3, axis=-1)",
            4: "It has a fourth channel, transparency perhaps: image[..., :3]",
        }.get(array.shape[-1] if array.ndim == 3 else 0)
    ready = array.ndim == 3 and array.shape[2] == 3
    return _checked(array, ready, "array", "(H, W, 3)", advice, ".astype(np.uint8)")


def _checked_tensor(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 3 and array.shape[0] not in (1, 3, 4):
        advice = "It has the channels last: image.permute(2, 0, 1)"
    elif array.ndim == 2 or (array.ndim == 3 and array.shape[0] == 1):
        advice = "It is grayscale: image.expand(3, -1, -1)"
    elif array.ndim == 3 and array.shape[0] == 4:
        advice = "It has a fourth channel, transparency perhaps: image[:3]"
    else:
        advice = None
    ready = array.ndim == 3 and array.shape[0] == 3
    return _checked(array, ready, "tensor", "(3, H, W)", advice, ".to(torch.uint8)")


def _checked(array: np.ndarray, ready: bool, kind: str, wanted: str, advice: str | None, cast: str) -> np.ndarray:
    """An array of uint8 whose shape is ``ready``, or an error that says what to do.

    Args:
        array: Of any shape and type.
        ready: Its shape is right.
        kind: What the caller gave, for the message.
        wanted: The shape that is right, for the message.
        advice: How to come from the array's shape to the wanted one.
        cast: How to come to uint8 in code.
    """
    found = f"a {kind} of shape {array.shape} and type {array.dtype}"
    if not ready or not array.size:
        if not array.size:
            advice = "It is empty"
        elif array.ndim == 4:
            advice = "It is a batch: give its images one at a time"
        raise DataError(f"{found} is no image; {wanted} uint8 is wanted. {advice or _WANTED}.")
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        raise DataError(f"{found} is no image; uint8 in 0..255 is wanted: (image * 255){cast}.")
    if array.dtype.kind not in "iuf":
        raise DataError(f"{found} is no image; {wanted} uint8 in 0..255 is wanted.")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        advice = f"(image * 255).round(){cast}"
    elif low >= 0 and high <= 255:
        advice = f"image{'.round()' if array.dtype.kind == 'f' else ''}{cast}"
    elif array.dtype.kind != "f" and low >= 0 and high <= 65535:
        advice = f"(image >> 8){cast}, if it has 16 bits"
    else:
        advice = "scale it, or undo its normalisation"
    raise DataError(f"{found} has values from {low!s} to {high!s}; uint8 in 0..255 is wanted: {advice}.")
