"""Pictures of segmentations: a photograph under the colours, outlines and names of its segments, and a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from san_cliptrase.colors import class_colors

SHORTEST_SIDE = 480
OPACITY = 0.5


def outlines(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose lower or right neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges


def draw_overlay(image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draw a label map over its image, with names inside the segments and a legend on the right.

    Small images are enlarged until names are readable.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers, indices into ``names``.
        names: One per class; only those present are drawn, largest first in the legend.

    Returns:
        An RGB picture, wider than the image by the legend.
    """
    scale = max(1.0, SHORTEST_SIDE / min(labels.shape))
    size = (round(labels.shape[1] * scale), round(labels.shape[0] * scale))
    # int32: Pillow has no resampling for int64.
    labels = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    colors = class_colors(len(names))
    photo = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    mixed = (1 - OPACITY) * photo + OPACITY * colors[labels]
    mixed[outlines(labels)] = 255
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    font = ImageFont.load_default(size=max(14, min(size) // 30))
    counts = np.bincount(labels.ravel(), minlength=len(names))
    present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    for index in present:
        _write_inside(picture, labels == index, names[index], font)
    legend = _draw_legend([(f"{names[i]}  {counts[i] / labels.size:.0%}", tuple(colors[i])) for i in present], font)
    framed = Image.new("RGB", (picture.width + legend.width, max(picture.height, legend.height)), "white")
    framed.paste(picture, (0, 0))
    framed.paste(legend, (picture.width, 0))
    return framed


def _write_inside(picture: Image.Image, mask: np.ndarray, name: str, font: ImageFont.FreeTypeFont) -> None:
    """Write a name where its segment is thickest, unless the segment is smaller than the letters."""
    step = max(1, min(mask.shape) // SHORTEST_SIDE)  # finer than letters, and quick for large photographs
    depth = step * distance_transform_edt(np.pad(mask[::step, ::step], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    y, x = step * row, step * column
    if depth[row, column] >= font.size / 2:
        style = {"font": font, "anchor": "mm", "fill": "white", "stroke_width": 2, "stroke_fill": "black"}
        half = font.getlength(name) / 2 + 2
        x = min(max(float(x), half), max(half, picture.width - half))
        ImageDraw.Draw(picture).text((x, float(y)), name, **style)


def _draw_legend(entries: Sequence[tuple[str, tuple[int, ...]]], font: ImageFont.FreeTypeFont) -> Image.Image:
    """A white column of colour swatches with texts."""
    box, line = round(font.size), round(1.6 * font.size)
    width = round(max(font.getlength(text) for text, _ in entries)) + 4 * box
    legend = Image.new("RGB", (width, line * len(entries) + box), "white")
    draw = ImageDraw.Draw(legend)
    for row, (text, color) in enumerate(entries):
        top = box // 2 + row * line
        draw.rectangle((box, top, 2 * box, top + box), fill=tuple(int(c) for c in color), outline="black")
        draw.text((2.5 * box, top + box / 2), text, font=font, anchor="lm", fill="black")
    return legend
