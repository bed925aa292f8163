"""A page to click on: what any patch of one image attends to and correlates with, in one HTML file."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from san_cliptrase.files import write_text_atomically
from san_cliptrase.patches.view import COLOUR_MAP, PatchView, patch_classes, unit

TEMPLATE = Path(__file__).with_name("page.html")
PLACE = "{{ data }}"
"""Where the data stand in the template, once: names of images and classes reach the page in no other way."""
_NEVER_IN_HTML = {letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
"""Letters that HTML or older JavaScript would take for the end of a text, as JSON writes them."""
LONGEST_SIDE = 960
"""Larger photographs are made smaller, in pixels."""


def write_page(view: PatchView, start: tuple[int, int], path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Args:
        view: the image.
        start: (row, column) that is chosen first.
        path: HTML file.

    Raises:
        OutputError: it cannot be written.
    """
    data = json.dumps(page_data(view, start), separators=(",", ":"), allow_nan=False)
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
    write_text_atomically(path, f"{before}{data.translate(str.maketrans(_NEVER_IN_HTML))}{after}")


def page_data(view: PatchView, start: tuple[int, int]) -> dict[str, Any]:
    """What the page's script reads.

    Each row of a map is 8 bits a patch between its own smallest and largest value, all rows in base64: L^2 bytes a map.
    """
    height, width = view.photo.shape[:2]
    colors = (matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return {
        "title": view.title,
        "grid": list(view.grid),
        "extent": [height / view.cell[0], width / view.cell[1]],
        "start": list(start),
        "photo": _data_url(view.photo),
        "colors": _base64(colors),
        "maps": [{"name": name, "unit": unit(name), **_coded(values)} for name, values in view.maps.items()],
        "regions": view.regions.tolist(),
        "classes": patch_classes(view.labels, view.grid, view.cell).tolist(),
        "names": list(view.names),
    }


def _coded(values: np.ndarray) -> dict[str, Any]:
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    step = np.where(high > low, (high - low) / 255, 1)
    codes = ((values - low) / step).round().astype(np.uint8)
    return {"low": _short(low), "high": _short(high), "codes": _base64(codes)}


def _short(column: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in column[:, 0]]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _data_url(photo: np.ndarray) -> str:
    image, file = Image.fromarray(photo), io.BytesIO()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    image.save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
