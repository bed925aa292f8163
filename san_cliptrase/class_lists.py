"""Class lists as text files: one class a line, in the order of the label values."""

from __future__ import annotations

import html
import os
from collections import defaultdict
from collections.abc import Sequence

import ftfy
import regex

from san_cliptrase.errors import DataError
from san_cliptrase.files import from_home, read_bounded

MOST_BYTES = 4 * 2**20
BACKGROUND = "background"
"""The class that background words stand for."""
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
            raise DataError(f"{source} has {name!r:.200} in {place} {number}, which is no text: write it in UTF-8")
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


def read_class_list(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names of a file, refused where a name could not be told from a mistake.

    A line may hold synonyms with commas between ("sea, ocean"); whether they are one name or several is for the
    text encoder to say.

    Args:
        path: UTF-8 text, one class a line.

    Raises:
        DataError: there is no such file, it is no regular file, it is not UTF-8, it is empty, a line is blank, or two
            names are the same for CLIP.
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
    names = tuple(line.strip() for line in lines)
    if names == ("",):
        raise DataError(f"the class file {path} is empty; write one class name a line, in the order of the labels")
    check_class_names(names, f"the class file {path}", "line")
    return names
