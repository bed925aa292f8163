"""A page to point and click at: the segments of one image, and what any of its patches correlates with."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from san_cliptrase.colors import class_colors
from san_cliptrase.drawing import OPACITY, count_labels, percent
from san_cliptrase.files import write_text_atomically
from san_cliptrase.patches.view import (
    COLOUR_MAP,
    CORRELATION,
    SUPPRESSED,
    PatchView,
    patch_classes,
    unit,
)

TEMPLATE = Path(__file__).with_name("page.html")
PLACE = "{{ data }}"
"""Where the data stand in the template, once: names of images and classes reach the page in no other way."""
_NEVER_IN_HTML = {letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
"""Letters that HTML or older JavaScript would take for the end of a text, as JSON writes them."""
LONGEST_SIDE = 960
"""Larger images are made smaller, in pixels."""
NOTES = {CORRELATION: "with global patches", SUPPRESSED: "without global patches: [CLS]'s is subtracted"}
"""What is said below the name of a map; of the others, that it is attention."""


def write_page(view: PatchView, start: tuple[int, int], path: Path) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        view: the image.
        start: (row, column) that is chosen first.
        path: HTML file.

    Raises:
        OutputError: it cannot be written.
    """
    write_text_atomically(path, page_text(page_data(view, start)))


def page_text(data: Mapping[str, Any]) -> str:
    """The page as one HTML document, from :func:`page_data`."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
    return f"{before}{text.translate(str.maketrans(_NEVER_IN_HTML))}{after}"


def page_data(
    view: PatchView,
    start: tuple[int, int],
    regions: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    note: str = "",
) -> dict[str, Any]:
    """What the page's script reads.

    Each row of a map is 8 bits a patch between its own smallest and largest value, all rows in base64: L^2 bytes a map.

    Args:
        view: the image; without maps there is nothing to click on.
        start: (row, column) that is chosen first.
        regions: (h, w) on any grid, the region of each place; None: CLIPtrase's, patch by patch.
        confidence: (H, W) in [0, 1]; None: not known.
        note: a line below the image.
    """
    height, width = view.photo.shape[:2]
    ranks = {CORRELATION: 0, SUPPRESSED: 1}
    maps = sorted(view.maps.items(), key=lambda one: ranks.get(one[0], len(ranks)))
    return {
        "title": view.title,
        "grid": list(view.grid),
        "extent": [height / view.cell[0], width / view.cell[1]],
        "start": list(start),
        "photo": _data_url(view.photo),
        "colors": _base64(_colour_map()),
        "opacity": OPACITY,
        "maps": [
            {"name": name, "note": NOTES.get(name, "attention; 1 is even"), "unit": unit(name), **_coded(values)}
            for name, values in maps
        ],
        "regions": view.regions.tolist(),
        "classes": patch_classes(view.labels, view.grid, view.cell).tolist(),
        "names": list(view.names),
        "layers": _layers(view, regions, confidence),
        "legend": _legend(view, confidence),
        "note": note,
    }


def _layers(view: PatchView, regions: np.ndarray | None, confidence: np.ndarray | None) -> list[dict[str, Any]]:
    """What can be laid over the image, each at most :data:`LONGEST_SIDE` large."""
    regions = view.regions.reshape(view.grid) if regions is None else regions
    classes = len(view.names)
    layers = [_indexed("segments", _reduced(view.labels), list(view.names), class_colors(classes))]
    count = int(regions.max(initial=-1)) + 1
    if count:
        cell = view.cell if regions.shape == tuple(view.grid) else None
        shown = _reduced(_spread(regions, view.labels.shape, cell)) + 1
        names = ["no region", *(f"region {number}" for number in range(1, count + 1))]
        # Colours of their own: those of classes would name them.
        own = np.concatenate([np.zeros((1, 3), np.uint8), class_colors(classes + count)[classes:]])
        layers.append(_indexed("regions", shown, names, own))
    if confidence is not None:
        shown = _reduced(confidence)
        codes = (shown * 255).round().clip(0, 255).astype(np.uint8)
        layers.append({"name": "confidence", "size": list(shown.shape), "codes": _deflated(codes)})
    return layers


def _indexed(name: str, indices: np.ndarray, names: list[str], colors: np.ndarray) -> dict[str, Any]:
    codes = _deflated(indices.astype("<u2"))
    return {"name": name, "size": list(indices.shape), "codes": codes, "names": names, "colors": _base64(colors)}


def _legend(view: PatchView, confidence: np.ndarray | None) -> list[dict[str, Any]]:
    """Name, colours, area and mean confidence of the classes that are there, the largest first.

    A class's colour is mixed with the mean of its pixels, as it looks in the image; its outline has the colour itself.
    """
    counts, colors = count_labels(view.labels, len(view.names)), class_colors(len(view.names))
    labels = view.labels.ravel()
    sums = np.zeros(len(counts))
    if confidence is not None:
        sums = np.bincount(labels, weights=confidence.ravel(), minlength=len(counts))
    channels = [np.bincount(labels, weights=view.photo[..., c].ravel(), minlength=len(counts)) for c in range(3)]
    means = np.stack(channels, axis=-1) / counts.clip(min=1)[:, None]
    fills = (OPACITY * colors + (1 - OPACITY) * means).round().astype(int)
    return [
        {
            "name": view.names[index],
            "color": fills[index].tolist(),
            "edge": colors[index].tolist(),
            "area": percent(counts[index] / view.labels.size),
            "confidence": None if confidence is None else f"{sums[index] / counts[index]:.2f}",
        }
        for index in np.argsort(-counts, kind="stable").tolist()
        if counts[index]
    ]


def _reduced(values: np.ndarray) -> np.ndarray:
    """Every n-th row and column of what is too large to be shown."""
    scale = max(1.0, max(values.shape) / LONGEST_SIDE)
    height, width = (max(1, round(side / scale)) for side in values.shape)
    return _sampled(values, height, width)


def _spread(regions: np.ndarray, size: tuple[int, ...], cell: tuple[float, ...] | None) -> np.ndarray:
    """A region map (h, w) at the size of the image; the last patches may lie partly outside of it."""
    if cell is None:
        return _sampled(regions, *size)
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) / patch).astype(int), count - 1)
        for side, patch, count in zip(size, cell, regions.shape, strict=True)
    )
    return regions[np.ix_(rows, columns)]


def _sampled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = (
        ((np.arange(wanted) + 0.5) * side / wanted).astype(int)
        for wanted, side in zip((height, width), values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _colour_map() -> np.ndarray:
    return (matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _coded(values: np.ndarray) -> dict[str, Any]:
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    step = np.where(high > low, (high - low) / 255, 1)
    codes = ((values - low) / step).round().astype(np.uint8)
    return {"low": _short(low), "high": _short(high), "codes": _base64(codes)}


def _short(column: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in column[:, 0]]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _deflated(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.tobytes())).decode("ascii")


def _data_url(photo: np.ndarray) -> str:
    image, file = Image.fromarray(photo), io.BytesIO()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    image.save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
