"""Images of segmentations: an image under the colours, outlines and names of its segments, and a legend beside it."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from san_cliptrase.colors import class_colors
from san_cliptrase.lettering import SMALLEST_FONT, drawable, font_for, shortened, shown_name, text_width

logger = logging.getLogger(__name__)

SHORTEST_SIDE = 480
LONGEST_SIDE = 4096
SHORTEST_PANEL = 320
LONGEST_PANEL = 1024
OPACITY = 0.5
ERROR = (213, 0, 0)
ERROR_OPACITY = 0.8
LARGE_SEGMENT = 0.01
"""Share of the image from which on every segment of a class has its name, and not only the largest."""
LONGEST_NAME = 16
"""In font sizes; longer names are cut."""
SHORTEST_REST = 10
"""Letters; a name that would be cut to less is left out of the image."""
OVERHANG = 1.2
"""Width of a name by that of its segment, at most."""
LEGEND_COLUMNS = 3
"""At most, beside an image."""
LEGEND_ROWS = 8
"""At least, before columns are added or classes left out."""
PANORAMA = 2
"""Ratio of the sides from which on the legend lies below the image."""

_STRIP = 256
"""Rows that are resized at a time."""


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
    width, height = _shown_size(labels.shape[1], labels.shape[0], SHORTEST_SIDE, LONGEST_SIDE)
    font_size = _font_size(width, height)
    colors = class_colors(len(names))
    drawn = {index: shown_name(names, index) for index in present}
    overlay, fills = _shade(_resized(image, width, height), _sampled(labels, width, height), colors, drawn, font_size)
    entries = [_Entry(drawn[i], percent(shares[i]), fills[i], tuple(map(int, colors[i]))) for i in present]
    below = width >= PANORAMA * height
    legend = _draw_legend(entries, font_size, width, height, below)
    corner = (0, height) if below else (width, 0)
    size = (max(width, corner[0] + legend.width), max(height, corner[1] + legend.height))
    framed = Image.new("RGB", size, "white")
    framed.paste(overlay, (0, 0))
    framed.paste(legend, corner)
    return framed


def draw_comparison(
    image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, names: Sequence[str], ignore_label: int, title: str
) -> Image.Image:
    """Draw image, prediction, ground truth and errors side by side, those of a panorama one below the other.

    Labels are drawn as in :func:`draw_overlay`. Errors are red on the gray image; pixels that are not scored are dark
    in the ground truth and black among the errors. The legend has each class's IoU in this image, the largest first.

    Args:
        image: (H, W, 3) uint8.
        prediction: (H, W) integers, indices into ``names``.
        truth: (H, W) integers, indices into ``names`` or ``ignore_label``.
        names: One per class.
        ignore_label: What marks pixels that are not scored.
        title: Written at the top.

    Returns:
        An RGB image.
    """
    scored = truth != ignore_label
    none = len(names)  # the class of what is not scored, behind all others
    truth = np.where(scored, truth, none)
    wrong = scored & (prediction != truth)
    truths = count_labels(truth, none + 1)[:none]
    predictions = count_labels(np.where(scored, prediction, none), none + 1)[:none]
    shared = count_labels(np.where(wrong, none, truth), none + 1)[:none]
    unions = truths + predictions - shared
    present = [int(i) for i in np.argsort(-unions, kind="stable") if unions[i]]
    colors = np.concatenate([class_colors(none), np.zeros((1, 3), np.uint8)])
    width, height = _shown_size(truth.shape[1], truth.shape[0], SHORTEST_PANEL, LONGEST_PANEL)
    font_size = _font_size(width, height)
    drawn = {index: shown_name(names, index) for index in present}
    photo = _resized(image, width, height)
    predicted, fills = _shade(photo, _sampled(prediction, width, height), colors, drawn, font_size)
    true, true_fills = _shade(photo, _sampled(truth, width, height), colors, drawn, font_size)
    errors = np.array(photo.convert("L").convert("RGB"))
    red = _sampled(wrong, width, height)
    errors[red] = (1 - ERROR_OPACITY) * errors[red] + ERROR_OPACITY * np.array(ERROR)
    errors[~_sampled(scored, width, height)] = 0
    panels = {"image": photo, "prediction": predicted, "ground truth": true, "errors": Image.fromarray(errors)}
    entries = [
        _Entry(
            drawn[index],
            f"IoU {percent(shared[index] / unions[index])}",
            true_fills[index] if truths[index] else fills[index],
            tuple(map(int, colors[index])),
        )
        for index in present
    ]
    share = wrong.sum() / max(1, scored.sum())
    entries.append(_Entry("error", percent(share), ERROR, ERROR))
    if not scored.all():
        entries.append(_Entry("not scored", percent((~scored).mean()), (0, 0, 0), (0, 0, 0)))
    return _framed_panels(panels, drawable(title), entries, font_size)


def _framed_panels(
    panels: Mapping[str, Image.Image], title: str, entries: Sequence[_Entry], font_size: int
) -> Image.Image:
    """Panels of one size with their names above them, in a row or, if they are panoramas, in a column; legend below."""
    width, height = next(iter(panels.values())).size
    strip, columns = 2 * font_size, 1 if width >= PANORAMA * height else len(panels)
    step = (width + font_size, height + strip)
    size = (columns * step[0] + font_size, strip + len(panels) // columns * step[1])
    legend = _draw_legend(entries, font_size, *size, below=True)
    framed = Image.new("RGB", (max(size[0], legend.width), size[1] + legend.height), "white")
    draw = ImageDraw.Draw(framed)

    def write(text: str, x: int, y: int, room: int) -> None:
        text = shortened(text, font_size, room)
        draw.text((x, y + strip / 2), text, font=font_for(text, font_size), anchor="lm", fill="black")

    write(title, font_size, 0, framed.width - 2 * font_size)
    for place, (name, panel) in enumerate(panels.items()):
        x, y = font_size + place % columns * step[0], strip + place // columns * step[1]
        write(name, x, y, width)
        framed.paste(panel, (x, y + strip))
    framed.paste(legend, (0, size[1]))
    return framed


def _shade(
    photo: Image.Image, labels: np.ndarray, colors: np.ndarray, names: Mapping[int, str], font_size: int
) -> tuple[Image.Image, list[tuple[int, ...]]]:
    """An image under its segments' colours, outlines and names, and the mean colour that each class has got.

    Args:
        photo: Of the size of the labels.
        labels: (H, W) int32.
        colors: (K, 3) uint8, one per label.
        names: Of the labels whose names are written, the most important first.
        font_size: In pixels.
    """
    pure = colors[labels]
    mixed = np.array(Image.blend(photo, Image.fromarray(pure), OPACITY))
    reach = 2 * max(1, font_size // 8) + 1
    edges = ndimage.maximum_filter(labels, reach) != ndimage.minimum_filter(labels, reach)
    mixed[edges] = pure[edges]
    shaded = Image.fromarray(mixed)
    step = max(1, min(labels.shape) // SHORTEST_SIDE)  # finer than letters, and quick for large images
    fills = _mean_colors(mixed[::step, ::step], np.where(edges, -1, labels)[::step, ::step], colors)
    _write_names(ImageDraw.Draw(shaded), labels, names, font_size, step)
    return shaded, [tuple(map(int, fill)) for fill in fills]


def _font_size(width: int, height: int) -> int:
    return max(SMALLEST_FONT, round(math.sqrt(width * height) / 40))


def _sampled(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width), int32 unless they are truth values: a label map at the size at which it is shown."""
    found = labels[np.ix_(_nearest(height, labels.shape[0]), _nearest(width, labels.shape[1]))]
    return found if found.dtype == bool else found.astype(np.int32)


def _shown_size(width: int, height: int, shortest: int, longest: int) -> tuple[int, int]:
    scale = min(max(1.0, shortest / min(width, height)), longest / max(width, height))
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
    draw: ImageDraw.ImageDraw, labels: np.ndarray, names: Mapping[int, str], font_size: int, step: int
) -> None:
    """Write names where segments are thickest; not over each other, and not into segments smaller than letters."""
    stroke, high = max(2, font_size // 10), 0.7 * font_size
    taken: list[tuple[float, float, float, float]] = []
    for place in _places(labels, names, font_size, step):
        name = names[place.label]
        room = place.right - place.left
        text = shortened(name, font_size, min(OVERHANG * room, LONGEST_NAME * font_size))
        if text != name and len(text) < SHORTEST_REST:
            continue
        half = text_width(text, font_size) / 2 + stroke
        # Inside its segment if it fits, inside the image in any case.
        x = _between(place.x, place.left + half, place.right - half)
        x = _between(x, half, labels.shape[1] - half)
        y = _between(place.y, high, labels.shape[0] - high)
        box = (x - half, y - high, x + half, y + high)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        font = font_for(text, font_size)
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


def _places(labels: np.ndarray, classes: Collection[int], font_size: int, step: int) -> Iterator[_Place]:
    """Places in the largest segment of each class and in all large ones, unless they are smaller than letters."""
    coarse = np.pad(labels[::step, ::step], 1, constant_values=-1)
    depth = ndimage.distance_transform_edt(~(outlines(coarse) | outlines(coarse[::-1, ::-1])[::-1, ::-1]))
    boxes = ndimage.find_objects(coarse + 1, max(classes, default=-1) + 1)
    for label in classes:
        if boxes[label] is None:  # not there, or too small for the step
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
    names = [shortened(entry.name, font_size, LONGEST_NAME * font_size) for entry in entries]
    longest = max(text_width(name, font_size) for name in names)
    widest = max(text_width(entry.share, font_size) for entry in entries)
    column = math.ceil(1.5 * font_size + longest + font_size + widest + 2 * font_size)
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
            draw.text((left, middle), text, font=font_for(text, font_size), anchor="lm", fill="black")
            continue
        entry, name = entries[place], names[place]
        box = (left, middle - font_size / 2, left + font_size, middle + font_size / 2)
        draw.rectangle(box, fill=entry.fill, outline=entry.outline, width=max(2, font_size // 6))
        draw.text((left + 1.5 * font_size, middle), name, font=font_for(name, font_size), anchor="lm", fill="black")
        # Of columns in a row, a share stands behind its name: at the column's end it would be nearer to the next one.
        end = text_width(name, font_size) + 2.5 * font_size if below else column - 2 * font_size
        anchor = "lm" if below else "rm"
        draw.text((left + end, middle), entry.share, font=font_for(entry.share, font_size), anchor=anchor, fill="black")
    return legend
