"""One command per table and figure of CLIPtrase's paper: ``python -m san_cliptrase.lab.reproduce table3``.

Writes NAME.md, NAME.json and pictures into the output folder. The default configurations are those of the embedded
scenes; with a user's own data, name another: ``--config configs/tables/cliptrase_224.yaml``.
"""

from __future__ import annotations

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
from san_cliptrase.errors import ConfigError

# isort: split
import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from san_cliptrase.engine.defaults import setup_logging
from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.lab.reproduce.classification import classification
from san_cliptrase.lab.reproduce.efficient import efficient
from san_cliptrase.lab.reproduce.exhibit import Exhibit, write_exhibit
from san_cliptrase.lab.reproduce.figure1 import figure1
from san_cliptrase.lab.reproduce.figure2 import figure2
from san_cliptrase.lab.reproduce.figure3 import figure3
from san_cliptrase.lab.reproduce.global_patches import global_patches
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.sources import sam, table2
from san_cliptrase.lab.reproduce.table1 import table1
from san_cliptrase.lab.reproduce.tables import table3, table4, table5

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
SCENES = "configs/demo/cliptrase.yaml"


@dataclass(frozen=True)
class Known:
    """An exhibit that can be asked for.

    Attributes:
        make: does it.
        config: the default configuration, relative to the repository.
        about: one line.
    """

    make: Callable[[Request], Exhibit]
    config: str
    about: str


EXHIBITS = {
    "table1": Known(table1, SCENES, "what self-correlation is for: attention row by row, regions by two correlations"),
    "table2": Known(table2, SCENES, "regions of DINO and DINOv2, or of --source, in place of CLIPtrase's own"),
    "table3": Known(table3, "configs/demo/table3.yaml", "training-free methods, four metrics, the smaller size"),
    "table4": Known(table4, "configs/demo/table4.yaml", "the same at the larger size"),
    "table5": Known(table5, "configs/demo/table5.yaml", "unsupervised segmentation, against k-means on plain CLIP"),
    "efficient": Known(efficient, SCENES, "A.2: heads concatenated before the correlation"),
    "classification": Known(classification, SCENES, "A.3: what decides the class of a region"),
    "sam": Known(sam, SCENES, "SAM's masks with CLIPtrase's classes, and SAM asked at CLIPtrase's points"),
    "figure1": Known(figure1, "docs/convergence/longer/report.json", "convergence of SAN, from a report or a new run"),
    "figure2": Known(figure2, SCENES, "attention and correlation of chosen patches, and a page"),
    "figure3": Known(figure3, SCENES, "clusters with and without global patches, and the segmentation"),
    "global_patches": Known(global_patches, SCENES, "section A.1: patches that take the attention of all"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_intermixed_args(argv)
    try:
        known = _known(args.exhibit, args.source)
        output = args.output or Path("output/reproduce") / args.exhibit
        setup_logging(output)
        request = Request(
            args.config or _default(known), tuple(args.overrides), output, args.resume, tuple(args.source)
        )
        path = write_exhibit(known.make(request), output)
    except SanCliptraseError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")  # libraries' own messages may have many lines
        return 1
    sys.stdout.write("\n" + path.read_text(encoding="utf-8") + f"\nwritten: {os.path.relpath(path)}\n")
    return 0


def _known(name: str, sources: Sequence[str]) -> Known:
    if name not in EXHIBITS:
        raise ConfigError(f"there is no exhibit {name!r}; there are: {', '.join(EXHIBITS)}")
    if sources and name != "table2":
        raise ConfigError(f"{name} takes no --source; table2 does")
    return EXHIBITS[name]


def _default(known: Known) -> Path:
    path = ROOT / known.config
    if not path.exists():
        raise ConfigError(f"{known.config} is only in a clone of the repository: name a configuration by --config FILE")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m san_cliptrase.lab.reproduce",
        description=__doc__,
        epilog="\n".join(["exhibits:", *(f"  {name:<16} {known.about}" for name, known in EXHIBITS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("exhibit", metavar="TABLE_OR_FIGURE", help="see below")
    add("--config", type=Path, metavar="FILE", help="configuration (default: the exhibit's, on the embedded scenes)")
    add("--output", type=Path, metavar="DIR", help="folder (default: output/reproduce/NAME)")
    add("--resume", action="store_true", help="keep what an earlier call finished, go on with what it began")
    add("--source", action="append", default=[], metavar="timm:MODEL", help="table2: a source of regions; repeatable")
    add("overrides", nargs="*", metavar="KEY VALUE", help="for every configuration, such as TEST.MAX_IMAGES 20")
    return parser
