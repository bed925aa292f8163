"""From one published file to one of this project's: label values, bits, sizes."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat, whosmat

from san_cliptrase.errors import DataError
from san_cliptrase.files import check_regular
from san_cliptrase.images import read_image, read_values

UNKNOWN = -1
MOST_PIXELS = 2**27


def value_table(meaning: Mapping[int, int]) -> np.ndarray:
    """Published value -> value in this project's files, as an array; ``UNKNOWN`` for values that must not occur."""
    table = np.full(max(meaning) + 1, UNKNOWN, np.int32)
    table[list(meaning)] = list(meaning.values())
    return table


def convert_labels(
    read: Callable[[Path], np.ndarray], table: np.ndarray, bits: int, short_side: int, source: Path, target: Path
) -> None:
    """Writes the label map of one image.

    Args:
        read: function of the published file: (H, W) integers.
        table: see :func:`value_table`.
        bits: 8 or 16 a pixel.
        short_side: see :func:`reduced_size`.
        source: the published file.
        target: the file to write.

    Raises:
        DataError: the published file cannot be read, is no label map, or has a value that is not in the table.
    """
    raw = read(source).astype(np.int64)
    if raw.ndim != 2:
        raise DataError(f"label file {source} has shape {raw.shape}; expected one class index per pixel")
    labels = table[np.clip(raw, 0, len(table) - 1)]
    strange = (raw < 0) | (raw >= len(table)) | (labels == UNKNOWN)
    if strange.any():
        values = ", ".join(map(str, np.unique(raw[strange])[:5]))
        raise DataError(
            f"label file {source} holds the value(s) {values}, which the published labels do not have: is it the "
            f"file as it was downloaded?"
        )
    image = Image.fromarray(labels.astype(np.uint8 if bits == 8 else np.uint16))
    image.resize(reduced_size(image.size, short_side), Image.Resampling.NEAREST).save(target)


def reduced_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(width, height) of a image whose shorter side is at most ``short_side``; 0: as it is."""
    shorter = min(size)
    if not short_side or shorter <= short_side:
        return size
    return tuple(short_side if side == shorter else round(side / shorter * short_side) for side in size)


def convert_image(short_side: int, source: Path, target: Path) -> None:
    """Copies a photograph, reduced if it is larger than that."""
    if short_side:
        image = Image.fromarray(read_image(source))
        if reduced_size(image.size, short_side) != image.size:
            image.resize(reduced_size(image.size, short_side), Image.Resampling.BILINEAR).save(target, quality=95)
            return
    try:
        check_regular(source)
    except OSError as error:
        raise DataError(f"cannot read the image {source}: {error.strerror or error}") from error
    shutil.copyfile(source, target)


def read_context(path: Path) -> np.ndarray:
    """Pascal Context's label map of a .mat file.

    Raises:
        DataError: it cannot be read or holds no ``LabelMap``.
    """
    try:
        check_regular(path)
        (shape,) = (shape for name, shape, _ in whosmat(path) if name == "LabelMap")
        if math.prod(shape) > MOST_PIXELS:
            raise ValueError(f"LabelMap has shape {shape}")
        return np.asarray(loadmat(path, variable_names=["LabelMap"])["LabelMap"], np.int64)
    except OSError as error:
        raise DataError(f"cannot read the label file {path}: {error.strerror or error}") from error
    # scipy's reader raises ValueError, TypeError, NotImplementedError and zlib's error for damaged files.
    except Exception as error:
        raise DataError(f"cannot read the label file {path}: {error!r}. Is it one of Pascal Context's?") from error


def read_ade_full(path: Path) -> np.ndarray:
    """Object numbers of a ``_seg.png`` of the full ADE20K.

    Raises:
        DataError: it cannot be read or has no colours.
    """
    colours = read_values(path).astype(np.int64)
    if colours.ndim != 3:
        raise DataError(f"label file {path} has shape {colours.shape}; expected the colours of a _seg.png")
    return colours[..., 0] // 10 * 256 + colours[..., 1]


class _OnlyArrays(pickle.Unpickler):
    """Reads arrays and plain containers; whatever else a pickle asks for becomes an empty shell, and nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        if module.startswith("numpy.") and name in {"_reconstruct", "scalar"}:
            return super().find_class(module, name)
        return type(name, (), {"__init__": lambda self, *args: None, "__setstate__": lambda self, state: None})


def read_ade_objects(index: Path) -> list[str]:
    """Names of all objects in the index of the full ADE20K, in the order of their numbers, which start at 1.

    Raises:
        DataError: the index cannot be read.
    """
    try:
        check_regular(index)
        with index.open("rb") as file:
            return [str(name) for name in _OnlyArrays(file).load()["objectnames"]]
    except OSError as error:
        raise DataError(f"cannot read {index}: {error.strerror or error}") from error
    except Exception as error:  # unpickling meets damage with errors of almost any type
        raise DataError(f"cannot read {index}: {error!r}. Is it the index of ADE20K_2021_17_01?") from error
