"""The command ``predict``: images and words in, a segmentation of each image out."""

from __future__ import annotations

import logging
import os
import sys
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from san_cliptrase.choices import (
    ATTENTION_RULES,
    CLASSIFY,
    DEFAULT_READING,
    FORMATS,
    PARTS,
    READINGS,
    REFINEMENTS,
    REGION_SOURCES,
    TEMPLATES,
)
from san_cliptrase.class_lists import BACKGROUND, read_class_list
from san_cliptrase.commands.inputs import find_images, make_output_folder, result_names
from san_cliptrase.commands.parser import Parser, listing
from san_cliptrase.errors import SanCliptraseError, suggest
from san_cliptrase.files import remove_unfinished
from san_cliptrase.terminal import complain
from san_cliptrase.texts import exact, one_line, words_in

if TYPE_CHECKING:
    from san_cliptrase.segmentation import Segmentation

logger = logging.getLogger(__name__)

COCO_FILE = "coco.json"
"""Below --output."""
FEW = 3
"""Up to this many images there is no progress bar."""
OF_CLIP = (
    "model",
    "pretrained",
    "reading",
    "attention",
    "classify",
    "cls_layer",
    "regions",
    "regions_pretrained",
    "sam_model",
    "size",
    "eps",
    "min_samples",
    "templates",
    "synonyms",
)
"""Options of ``Segmenter.from_clip``; what is not given has the default there. A trained SAN has its own settings."""
OF_BOTH = ("refine", "scales", "flip")
"""Options of ``Segmenter.from_clip`` and ``from_san``."""


def parse(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``predict``."""
    parser.epilog = "\n\n".join(
        [
            listing("readings", {name: one.about for name, one in READINGS.items()}),
            listing(
                "attention rules (or a combination, as qq+kk-mlp+neighbours: docs/architecture.md)", ATTENTION_RULES
            ),
            listing("ways to classify a region (or a mean of several, as cls+patches)", CLASSIFY),
            listing("sources of regions", REGION_SOURCES),
            listing("templates", TEMPLATES),
            listing("refinements", REFINEMENTS),
            listing("formats", FORMATS),
            "Writes for every image NAME NAME.json, names and areas of the classes, and by --format: NAME_overlay.png\n"
            f"and NAME_labels.png; {COCO_FILE}, one for all images; NAME_scores.npz; NAME_confidence.png.",
            'example: san-cliptrase predict photo.jpg --output out --vocabulary "sky, sea, boat"',
        ]
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help='image files, folders, or quoted patterns such as "photos/**/*.jpg"')
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the results; made if it is missing")
    add(
        "--format",
        default="png",
        type=_formats,
        metavar="NAMES",
        help="what to write, see below, with commas between (default: %(default)s)",
    )
    add("--coco-per", default=SUPPRESS, choices=[*PARTS], help="what a mask of coco is for (default: class)")
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--vocabulary", metavar="WORDS", help='class names with commas between: "sky, sea, boat"')
    words.add_argument("--vocabulary-file", type=Path, metavar="FILE", help="text file with one class name a line")
    add("--background", default="", metavar="WORDS", help="words that all mean background, with commas between")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, ... (default: %(default)s)")
    add("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: %(default)s)")
    add("--san", type=Path, metavar="RUN", help="a trained SAN: folder of its run, or a file that export wrote")
    add(
        "--refine",
        default=SUPPRESS,
        choices=[*REFINEMENTS],
        help="sharpen by the image's edges (default: as the reading)",
    )
    add("--scales", default=SUPPRESS, type=float, nargs="+", metavar="N", help="sizes to see, 1 as usual (default: 1)")
    add("--flip", default=SUPPRESS, action="store_true", help="see the mirror image too")
    clip = parser.add_argument_group("without --san: training-free")

    def choice(name: str, text: str, **more: object) -> None:
        clip.add_argument(name, default=SUPPRESS, help=text, **more)

    choice("--model", "ViT of open_clip, or scenes_vit, the demo's own (default: ViT-B-16)")
    choice("--pretrained", "tag of open_clip or weights file; scenes for scenes_vit (default: openai)", metavar="TAG")
    named = READINGS[DEFAULT_READING]
    choice(
        "--reading", f"what the next two and --refine are, see below (default: {DEFAULT_READING})", choices=[*READINGS]
    )
    choice("--attention", f"how CLIP is read, see below (default reading: {named.attention})", metavar="RULE")
    choice("--classify", f"what decides a region's class, see below (default reading: {named.classify})", metavar="WAY")
    choice("--cls-layer", "classify cls: block that a region's [CLS] begins at (default: -6)", type=int, metavar="N")
    choice("--regions", "where regions come from, see below (default: cliptrase)", metavar="SOURCE")
    choice("--regions-pretrained", "timm:MODEL: weights file, default, or random (default: default)", metavar="FILE")
    choice("--sam-model", "SAM's name or folder (default: facebook/sam-vit-base)", metavar="NAME")
    choice("--size", "shorter side that CLIP sees, in pixels (default: what it was trained at)", type=int, metavar="N")
    choice("--eps", "DBSCAN's radius (default: by the grid for ViT-B-16, else found in each image)", type=float)
    choice("--min-samples", "DBSCAN's core size (default: from the patch grid; 3 at 14x14)", type=int, metavar="N")
    choice("--templates", "sentences for the words, see below (default: imagenet)", choices=[*TEMPLATES])
    choice("--synonyms", 'read a name with commas ("sea, ocean") of the file as synonyms', action="store_true")
    options = parser.parse_intermixed_args(arguments)
    if options.san and (given := [name for name in OF_CLIP if name in options]):
        parser.error(f"--{given[0].replace('_', '-')} does not go with --san: a trained SAN has settings of its own")
    ways = options.classify.split("+") if "classify" in options else []
    if unknown := [way for way in ways if way not in CLASSIFY]:
        parser.error(f"argument --classify: unknown way {unknown[0]!r}; {suggest(unknown[0], CLASSIFY)}")
    if "coco_per" in options and "coco" not in options.format:
        parser.error("--coco-per goes with --format coco")
    if getattr(options, "coco_per", "class") == "region" and ways == ["patches"]:
        parser.error("--coco-per region needs regions, and --classify patches has none")
    if options.batch_size < 1:
        parser.error("--batch-size counts from 1")
    return options


def execute(options: Namespace) -> int:
    """Segment every image; one that cannot be read is reported and left out. Returns the exit status."""
    images = find_images(options.images)
    make_output_folder(options.output)
    remove_unfinished(options.output)
    words = read_class_list(options.vocabulary_file) if options.vocabulary_file else words_in(options.vocabulary)
    background = words_in(options.background)
    coco = None
    if "coco" in options.format:
        from san_cliptrase.coco import CocoDataset, refuse_foreign_coco

        coco = CocoDataset([*words, BACKGROUND] if background else words)
        refuse_foreign_coco(options.output / COCO_FILE)
    folder = os.path.commonpath([path.absolute().parent for path in images])
    per, own_files = getattr(options, "coco_per", "class"), [name for name in options.format if name != "coco"]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("san_cliptrase").setLevel(logging.INFO)

    from tqdm import tqdm

    from san_cliptrase.clip.vocabulary import check_vocabulary
    from san_cliptrase.segmenter import FailedImage, Segmenter

    check_vocabulary(words)
    more = {name: getattr(options, name) for name in OF_BOTH if name in options}
    if options.san:
        segmenter = Segmenter.from_san(options.san, **more, device=options.device)
    else:
        given = {name: getattr(options, name) for name in OF_CLIP if name in options}
        if given.get("model") == "scenes_vit":
            logger.info(
                "scenes_vit is the demo's small CLIP: it knows the materials of the demo scenes, no photographs"
            )
        segmenter = Segmenter.from_clip(**given, **more, device=options.device)

    def save(path: Path, result: Segmentation, stem: Path) -> Path | Exception:
        """Write the files of one image; returns the first of them, or what keeps them from being written."""
        try:
            first = result.save(stem, own_files)[0]
            if coco is not None:
                coco.add(path.absolute().relative_to(folder).as_posix(), result.labels, result.parts(per))
            return first
        except SanCliptraseError as error:
            return error

    failed = 0
    results = segmenter.stream(images, words, batch_size=options.batch_size, background=background)
    names = result_names(images, [Path(COCO_FILE).stem] if coco is not None else [])
    with tqdm(total=len(images), desc="images", unit="image", disable=len(images) <= FEW, mininterval=0.5) as bar:
        for path, name, result in zip(images, names, results, strict=True):
            written = result.error if isinstance(result, FailedImage) else save(path, result, options.output / name)
            with tqdm.external_write_mode(file=sys.stdout):  # the bar makes room for the line
                if isinstance(written, Path):
                    sys.stdout.write(f"{exact(path)}: {one_line(result.describe())} -> {exact(written)}\n")
                else:
                    failed += 1
                    complain(written)
            bar.update()
    if coco is not None:
        coco.write(options.output / COCO_FILE)
    return 1 if failed else 0


def _formats(text: str) -> list[str]:
    names = words_in(text)
    if unknown := [name for name in names or [""] if name not in FORMATS]:
        raise ArgumentTypeError(f"unknown format {unknown[0]!r}; {suggest(unknown[0], FORMATS)}")
    return names
