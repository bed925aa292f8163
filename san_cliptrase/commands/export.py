"""The command ``export``: a trained SAN, or a frozen CLIP with fixed words, as one file."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path

from san_cliptrase.choices import TEMPLATES
from san_cliptrase.class_lists import read_class_list
from san_cliptrase.commands.parser import Parser
from san_cliptrase.errors import OutputError
from san_cliptrase.texts import exact, words_in

FORMATS = ("san_cliptrase", "san", "onnx")
OF_CLIP = ("model", "pretrained", "attention", "templates", "size")
"""Options of ``Segmenter.from_clip``; what is not given has the default there."""


def parse(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``export``."""
    parser.epilog = (
        "examples: san-cliptrase export output/san_cliptrase --output mine.safetensors\n"
        "          san-cliptrase export output/san --output san.pth --format san\n"
        "          san-cliptrase export ours.pth --config configs/san_vit_b16.yaml --output san.pth --format san\n"
        '          san-cliptrase export output/san --output san.onnx --format onnx --vocabulary "sky, sea, boat"\n'
        '          san-cliptrase export --output clip.onnx --format onnx --attention sclip --vocabulary "sky, sea"'
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        metavar="RUN",
        nargs="?",
        help="folder of a run, of which the last good checkpoint is taken; with --format san also one checkpoint, with "
        "--format onnx also a file that export wrote, or nothing: a frozen CLIP, every pixel classified by itself",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="file to write; replaced if it is there")
    add(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="san_cliptrase: one safetensors file with its configuration, for predict --san; san: the format of SAN's "
        "authors, for other SAN tools; onnx: a graph with fixed words, for onnxruntime (default: %(default)s)",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="format san: configuration (default: config.yaml beside the weights)",
    )
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--vocabulary", metavar="WORDS", help="format onnx: class names with commas between")
    words.add_argument("--vocabulary-file", type=Path, metavar="FILE", help="format onnx: file, one class name a line")
    add("--background", default="", metavar="WORDS", help="format onnx: words that all mean background")
    clip = parser.add_argument_group("format onnx without RUN, as in predict")
    clip.add_argument("--model", default=SUPPRESS, help="ViT of open_clip (default: ViT-B-16)")
    clip.add_argument("--pretrained", default=SUPPRESS, metavar="TAG", help="tag or weights file (default: openai)")
    clip.add_argument("--attention", default=SUPPRESS, metavar="RULE", help="rule of CLIP's last block")
    clip.add_argument("--templates", default=SUPPRESS, choices=[*TEMPLATES], help="sentences (default: imagenet)")
    clip.add_argument("--size", default=SUPPRESS, type=int, metavar="N", help="shorter side that CLIP sees")
    parser.add_overrides("opts", "format san: keys of the configuration, such as DATASETS.TRAIN \"('my_train',)\"")
    options = parser.parse_intermixed_args(arguments)
    if options.format != "san" and (options.config or options.opts):
        parser.error("--config and KEY VALUE go with --format san; a san_cliptrase file has the run's configuration")
    given = [name for name in OF_CLIP if name in options]
    if options.format == "onnx":
        if not (options.vocabulary or options.vocabulary_file):
            parser.error("--format onnx fixes the words: name them by --vocabulary or --vocabulary-file")
        if options.run and given:
            parser.error(f"--{given[0]} does not go with RUN: a trained SAN has settings of its own")
    elif options.run is None:
        parser.error("name RUN, the folder of a run")
    elif options.vocabulary or options.vocabulary_file or options.background or given:
        parser.error("words and options of a frozen CLIP go with --format onnx")
    if "MODEL.WEIGHTS" in options.opts[::2]:
        parser.error("MODEL.WEIGHTS is what RUN names: give the checkpoint in its place")
    return options


def execute(options: Namespace) -> None:
    """Write the file, whole or not at all."""
    output = options.output.resolve()
    run = options.run.resolve() if options.run else None
    if run and output.exists() and run in (output, output.parent):
        raise OutputError(f"--output {options.output} is a file of the run itself: choose another name")
    if options.format == "san":
        from san_cliptrase.engine.export import export_official

        settings = export_official(options.run, options.output, options.config, options.opts)
        sys.stdout.write(f"wrote {exact(options.output)}; in SAN's configuration set, where its own differs:\n")
        sys.stdout.writelines(f"    {key} {json.dumps(value)}\n" for key, value in settings.items())
        return

    from san_cliptrase.segmenter import Segmenter

    if options.format == "onnx":
        listed, background = options.vocabulary_file, words_in(options.background)
        words = read_class_list(listed) if listed else words_in(options.vocabulary)
        if options.run:
            segmenter = Segmenter.from_san(options.run, device="cpu")
        else:
            given = {name: getattr(options, name) for name in OF_CLIP if name in options}
            segmenter = Segmenter.from_clip(**given, classify="patches", refine="none", device="cpu")
        path = segmenter.export_onnx(options.output, words, background)
    else:
        path = Segmenter.from_san(options.run, device="cpu", text_cache="").export(options.output)
    sys.stdout.write(f"wrote {exact(path)}\n")
