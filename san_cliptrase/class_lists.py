"""Class lists as text files: one class a line, in the order of the label values."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from san_cliptrase.errors import DataError

MOST_BYTES = 4 * 2**20


def read_class_list(path: str | Path) -> tuple[str, ...]:
    """Class names of a file, refused where a name could not be told from a mistake.

    A line may hold synonyms with commas between ("sea, ocean"); whether they are one name or several is for the
    text encoder to say.

    Args:
        path: UTF-8 text, one class a line.

    Raises:
        DataError: there is no such file, it is not UTF-8, it is empty, a line is blank, or a class is named twice.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"the class file {path} has more than {MOST_BYTES} bytes: is it one class name a line?")
        text = content.decode("utf-8-sig")
    # ValueError: a path with a null character.
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"cannot read the class file {path}: {error}. It must be UTF-8 text with one class name a line"
        ) from error
    names = [line.strip() for line in text.splitlines()]
    if not names:
        raise DataError(f"the class file {path} is empty; write one class name a line, in the order of the labels")
    lines = defaultdict(list)
    for number, name in enumerate(names, 1):
        lines[name].append(number)
        if not name.strip(" ,"):
            raise DataError(
                f"the class file {path} has no name in line {number} of {len(names)}; every line names one label "
                f"value, so delete the line or name the class"
            )
    for name, places in lines.items():
        if len(places) > 1:
            raise DataError(
                f"the class file {path} names {name!r} more than once, in lines {' and '.join(map(str, places))}; "
                f"give each class a name of its own"
            )
    return tuple(names)
