"""Tables and figures of CLIPtrase's paper: ``san-cliptrase reproduce table3``.

Writes NAME.md, NAME.json and images into the output folder. The default configurations are those of the embedded
scenes; with a user's own data, name another: ``--config configs/tables/cliptrase_224.yaml``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from san_cliptrase.engine.logs import setup_logging
from san_cliptrase.errors import ConfigError
from san_cliptrase.files import remove_unfinished
from san_cliptrase.lab.five_seeds import FIVE_SEEDS
from san_cliptrase.lab.reproduce.ceilings import ceilings
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
from san_cliptrase.locks import only_run_in

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "configs" / "demo"
SCENES = DEMO / "cliptrase.yaml"


@dataclass(frozen=True)
class Known:
    """An exhibit that can be asked for.

    Attributes:
        make: does it.
        config: the default configuration, in the repository.
    """

    make: Callable[[Request], Exhibit]
    config: Path


EXHIBITS = {
    "table1": Known(table1, SCENES),
    "table2": Known(table2, SCENES),
    "table3": Known(table3, DEMO / "table3.yaml"),
    "table4": Known(table4, DEMO / "table4.yaml"),
    "table5": Known(table5, DEMO / "table5.yaml"),
    "efficient": Known(efficient, SCENES),
    "classification": Known(classification, SCENES),
    "sam": Known(sam, SCENES),
    "ceilings": Known(ceilings, SCENES),
    "figure1": Known(figure1, FIVE_SEEDS),
    "figure2": Known(figure2, SCENES),
    "figure3": Known(figure3, SCENES),
    "global_patches": Known(global_patches, SCENES),
}
"""Names of ``choices.EXHIBITS``."""


def execute(args: argparse.Namespace) -> None:
    """What ``reproduce`` does."""
    known = EXHIBITS[args.exhibit]
    config = args.config or _default(known)
    output = args.output or Path("output/reproduce") / args.exhibit
    with only_run_in(output, "--output"):
        remove_unfinished(output, only_one=True)
        setup_logging(output)
        request = Request(config, tuple(args.overrides), output, args.resume, tuple(args.source))
        path = write_exhibit(known.make(request), output)
        sys.stdout.write("\n" + path.read_text(encoding="utf-8") + f"\nwritten: {os.path.relpath(path)}\n")


def _default(known: Known) -> Path:
    if not known.config.exists():
        path = known.config.relative_to(ROOT)
        raise ConfigError(f"{path} is only in a clone of the repository: name a configuration by --config FILE")
    return known.config
