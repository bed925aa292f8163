"""Names as they are drawn into images: in a font that has their letters, and cut to a width."""

from __future__ import annotations

import bisect
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageFont

from san_cliptrase.texts import JOINERS, printable

logger = logging.getLogger(__name__)

SMALLEST_FONT = 14
"""Pixels; fonts grow with the square root of the image's area."""
LONGEST_TEXT = 200
"""Letters of a name that are looked at."""
_NO_LETTERS = frozenset({" ", *JOINERS, *map(chr, range(0xFE00, 0xFE10))})
"""What a font need not have: spaces, joiners and variation selectors."""


def shortened(text: str, font_size: int, width: float) -> str:
    """As much of a text as fits into a width in pixels, with "…" for the rest."""
    if len(text) <= LONGEST_TEXT and text_width(text, font_size) <= width:
        return text
    lengths = range(1, min(len(text), LONGEST_TEXT))
    kept = bisect.bisect_right(lengths, width, key=lambda length: text_width(text[:length] + "…", font_size))
    return text[:kept].rstrip() + "…"


def text_width(text: str, font_size: int) -> float:
    """Width of a text in pixels."""
    return font_for(text, font_size).getlength(text)


def shown_name(names: Sequence[str], index: int) -> str:
    """A class's name as it can be drawn; one without any such letter has its number, to tell it from others."""
    name = drawable(names[index])
    return f"? (class {index})" if name == "?" else name


@functools.lru_cache(maxsize=1024)
def drawable(name: str) -> str:
    """A name as the best font of this machine draws it: "?" stands for letters that it lacks."""
    name = printable(name)
    glyphs = _glyphs(_font_file(_letters(name)))
    lacking = {letter for letter in _letters(name) if ord(letter) not in glyphs}
    if lacking:
        logger.warning("no font of this machine has all letters of %r; install one of its script, as Noto's", name)
    return re.sub(r"\?{2,}", "?", "".join("?" if letter in lacking else letter for letter in name)) or "?"


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font, of so many pixels, that has most of a text's letters."""
    return _loaded_font(_font_file(_letters(text)), size)


def _letters(text: str) -> frozenset[str]:
    return frozenset(text) - _NO_LETTERS


@functools.lru_cache(maxsize=64)
def _loaded_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@functools.lru_cache(maxsize=1024)
def _font_file(letters: frozenset[str]) -> str:
    """The font that comes with matplotlib, if it has the letters; else the one of this machine that has the most."""
    import matplotlib  # late: it is slow to import

    default = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    lacking = _lacking(default, letters)
    if not lacking:
        return default
    from matplotlib import font_manager  # late: it looks for all fonts of the machine

    def plain(file: str) -> tuple[bool, bool, str]:
        stem = Path(file).stem
        return "Regular" not in stem, "Sans" not in stem, file

    best = default
    for file in sorted(font_manager.findSystemFonts(), key=plain):
        found = _lacking(file, letters)
        if found < lacking:
            best, lacking = file, found
        if not lacking:
            break
    return best


def _lacking(file: str, letters: frozenset[str]) -> int:
    return sum(ord(letter) not in _glyphs(file) for letter in letters)


@functools.lru_cache(maxsize=256)
def _glyphs(file: str) -> frozenset[int]:
    """Code points that a font has; none if it cannot be used (bitmaps of one size, damaged)."""
    from matplotlib.ft2font import FT2Font

    try:
        _loaded_font(file, SMALLEST_FONT)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
