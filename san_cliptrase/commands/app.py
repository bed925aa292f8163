"""The command line of ``app``: a page to try the models on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from san_cliptrase.commands.parser import Parser

MOST_PORTS = 65535


def parse(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``app``."""
    parser.epilog = (
        "Needs the extra app: pip install 'san_cliptrase[app]'. The page loads nothing from the network. Images are\n"
        "deleted after an hour, and when the command ends.\n\n"
        "On the default address only this machine can reach the page, and every model can be named in it. On another\n"
        "address, such as 0.0.0.0, whoever reaches it can segment, but only with the models that the list begins with\n"
        "and those given by --clip and --san."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=7860, metavar="N", help="port to listen on; 0: any free one (default: %(default)s)")
    add("--clip", action="append", default=[], metavar="MODEL@WEIGHTS", help="a CLIP to offer; repeatable")
    add("--san", action="append", default=[], metavar="RUN", help="a trained SAN to offer; repeatable")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, ... (default: %(default)s)")
    add("--max-upload", type=int, default=32, metavar="MB", help="largest image file (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= MOST_PORTS:
        parser.error(f"--port is a number from 0 to {MOST_PORTS}")
    if options.max_upload < 1:
        parser.error("--max-upload counts megabytes from 1")
    return options
