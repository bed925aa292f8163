"""PNG and TIFF files that are whole, and values of labels that are as they were written.

Pillow is made for images: it scales gray values of 2 and 4 bits to 8, inverts some TIFF files, leaves rows at 0 that a
PNG's data or a TIFF's strips do not reach, and does not look at the check sums of PNG's pixels.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL import TiffImagePlugin as tiff

from san_cliptrase.errors import DataError

AT_ONCE = 2**20
"""Bytes of a PNG's data that are looked at at once."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of PNG's colour types."""
_GRAY = 0
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps between columns and rows, of the passes of an interlaced PNG."""
_LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd")
"""Compressions of TIFF that keep values, and whose decoders tell of damage."""
_BLACK_IS_ZERO, _RGB, _TIFF_PALETTE = 1, 2, 3
"""Photometric interpretations."""
_UNSIGNED, _SIGNED = 1, 2
"""Sample formats."""
_FLAT = 1
"""Planar configuration: channels beside each other."""


def stored_values(image: Image.Image, file: BinaryIO) -> np.ndarray:
    """The values that are in a label file, whatever they mean as gray or colour.

    Args:
        image: As Pillow opened it from ``file``.
        file: Open for reading.

    Returns:
        (H, W), or (H, W, channels); indices of a palette, not its colours. Floats only if they are whole numbers,
        and as int64.

    Raises:
        DataError: It is neither PNG nor TIFF, holds several images, is damaged or cut off, or has values that are no
            labels or that cannot be read as they are.
    """
    _check_label_file(image)
    image.load()  # before the file is read at other places
    if image.format == "PNG":
        bits, gray = check_png(file)
        signed = False
    else:
        bits, gray, signed = _check_tiff(image, file)
    values = np.asarray(image)
    if gray and bits in (2, 4):
        return values // (255 // (2**bits - 1))  # Pillow has multiplied them by that, exactly
    if signed and values.dtype == np.uint8:
        return values.view(np.int8)
    if bits == 32 and not signed and values.dtype == np.int32:
        return values.view(np.uint32)
    return _whole_numbers(values) if values.dtype.kind == "f" else values


def stored_colors(image: Image.Image, file: BinaryIO) -> np.ndarray:
    """The colours of a label file, those of a palette included.

    Args:
        image: As Pillow opened it from ``file``.
        file: Open for reading.

    Returns:
        (H, W, 4) uint8 RGBA; the last is 255 where the file has no transparency.

    Raises:
        DataError: It is neither PNG nor TIFF, holds several images, is damaged or cut off, or has no colours of 8 bits.
    """
    _check_label_file(image)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise DataError(
            f"it has no colours (its mode is {image.mode}), and the class file gives colours. If its values are class "
            f"indices, take the colours out of the class file."
        )
    image.load()  # before the file is read at other places
    bits = check_png(file)[0] if image.format == "PNG" else _check_tiff(image, file, colors=True)[0]
    if bits == 16:
        raise DataError("it has 16 bits a channel. Save it with 8.")
    if image.mode == "P":
        known, highest = len(image.getpalette()) // 3, image.getextrema()[1]
        if highest >= known:
            raise DataError(f"it holds the index {highest}, and its palette has {known} colours. Make it again.")
    return np.asarray(image.convert("RGBA"))


def _check_label_file(image: Image.Image) -> None:
    if image.format not in ("PNG", "TIFF"):
        raise DataError(f"it is a {image.format} file. Label maps are PNG or TIFF files, which keep every value.")
    if getattr(image, "is_animated", False):
        raise DataError("it holds several images. Save the label map as a file of its own.")
    if (turned := image.getexif().get(ExifTags.Base.Orientation, 1)) != 1:
        raise DataError(f"its EXIF tag turns it (orientation {turned}). Save it upright, as its image is read.")


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    odd = ~(np.abs(values) < 2**24) | (values != np.rint(values))  # NaN and infinity are neither
    if odd.any():
        some = ", ".join(f"{value:.4g}" for value in np.unique(values[odd])[:3])
        raise DataError(f"it holds {some}: labels are whole numbers. Was it scaled, or resized with interpolation?")
    return values.astype(np.int64)


def check_png(file: BinaryIO) -> tuple[int, bool]:
    """Compares all check sums, and counts what the data give against what the head promises.

    Returns:
        Bits of a value, and whether values are gray (and not a palette's indices).
    """
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        raise DataError("it does not begin as a PNG file.")
    inflate, expected, found = zlib.decompressobj(), 0, 0
    bits = colour = 0
    kind = b""
    for kind, part in _png_chunks(file):
        if (kind == b"IHDR") != (not expected) or (kind == b"IHDR" and len(part) != 13):
            raise DataError("it does not begin with one PNG head.")
        if kind == b"IHDR":
            width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", part)
            expected = _raster_bytes(width, height, bits * _CHANNELS.get(colour, 0), interlaced)
        elif kind == b"IDAT":
            try:
                while part and found <= expected:
                    found += len(inflate.decompress(part, AT_ONCE))
                    part = inflate.unconsumed_tail
            except zlib.error as error:
                raise DataError(f"its data are damaged ({error}). Make or copy it again.") from error
    if kind != b"IEND":
        raise DataError("it ends before a PNG's end. Make or copy it again.")
    if found != expected or not inflate.eof:
        raise DataError(
            f"its data give {'more than ' if found > expected else ''}{min(found, expected)} of the {expected} bytes "
            f"that its size needs. Make or copy it again."
        )
    return bits, colour == _GRAY


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk up to IEND, those of long ones in parts."""
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        checksum, left = zlib.crc32(kind), length
        while left or not length:
            part = file.read(min(left, AT_ONCE))
            if len(part) < min(left, AT_ONCE):
                raise DataError("it ends in the middle of its data. Make or copy it again.")
            checksum, left = zlib.crc32(part, checksum), left - len(part)
            if not left and file.read(4) != struct.pack(">I", checksum):
                raise DataError(f"the check sum of its {kind.decode('latin-1')!r} is wrong: it is damaged.")
            yield kind, part
            if not length:
                break


def _raster_bytes(width: int, height: int, bits: int, interlaced: int) -> int:
    """Bytes of a PNG's rows, each with one before it that names its filter."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((math.ceil((width - x) / dx), math.ceil((height - y) / dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + math.ceil(columns * bits / 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _check_tiff(image: Image.Image, file: BinaryIO, colors: bool = False) -> tuple[int, bool, bool]:
    """Looks at what values mean, and whether all strips or tiles are there and lie in the file.

    Args:
        image: As Pillow opened it from ``file``.
        file: Open for reading.
        colors: Colours are wanted, not values.

    Returns:
        Bits of a value, whether values are gray (and not a palette's indices), and whether they are signed.
    """
    tags, compression = image.tag_v2, image.info["compression"]
    channels, bits = tags.get(tiff.SAMPLESPERPIXEL, 1), tags.get(tiff.BITSPERSAMPLE, (1,))[0]
    meaning, layout = tags.get(tiff.PHOTOMETRIC_INTERPRETATION, 0), tags.get(tiff.PLANAR_CONFIGURATION, _FLAT)
    if channels != 1 and not colors:
        raise DataError(f"it has {channels} channels. A label map has one, with a class index for every pixel.")
    if compression not in _LOSSLESS:
        raise DataError(f"its compression ({compression}) changes values or hides damage. Save it with deflate or LZW.")
    if meaning not in (_RGB if colors else _BLACK_IS_ZERO, _TIFF_PALETTE):
        raise DataError(
            f"its photometric interpretation is {meaning}{' (WhiteIsZero)' if not meaning else ''}, so that it is not "
            f"clear what its values of {bits} bits mean. Save it with 1 (BlackIsZero) or 3 (palette)."
        )
    if layout != _FLAT and (bits != 8 or channels > 1):
        raise DataError(f"its values of {bits} bits have PlanarConfiguration {layout}. Save it with 1.")
    _check_strips(tags, file, bits * channels, compression == "raw")
    return bits, meaning == _BLACK_IS_ZERO, tags.get(tiff.SAMPLEFORMAT, (_UNSIGNED,))[0] == _SIGNED


def _check_strips(tags: tiff.ImageFileDirectory_v2, file: BinaryIO, bits: int, raw: bool) -> None:
    width, height, tiled = tags[tiff.IMAGEWIDTH], tags[tiff.IMAGELENGTH], tiff.TILEOFFSETS in tags
    across = tags[tiff.TILEWIDTH] if tiled else width
    down = tags[tiff.TILELENGTH] if tiled else min(tags.get(tiff.ROWSPERSTRIP, height), height)
    offsets = tags.get(tiff.TILEOFFSETS if tiled else tiff.STRIPOFFSETS, ())
    counts = tags.get(tiff.TILEBYTECOUNTS if tiled else tiff.STRIPBYTECOUNTS, ())
    wanted = math.ceil(width / across) * math.ceil(height / down)
    if len(offsets) != wanted or len(counts) != wanted:
        found = min(len(offsets), len(counts))
        raise DataError(f"it has {found} strips or tiles, and its size needs {wanted}. Make or copy it again.")
    end, row = file.seek(0, os.SEEK_END), math.ceil(across * bits / 8)
    for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        rows = down if tiled else min(down, height - index * down)
        if offset <= 0 or not (rows * row if raw else 1) <= count <= end - offset:
            raise DataError("a strip or tile is cut off, or does not lie in the file. Make or copy it again.")
