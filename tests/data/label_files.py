"""PNG and TIFF files of one channel as Pillow does not write them."""

import struct
import zlib

import numpy as np

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def packed(values, bits):
    """Rows of big-endian values of so many bits, each row filled up to whole bytes."""
    digits = (values.astype(np.int64)[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(digits.reshape(len(values), -1), axis=1)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values, bits=8, palette=False, interlaced=False, cut=0, before=b""):
    """A PNG file.

    Args:
        values: (H, W).
        bits: 1, 2, 4, 8 or 16.
        palette: values are a palette's indices, not gray.
        interlaced: in seven passes.
        cut: bytes that the last row lacks, in a compressed stream that is whole.
        before: chunks before the data.
    """
    height, width = values.shape
    passes = [values[y::dy, x::dx] for x, y, dx, dy in (ADAM7 if interlaced else ((0, 0, 1, 1),))]
    raster = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in packed(part, bits))
    head = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, interlaced)
    colours = chunk(b"PLTE", bytes(range(3 * min(2**bits, 64)))) if palette else b""
    data = chunk(b"IDAT", zlib.compress(raster[: len(raster) - cut]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + colours + before + data + chunk(b"IEND", b"")


def tiff(values, bits=8, order="<", compression=1, rows=None, **tags):
    """A TIFF file of one channel.

    Args:
        values: (H, W): unsigned integers of ``bits``, or of the type that SampleFormat says.
        bits: of a value.
        order: "<" or ">", of numbers.
        compression: 1 (none) or 8 (deflate).
        rows: of a strip; None: all.
        tags: by their number, as t262=0, in place of what follows from the values; None leaves one out.
    """
    height, width = values.shape
    rows = rows or height
    lines = packed(values, bits) if bits < 8 else values.astype(values.dtype.newbyteorder(order))
    strips = [lines[top : top + rows].tobytes() for top in range(0, height, rows)]
    strips = [zlib.compress(strip) if compression == 8 else strip for strip in strips]
    form = 1 if bits < 8 else {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    found = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: 1, 278: rows, 339: form}
    given = {int(name[1:]): value for name, value in tags.items()}
    offsets, place = [], 8
    for strip in strips:
        offsets.append(place)
        place += len(strip)
    found |= {273: offsets, 279: [len(strip) for strip in strips]} | given
    found = {tag: value if isinstance(value, list) else [value] for tag, value in found.items() if value is not None}
    directory, entries, extra = place, b"", b""
    after = directory + 2 + 12 * len(found) + 4
    for tag, value in sorted(found.items()):
        content = b"".join(struct.pack(f"{order}I", number) for number in value)
        if len(value) > 1:
            content, extra = struct.pack(f"{order}I", after + len(extra)), extra + content
        entries += struct.pack(f"{order}HHI", tag, 4, len(value)) + content
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(found)) + entries + bytes(4) + extra
