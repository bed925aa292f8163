"""Class lists as text files: one class a line, in the order of the label values."""

from __future__ import annotations

import html
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import ftfy
import regex

from san_cliptrase.errors import DataError
from san_cliptrase.files import from_home, read_bounded

MOST_BYTES = 4 * 2**20
BACKGROUND = "background"
"""The class that background words stand for."""
Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
_LEVEL = re.compile("[0-9]{1,3}")
_PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
"""What CLIP's tokenizer cuts a text into before its byte pairs: words, digits and runs of other signs."""


def same_for_clip(name: str) -> str:
    """What CLIP's tokenizer makes of a name before it encodes it: equal for names that CLIP cannot tell apart.

    Case, the width of letters, ligatures, curly quotes, HTML entities, invisible control characters and blanks between
    signs are not seen, as in open_clip's ``basic_clean``, ``whitespace_clean`` and lower-casing.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(name)))
    return " ".join(_PIECES.findall(text.lower()))


def find_background(names: Sequence[str]) -> int | None:
    """The place of the class "background" in a class list; None where it has none."""
    return next((place for place, name in enumerate(names) if same_for_clip(name) == BACKGROUND), None)


def check_class_names(names: Sequence[str], source: str, place: str) -> None:
    """Refuse names of which one is empty or no text, or two are the same for CLIP.

    Args:
        names: In the order of the label values.
        source: What has them, for messages, such as "the class file town/classes.txt".
        place: What it calls the place of a name, such as "line"; places count from 1.

    Raises:
        DataError: Names the places.
    """
    places = defaultdict(list)
    for number, name in enumerate(names, 1):
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes of a command line that are not UTF-8
            raise DataError(f"{source} has {name!r:.200} in {place} {number}, which is not text: write it in UTF-8")
        seen = same_for_clip(name)
        if not seen.strip(" ,"):
            raise DataError(
                f"{source} has no name in {place} {number} of {len(names)}; every {place} names one class, so delete "
                f"the {place} or name the class"
            )
        places[seen].append(number)
    for numbers in places.values():
        if len(numbers) == 1:
            continue
        found, where = list(dict.fromkeys(names[number - 1] for number in numbers)), " and ".join(map(str, numbers))
        if len(found) == 1:
            raise DataError(
                f"{source} names {found[0]!r:.200} more than once, in {place}s {where}; give each class a name of its "
                f"own"
            )
        shown = " and ".join(f"{name!r:.200}" for name in found)
        raise DataError(
            f"{source} has names that are the same for CLIP, {shown}, in {place}s {where}: it "
            f"sees no case, width of letters, HTML entities or blanks; give each class a name of its own"
        )


class ClassFile(NamedTuple):
    """What a class file says.

    Attributes:
        names: In the order of the label values.
        colors: Of each name, those that stand for it in label maps; () for a file without colours.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[Color, ...], ...]


def parse_colors(text: str) -> tuple[Color, ...]:
    """Colours of a text such as "128 0 0" or "128 0 0, 64 0 0"; () if it is anything else."""
    colors = [_color(part.split()) for part in text.split(",")]
    return tuple(color for color in colors if color) if all(colors) else ()


def color_text(color: Color) -> str:
    """A colour as :func:`parse_colors` reads it."""
    return " ".join(map(str, color))


def _color(words: Sequence[str]) -> Color | None:
    if len(words) != 3 or not all(_LEVEL.fullmatch(word) and int(word) <= 255 for word in words):
        return None
    red, green, blue = map(int, words)
    return red, green, blue


def _split_colors(line: str) -> tuple[str, tuple[Color, ...]]:
    """A line's name and its colours, () where it ends in none: "sea, ocean 0 0 128, 0 0 64" has two."""
    parts, more = line.split(","), []
    while len(parts) > 1 and (color := _color(parts[-1].split())):
        more.insert(0, color)
        parts.pop()
    name, *words = ",".join(parts).rsplit(maxsplit=3) or [""]
    first = _color(words)
    return (name, (first, *more)) if first else (line, ())


def check_colors(names: Sequence[str], colors: Sequence[Sequence[Color]], source: str) -> None:
    """Refuse a colour that is said twice.

    Raises:
        DataError: Begins with ``source`` and names the classes.
    """
    owners: dict[Color, str] = {}
    for name, own in zip(names, colors, strict=True):
        for color in own:
            if color in owners:
                raise DataError(
                    f"{source} gives the colour {color_text(color)} to {owners[color]!r:.100} and again to "
                    f"{name!r:.100}; a colour stands for one class"
                )
            owners[color] = name


def read_class_list(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names of a file, see :func:`read_class_file`."""
    return read_class_file(path).names


def read_class_file(path: str | os.PathLike[str]) -> ClassFile:
    """Class names of a file and their colours, refused where one could not be told from a mistake.

    A line may hold synonyms with commas between ("sea, ocean"); whether they are one name or several is for the
    text encoder to say. Either every line ends in colours ("building 128 0 0"), or none does.

    Args:
        path: UTF-8 text, one class a line.

    Raises:
        DataError: there is no such file, it is no regular file, it is not UTF-8, it is empty, a line is blank, two
            names are the same for CLIP, only some lines end in a colour, or a colour is there twice.
    """
    try:
        text = read_bounded(from_home(path), MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            f"cannot read the class file {path}: {reason}. It must be UTF-8 text with one class name a line"
        ) from error
    # Lines as an editor counts them: splitlines() would also cut at form feeds and at line separators of Unicode.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    lines = [line.strip() for line in lines]
    if lines == [""]:
        raise DataError(f"the class file {path} is empty; write one class name a line, in the order of the labels")
    source = f"the class file {path}"
    parts = [_split_colors(line) for line in lines]
    colored = [bool(colors) for _, colors in parts]
    if all(colored):
        check_class_names([name for name, _ in parts], source, "line")
        found = ClassFile(tuple(name for name, _ in parts), tuple(colors for _, colors in parts))
        check_colors(*found, source)
        return found
    check_class_names(lines, source, "line")
    if any(colored):
        one, other = colored.index(True), colored.index(False)
        raise DataError(
            f"{source} ends line {one + 1}, {lines[one]!r:.100}, with the three numbers of a colour, and line "
            f"{other + 1}, {lines[other]!r:.100}, without. If they are colours, give every name one (numbers from 0 to "
            f"255). If they are part of a name, write them without blanks: CLIP sees no blanks between digits"
        )
    return ClassFile(tuple(lines), ())
