"""The command ``export``: a trained SAN as one file."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from san_cliptrase.commands.parser import Parser
from san_cliptrase.errors import OutputError
from san_cliptrase.texts import exact

FORMATS = ("san_cliptrase", "san")


def parse(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``export``."""
    parser.epilog = (
        "examples: san-cliptrase export output/san_cliptrase --output mine.safetensors\n"
        "          san-cliptrase export output/san --output san.pth --format san\n"
        "          san-cliptrase export ours.pth --config configs/san_vit_b16.yaml --output san.pth --format san"
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        metavar="RUN",
        help="folder of a run, of which the last good checkpoint is taken; with --format san also one checkpoint",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="file to write; replaced if it is there")
    add(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="san_cliptrase: one safetensors file with its configuration, for predict --san; san: the format of SAN's "
        "authors, for other SAN tools (default: %(default)s)",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="format san: configuration (default: config.yaml beside the weights)",
    )
    parser.add_overrides("opts", "format san: keys of the configuration, such as DATASETS.TRAIN \"('my_train',)\"")
    options = parser.parse_intermixed_args(arguments)
    if options.format != "san" and (options.config or options.opts):
        parser.error("--config and KEY VALUE go with --format san; a san_cliptrase file has the run's configuration")
    if "MODEL.WEIGHTS" in options.opts[::2]:
        parser.error("MODEL.WEIGHTS is what RUN names: give the checkpoint in its place")
    return options


def execute(options: Namespace) -> None:
    """Write the file, whole or not at all."""
    run, output = options.run.resolve(), options.output.resolve()
    if output.exists() and run in (output, output.parent):
        raise OutputError(f"--output {options.output} is a file of the run itself: choose another name")
    if options.format == "san":
        from san_cliptrase.engine.export import export_official

        settings = export_official(options.run, options.output, options.config, options.opts)
        sys.stdout.write(f"wrote {exact(options.output)}; in SAN's configuration set, where its own differs:\n")
        sys.stdout.writelines(f"    {key} {json.dumps(value)}\n" for key, value in settings.items())
        return

    from san_cliptrase.segmenter import Segmenter

    path = Segmenter.from_san(options.run, device="cpu", text_cache="").export(options.output)
    sys.stdout.write(f"wrote {exact(path)}\n")
