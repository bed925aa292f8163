"""Images of segmentations: an image under the colours, outlines and names of its segments, and a legend beside it."""

from __future__ import annotations

import bisect
import functools
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from san_cliptrase.colors import class_colors
from san_cliptrase.texts import JOINERS, printable

logger = logging.getLogger(__name__)

SHORTEST_SIDE = 480
LONGEST_SIDE = 4096
OPACITY = 0.5
SMALLEST_FONT = 14
"""Pixels; fonts grow with the square root of the image's area."""
LARGE_SEGMENT = 0.01
"""Share of the image from which on every segment of a class has its name, and not only the largest."""
LONGEST_NAME = 16
"""In font sizes; longer names are cut."""
SHORTEST_REST = 10
"""Letters; a name that would be cut to less is left out of the image."""
OVERHANG = 1.2
"""Width of a name by that of its segment, at most."""
LONGEST_TEXT = 200
"""Letters of a name that are looked at."""
LEGEND_COLUMNS = 3
"""At most, beside an image."""
LEGEND_ROWS = 8
"""At least, before columns are added or classes left out."""
PANORAMA = 2
"""Ratio of the sides from which on the legend lies below the image."""

_STRIP = 256
"""Rows that are resized at a time."""
_NO_LETTERS = frozenset({" ", *JOINERS, *map(chr, range(0xFE00, 0xFE10))})
"""What a font need not have: spaces, joiners and variation selectors."""


def outlines(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose lower or right neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class, (classes,) int64, row by row: bincount copies what is not int64."""
    counts = np.zeros(classes, dtype=np.int64)
    for row in labels:
        counts += np.bincount(row, minlength=classes)
    return counts


def percent(share: float) -> str:
    """A share for people: "41 %", and never "0 %" of what is there nor "100 %" beside something else."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def draw_overlay(image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draw a label map over its image, with names inside the segments and a legend beside it.

    A segment is filled with its class's colour, mixed with the image, inside an outline of the colour itself; so is
    the class's square in the legend. Small images are enlarged until names are readable, huge ones are reduced.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers, indices into ``names``.
        names: One per class; only those present are drawn, largest first in the legend.

    Returns:
        An RGB image, wider than the given one by the legend, or higher if it is a panorama.
    """
    shares = count_labels(labels, len(names)) / labels.size
    present = [int(index) for index in np.argsort(-shares, kind="stable") if shares[index]]
    width, height = _shown_size(labels.shape[1], labels.shape[0])
    font_size = max(SMALLEST_FONT, round(math.sqrt(width * height) / 40))
    labels = labels[np.ix_(_nearest(height, labels.shape[0]), _nearest(width, labels.shape[1]))].astype(np.int32)
    colors = class_colors(len(names))
    photo = _resized(image, width, height)
    pure = colors[labels]
    mixed = np.array(Image.blend(photo, Image.fromarray(pure), OPACITY))
    reach = 2 * max(1, font_size // 8) + 1
    edges = ndimage.maximum_filter(labels, reach) != ndimage.minimum_filter(labels, reach)
    mixed[edges] = pure[edges]
    overlay = Image.fromarray(mixed)
    step = max(1, min(labels.shape) // SHORTEST_SIDE)  # finer than letters, and quick for large images
    fills = _mean_colors(mixed[::step, ::step], np.where(edges, -1, labels)[::step, ::step], colors)
    drawn = {index: _drawable(names[index]) for index in present}
    _write_names(ImageDraw.Draw(overlay), labels, drawn, font_size, step)
    entries = [
        _Entry(drawn[i], percent(shares[i]), tuple(map(int, fills[i])), tuple(map(int, colors[i]))) for i in present
    ]
    below = width >= PANORAMA * height
    legend = _draw_legend(entries, font_size, width, height, below)
    corner = (0, height) if below else (width, 0)
    size = (max(width, corner[0] + legend.width), max(height, corner[1] + legend.height))
    framed = Image.new("RGB", size, "white")
    framed.paste(overlay, (0, 0))
    framed.paste(legend, corner)
    return framed


def _shown_size(width: int, height: int) -> tuple[int, int]:
    scale = min(max(1.0, SHORTEST_SIDE / min(width, height)), LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: np.ndarray, width: int, height: int) -> Image.Image:
    """A resized image, strip by strip: as a whole, Pillow would copy it into four bytes a pixel."""
    resized = Image.new("RGB", (width, height))
    scale = image.shape[0] / height
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        first = max(0, math.floor((top - 2) * scale) - 2)  # a bicubic pixel depends on two more on each side
        last = math.ceil((bottom + 2) * scale) + 2
        box = (0, top * scale - first, image.shape[1], bottom * scale - first)
        strip = Image.fromarray(image[first:last])
        resized.paste(strip.resize((width, bottom - top), Image.Resampling.BICUBIC, box), (0, top))
    return resized


def _nearest(shown: int, stored: int) -> np.ndarray:
    """For each shown row or column, the stored one that its middle lies in."""
    return ((np.arange(shown) + 0.5) * (stored / shown)).astype(np.int64).clip(max=stored - 1)


def _mean_colors(pixels: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(K, 3) uint8: the mean of each class's pixels, or its colour if it has none; label -1 is no class."""
    flat = labels.ravel() + 1
    counts = np.bincount(flat, minlength=len(colors) + 1)[1:]
    sums = [np.bincount(flat, pixels[..., channel].ravel(), len(colors) + 1)[1:] for channel in range(3)]
    means = np.stack(sums, axis=-1) / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means.round(), colors).astype(np.uint8)


def _write_names(
    draw: ImageDraw.ImageDraw, labels: np.ndarray, names: dict[int, str], font_size: int, step: int
) -> None:
    """Write names where segments are thickest; not over each other, and not into segments smaller than letters."""
    stroke, high = max(2, font_size // 10), 0.7 * font_size
    taken: list[tuple[float, float, float, float]] = []
    for place in _places(labels, names, font_size, step):
        name = names[place.label]
        room = place.right - place.left
        text = _shortened(name, font_size, min(OVERHANG * room, LONGEST_NAME * font_size))
        if text != name and len(text) < SHORTEST_REST:
            continue
        half = _width(text, font_size) / 2 + stroke
        # Inside its segment if it fits, inside the image in any case.
        x = _between(place.x, place.left + half, place.right - half)
        x = _between(x, half, labels.shape[1] - half)
        y = _between(place.y, high, labels.shape[0] - high)
        box = (x - half, y - high, x + half, y + high)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        font = _font(text, font_size)
        draw.text((x, y), text, font=font, anchor="mm", fill="white", stroke_width=stroke, stroke_fill="black")


def _between(value: float, low: float, high: float) -> float:
    return (low + high) / 2 if low > high else min(max(value, low), high)


@dataclass(frozen=True)
class _Place:
    """Where a name may stand: the middle of a segment's thickest part, and the segment's ends on that row."""

    label: int
    x: float
    y: float
    left: float
    right: float


def _places(labels: np.ndarray, classes: Iterable[int], font_size: int, step: int) -> Iterator[_Place]:
    """Places in the largest segment of each class and in all large ones, unless they are smaller than letters."""
    coarse = np.pad(labels[::step, ::step], 1, constant_values=-1)
    depth = ndimage.distance_transform_edt(~(outlines(coarse) | outlines(coarse[::-1, ::-1])[::-1, ::-1]))
    boxes = ndimage.find_objects(coarse + 1)
    for label in classes:
        if boxes[label] is None:  # too small for the step
            continue
        top, left = (part.start for part in boxes[label])
        segments, _ = ndimage.label(coarse[boxes[label]] == label)
        sizes = np.bincount(segments.ravel())
        sizes[0] = 0
        for segment in np.argsort(-sizes, kind="stable")[: max(1, (sizes >= LARGE_SEGMENT * coarse.size).sum())]:
            inside = segments == segment
            thickness = np.where(inside, depth[boxes[label]], -1)
            if step * (thickness.max() + 1) < font_size / 2:
                continue
            rows, columns = np.nonzero(thickness >= 0.9 * thickness.max())
            middle = [indices.mean() for indices in np.nonzero(inside)]
            nearest = np.hypot(rows - middle[0], columns - middle[1]).argmin()
            row, column = rows[nearest], columns[nearest]
            others = np.flatnonzero(~np.pad(inside[row], 1)) - 1
            end = np.searchsorted(others, column)
            # The middle of a coarse pixel, without the row and the column of padding.
            yield _Place(
                label=label,
                x=step * (left + column - 0.5),
                y=step * (top + row - 0.5),
                left=step * float(left + others[end - 1]),
                right=step * float(left + others[end] - 1),
            )


@dataclass(frozen=True)
class _Entry:
    name: str
    share: str
    fill: tuple[int, ...]
    outline: tuple[int, ...]


def _draw_legend(entries: Sequence[_Entry], font_size: int, width: int, height: int, below: bool) -> Image.Image:
    """A white panel of colours, names and shares for an image of a size; what does not fit is counted."""
    names = [_shortened(entry.name, font_size, LONGEST_NAME * font_size) for entry in entries]
    longest = max(_width(name, font_size) for name in names)
    column = math.ceil(longest + 8 * font_size)
    line = round(1.6 * font_size)
    if below:
        columns = max(1, min(len(entries), (width - font_size) // column))
        most_rows = max(LEGEND_ROWS, height // line)
    else:
        most_rows = max(LEGEND_ROWS, (height - font_size) // line)
        columns = min(LEGEND_COLUMNS, math.ceil(len(entries) / most_rows))
    shown = len(entries) if len(entries) <= most_rows * columns else most_rows * columns - 1
    rows = min(most_rows, math.ceil(len(entries) / columns))
    legend = Image.new("RGB", (columns * column, rows * line + font_size), "white")
    draw = ImageDraw.Draw(legend)
    for place in range(min(shown + 1, len(entries))):
        left = font_size + place // rows * column
        middle = font_size / 2 + (place % rows + 0.5) * line
        if place == shown:
            text = f"and {len(entries) - shown} more"
            draw.text((left, middle), text, font=_font(text, font_size), anchor="lm", fill="black")
            continue
        entry, name = entries[place], names[place]
        box = (left, middle - font_size / 2, left + font_size, middle + font_size / 2)
        draw.rectangle(box, fill=entry.fill, outline=entry.outline, width=max(2, font_size // 6))
        draw.text((left + 1.5 * font_size, middle), name, font=_font(name, font_size), anchor="lm", fill="black")
        right = left + column - 2 * font_size
        draw.text((right, middle), entry.share, font=_font(entry.share, font_size), anchor="rm", fill="black")
    return legend


def _shortened(text: str, font_size: int, width: float) -> str:
    """As much of a text as fits into a width, with "…" for the rest."""
    if len(text) <= LONGEST_TEXT and _width(text, font_size) <= width:
        return text
    lengths = range(1, min(len(text), LONGEST_TEXT))
    kept = bisect.bisect_right(lengths, width, key=lambda length: _width(text[:length] + "…", font_size))
    return text[:kept].rstrip() + "…"


def _width(text: str, font_size: int) -> float:
    return _font(text, font_size).getlength(text)


@functools.lru_cache(maxsize=1024)
def _drawable(name: str) -> str:
    """A name as the best font of this machine draws it: "?" stands for letters that it lacks."""
    name = printable(name)
    glyphs = _glyphs(_font_file(_letters(name)))
    lacking = {letter for letter in _letters(name) if ord(letter) not in glyphs}
    if lacking:
        logger.warning("no font of this machine has all letters of %r; install one of its script, as Noto's", name)
    return re.sub(r"\?{2,}", "?", "".join("?" if letter in lacking else letter for letter in name)) or "?"


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    return _loaded_font(_font_file(_letters(text)), size)


def _letters(text: str) -> frozenset[str]:
    return frozenset(text) - _NO_LETTERS


@functools.lru_cache(maxsize=64)
def _loaded_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@functools.lru_cache(maxsize=1024)
def _font_file(letters: frozenset[str]) -> str:
    """The font that comes with matplotlib, if it has the letters; else the one of this machine that has the most."""
    import matplotlib  # late: it is slow to import

    default = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    lacking = _lacking(default, letters)
    if not lacking:
        return default
    from matplotlib import font_manager  # late: it looks for all fonts of the machine

    def plain(file: str) -> tuple[bool, bool, str]:
        stem = Path(file).stem
        return "Regular" not in stem, "Sans" not in stem, file

    best = default
    for file in sorted(font_manager.findSystemFonts(), key=plain):
        found = _lacking(file, letters)
        if found < lacking:
            best, lacking = file, found
        if not lacking:
            break
    return best


def _lacking(file: str, letters: frozenset[str]) -> int:
    return sum(ord(letter) not in _glyphs(file) for letter in letters)


@functools.lru_cache(maxsize=256)
def _glyphs(file: str) -> frozenset[int]:
    """Code points that a font has; none if it cannot be used (bitmaps of one size, damaged)."""
    from matplotlib.ft2font import FT2Font

    try:
        _loaded_font(file, SMALLEST_FONT)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
