"""Texts from strangers on their way to a terminal, a page or a spreadsheet: nothing in them is taken for a command."""

from __future__ import annotations

import re
import textwrap
import unicodedata

JOINERS = "\u200c\u200d"
"""Invisible, but letters of Persian and of Indian scripts take their shape from them."""
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""How cells begin that spreadsheets run as formulas, or that hide such a beginning."""


def printable(name: str) -> str:
    """A name on one line, without characters that move a cursor, turn the direction of text or are no characters."""

    def shown(letter: str) -> str:
        if _is_plain(letter):
            return letter
        return "" if unicodedata.category(letter) == "Cf" else " "  # Cf: marks of direction, soft hyphens

    return " ".join("".join(map(shown, unicodedata.normalize("NFC", name))).split())


def escaped(text: str) -> str:
    r"""A text in which such characters are written out, as "\x1b"; spaces, line ends and tabs stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) == "Zs" or _is_plain(letter)
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def exact(name: object) -> str:
    r"""A name of a file on one line and as it is: what a terminal would obey is written out, as "\x1b" and "\n"."""
    return escaped(str(name)).replace("\n", r"\n").replace("\t", r"\t")


def one_line(text: object, length: int | None = None) -> str:
    """Any text, such as another library's error, as a part of a message: on one line, without terminal codes.

    Args:
        text: anything that has a text.
        length: letters at most; more are cut off.
    """
    found = escaped(" ".join(_TERMINAL_CODES.sub("", str(text)).split()))
    return found if length is None else textwrap.shorten(found, length)


def reason(error: BaseException, length: int = 300) -> str:
    """What another library says of a file, as a part of a message; never torch's advice to run what is in it."""
    if "weights_only" in str(error):
        return "it is not made of tensors and plain values alone"
    return one_line(error, length).rstrip(".") or type(error).__name__


def markdown(name: str) -> str:
    """A name as a part of a line of Markdown, where no sign of it makes a link, an image or HTML."""
    return re.sub(r"([\\`*\[\]<>!|&])", r"\\\1", printable(name))


def chart_label(name: str) -> str:
    """A name in a chart of matplotlib, which takes what is between two dollar signs for a formula."""
    return printable(name).replace("$", r"\$")


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet runs as a formula: texts that begin like one get an apostrophe, numbers stay."""
    if not isinstance(value, str):
        return value
    return escaped(f"'{value}" if value.startswith(_FORMULA) else value)


def _is_plain(letter: str) -> bool:
    return letter in JOINERS or unicodedata.category(letter)[0] not in "CZ"


def words_in(text: str) -> list[str]:
    """Words with commas between; none in an empty text."""
    return [word.strip() for word in text.split(",")] if text.strip() else []
