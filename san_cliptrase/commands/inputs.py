"""From what was named on the command line to image files and the names of their results."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from san_cliptrase.errors import DataError, MissingFilesError, OutputError

IMAGE_TYPES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What is taken for an image in a folder or by a pattern; a file that is named itself may have any ending."""

_RESULTS = ("_overlay.png", "_labels.png", "_confidence.png")


def find_images(given: Sequence[str]) -> list[Path]:
    """Image files in the order in which they were named; what a folder or a pattern holds is sorted.

    Args:
        given: files, folders (the images in them, not those in their folders) and patterns with ``*``, ``?`` or ``**``.
            Results of an earlier call are left out where they were not named themselves, and so are hidden files.

    Returns:
        Each file once.

    Raises:
        DataError: one of them is a URL, is missing, or holds no images; the message says what to do.
    """
    found: dict[str, Path] = {}
    for path in (path for one in given for path in _files(one)):
        found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _files(given: str) -> Sequence[Path]:
    path = Path(given)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        raise DataError(f"{given} is a URL: download it first, then name the file")
    if given and path.is_dir():
        return list(_images(path.iterdir())) or _refuse(
            f"the folder {given} has no images ({_types()}); for those in its folders, quote a pattern: "
            f'"{path}/**/*{IMAGE_TYPES[5]}"'
        )
    if given and path.exists():
        return [path]
    if re.search(r"[*?[]", given):
        files = [Path(name) for name in glob.glob(os.path.expanduser(given), recursive=True)]
        return list(_images(files)) or _refuse(
            f"the pattern {given} matches {len(files)} files, but no image ({_types()})"
            if files
            else f"the pattern {given} matches no file in {Path.cwd()}"
        )
    raise MissingFilesError(
        f"there is no image {given}" + ("" if path.parent.is_dir() else f": there is no folder {path.parent}")
    )


def _images(paths: Sequence[Path] | Iterator[Path]) -> Iterator[Path]:
    for path in sorted(paths):
        if path.suffix.lower() not in IMAGE_TYPES or path.name.startswith(".") or not path.is_file():
            continue
        if not any(
            path.name.endswith(end) and path.with_name(path.name.removesuffix(end) + ".json").exists()
            for end in _RESULTS
        ):
            yield path


def _refuse(message: str) -> Sequence[Path]:
    raise MissingFilesError(message)


def _types() -> str:
    return ", ".join(IMAGE_TYPES)


def result_names(images: Sequence[Path], reserved: Collection[str] = ()) -> list[str]:
    """File names without their ending, numbered where two images share one: photo, photo_2.

    Args:
        images: their paths.
        reserved: names, in small letters, that none of them gets.
    """
    names: list[str] = []
    taken = set(reserved)
    for path in images:
        name, number = path.stem, 2
        while name.casefold() in taken:  # where case makes no difference, "A" and "a" are one file
            name, number = f"{path.stem}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def make_output_folder(folder: Path) -> None:
    """Make a folder if it is missing, and make sure that files can be written into it.

    Raises:
        OutputError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise OutputError(f"--output {folder} is a file: name a folder") from error
    except OSError as error:
        raise OutputError(
            f"cannot write into --output {folder}: {error.strerror}. Check free disk space and write permission"
        ) from error
