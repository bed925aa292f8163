"""What a folder of images, label maps and a class file holds: entries for the registry of own datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from san_cliptrase.class_lists import BACKGROUND, Color, check_colors, color_text, parse_colors, read_class_file
from san_cliptrase.data.datasets import check_ignore, datasets_root, usual_ignore
from san_cliptrase.data.own import NO_LABEL, OwnDataset
from san_cliptrase.data.pairs import IMAGE_TYPES
from san_cliptrase.data.table import DATASETS
from san_cliptrase.errors import DataError, MissingFilesError
from san_cliptrase.files import from_home, is_plain_name

LABEL_FOLDERS = ("annotations", "labels", "masks")


def find_splits(folder: Path, name: str) -> dict[str, tuple[Path, Path]]:
    """Datasets that a folder holds: name -> folders of images and of label maps.

    ``images`` and ``annotations`` (or ``labels``, ``masks``) with files in them are one dataset, ``name``; with
    a folder a split in them, such as ``images/train``, one a split: ``name_train``.

    Raises:
        FileNotFoundError: a folder is missing, or a split is without images or without a folder of label maps.
    """
    if not folder.is_dir():
        raise MissingFilesError(f"there is no folder {folder}")
    images = folder / "images"
    labels = next((folder / kind for kind in LABEL_FOLDERS if (folder / kind).is_dir()), folder / LABEL_FOLDERS[0])
    for place in (images, labels):
        if not place.is_dir():
            raise MissingFilesError(
                f"{folder} has no folder {place.name!r}. Expected are images/ and one of {', '.join(LABEL_FOLDERS)}, "
                f"each with files, or with a folder a split (images/train, annotations/train, ...)"
            )
    splits = sorted(path.name for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {f"{name}_{split}": (images / split, labels / split) for split in splits} or {name: (images, labels)}
    for place, truths in found.values():
        if not truths.is_dir():
            raise MissingFilesError(f"{place} has no folder of label maps beside it: {truths} does not exist")
        if not any(path.suffix.lower() in IMAGE_TYPES for path in place.iterdir()):
            raise MissingFilesError(
                f"{place} is empty: put images there ({', '.join(sorted(IMAGE_TYPES))}), or delete it"
            )
    return found


def make_entries(
    folder: Path, name: str, classes: Path | None, ignore: str, background: tuple[str, ...]
) -> dict[str, OwnDataset]:
    """Entries for the datasets that a folder holds.

    Args:
        folder: see :func:`find_splits`.
        name: what they are called; "" takes the folder's name.
        classes: class file; without one, ``classes.txt`` in the folder.
        ignore: value of pixels without a label, or their colours ("0 0 0"); "": 255, or 65535 for more than 255
            classes, and no colour.
        background: see :class:`OwnDataset`.

    Raises:
        FileNotFoundError: see :func:`find_splits`.
        DataError: a bad class file, name, ignore value or colour, or background words without a background class.
    """
    folder = from_home(folder).absolute()
    name = name or folder.name
    splits = find_splits(folder, name)
    for key in splits:
        if not is_plain_name(key):
            raise DataError(
                f"{key!r} is not a name for a dataset: use letters, digits, _, . and -; begin with a letter or digit "
                f"(option --name, or the split's folder)"
            )
    words, colors = read_class_file(classes or folder / "classes.txt")
    if background and words[-1] != BACKGROUND:
        raise DataError(f"--background needs 'background' as the last line of the class file, not {words[-1]!r}")
    if taken := sorted(splits.keys() & DATASETS.keys()):
        raise DataError(f"{taken[0]!r} is a dataset of this project: choose another name (option --name)")
    value, ignored = _ignore(ignore, len(words), bool(colors))
    check_ignore(value, words, "option --ignore")
    if colors:
        check_colors([*words, NO_LABEL], [*colors, ignored], "the class file with option --ignore")
    texts = tuple(_colors_text(own) for own in colors)
    return {
        key: OwnDataset(_portable(images), _portable(labels), words, value, background, texts, _colors_text(ignored))
        for key, (images, labels) in splits.items()
    }


def _ignore(text: str, classes: int, colored: bool) -> tuple[int, tuple[Color, ...]]:
    """Value and colours of pixels without a label, of what ``--ignore`` says."""
    usual, colors = usual_ignore(classes), parse_colors(text)
    if not text or (colored and colors):
        return usual, colors
    if colored:
        raise DataError(
            f"option --ignore: {text!r:.100} is not a colour, but the class file gives colours. Say '0 0 0', or "
            f"several with commas between"
        )
    try:
        return int(text), ()
    except ValueError as error:
        advice = "give the names in the class file their colours too" if colors else "say a whole number, such as 255"
        raise DataError(f"option --ignore: {text!r:.100} is not a label value; {advice}") from error


def _colors_text(colors: Sequence[Color]) -> str:
    return ", ".join(map(color_text, colors))


def _portable(path: Path) -> str:
    """Relative to the root of the datasets where it lies in it: the root may then move."""
    root = datasets_root().absolute()
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
