"""Argument parsers in one style, and the options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import NoReturn

from san_cliptrase.errors import suggest
from san_cliptrase.texts import one_line

USAGE_ERROR = 2
"""Exit status of a command line that cannot be read."""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and without abbreviated options."""

    def __init__(self, prog: str, about: str, epilog: str = "", abbreviations: bool = False) -> None:
        super().__init__(
            prog=prog,
            description=about,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=abbreviations,
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(USAGE_ERROR, f"error: {one_line(message)} (see {self.prog} --help)\n")

    def add_name(self, dest: str, metavar: str, known: Iterable[str], text: str) -> None:
        """Add a positional argument that must be one of the known names; close ones are suggested."""
        names = tuple(known)

        def name(given: str) -> str:
            if given not in names:
                raise argparse.ArgumentTypeError(f"there is no {given!r}; {suggest(given, names)}")
            return given

        self.add_argument(dest, metavar=metavar, type=name, help=text)

    def add_overrides(self, dest: str, text: str = "keys of the configuration, such as SEED 1") -> None:
        """Add KEY VALUE ... at the end."""
        self.add_argument(dest, nargs="*", metavar="KEY VALUE", help=text)


def listing(title: str, names: Mapping[str, str]) -> str:
    """Names with a line each, as they stand below the options in --help."""
    width = max(map(len, names)) + 2
    return "\n".join([f"{title}:", *(f"  {name:<{width}}{text}" for name, text in names.items())])


def together(overrides: list[str], parser: Parser, **options: tuple[str, object]) -> list[str]:
    """KEY VALUE ... with those of options behind them that are names for keys.

    Args:
        overrides: KEY, VALUE, ...
        parser: refuses a key that is given in both ways.
        options: name of the option -> its key and value; None: it was not given.
    """
    for option, (key, value) in options.items():
        if value is None:
            continue
        if key in overrides[::2]:
            parser.error(f"--{option} and {key} are the same setting: give one of them")
        overrides = [*overrides, key, str(value)]
    return overrides
