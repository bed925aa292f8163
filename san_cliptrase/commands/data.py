"""The command ``data``: list, prepare, check and register."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from san_cliptrase.commands.parser import Parser


def show(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``data list``."""
    return _parsed(parser, arguments, "list")


def prepare(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``data prepare``."""
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="data set, such as ade150_val")
    add("--source", type=Path, metavar="DIR", help="where the archive is unpacked, if not in the root")
    return _parsed(parser, arguments, "prepare")


def check(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``data check``."""
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="data set, such as ade150_val")
    add("--all", action="store_true", help="say everything, not only the first things")
    return _parsed(parser, arguments, "check")


def register(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``data register``."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="with images/ and annotations/, or a folder a split in both")
    add("--name", default="", help="of the data set, or what comes before _train, _val (default: the folder's)")
    add("--classes", type=Path, metavar="FILE", help="one name a line (default: classes.txt in the folder)")
    add(
        "--ignore",
        default="",
        metavar="VALUE",
        help="label value of pixels without a label (default: 255, or 65535); for label maps in colours their colour, "
        "such as '0 0 0'",
    )
    add("--background", default="", metavar="WORDS", help="words for the last class, background, with commas between")
    add("--unchecked", action="store_true", help="do not read the files first")
    return _parsed(parser, arguments, "register")


def _parsed(parser: Parser, arguments: Sequence[str], action: str) -> Namespace:
    if action != "list":
        cores = os.cpu_count() or 1
        parser.add_argument("--workers", type=int, default=cores, metavar="N", help="processes (default: %(default)s)")
    options = parser.parse_intermixed_args(arguments)
    options.action = action
    return options
