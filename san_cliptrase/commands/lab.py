"""The commands of the laboratory: ``convergence``, ``reproduce`` and ``demo``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from san_cliptrase.choices import EXHIBITS
from san_cliptrase.commands.parser import Parser, listing


def convergence(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``convergence``."""
    parser.epilog = (
        "With --config it runs an experiment, variants times seeds, and reports; the same command again goes on where\n"
        "it was cut off. With --compare it reports on folders of finished runs, the baseline's first; with --csv on\n"
        "the runs of an earlier report again, from its curves.csv."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="experiment, such as configs/demo/convergence.yaml")
    what.add_argument("--compare", nargs="+", metavar="DIR", help="folders of runs; the first is the baseline")
    what.add_argument("--csv", type=Path, metavar="FILE", help="curves.csv of an earlier report")
    add = parser.add_argument
    add("--output", type=Path, metavar="DIR", help="folder of the report, and of an experiment's runs")
    add(
        "--variants",
        nargs="+",
        default=[],
        metavar="NAME",
        help="run only these; with --report-only, report only these",
    )
    add("--seeds", nargs="+", type=int, default=[], metavar="N", help="likewise")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, each on other GPUs (default: %(default)s)")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs of a run, one process each (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="torch threads of a process (default: its share of the cores)")
    add("--report-only", action="store_true", help="run nothing, report what is finished")
    add("--cost", action="store_true", help="measure the cost of an iteration again")
    add("--labels", nargs="+", default=[], metavar="TITLE", help="with --compare: titles of the folders")
    add("--dataset", default="", metavar="NAME", help="with --compare: whose metrics")
    add(
        "--levels",
        nargs="+",
        type=float,
        metavar="X",
        help="with --compare, --csv: shares as 0.9, or percent as 60",
    )
    options = parser.parse_args(arguments)
    if options.compare and len(options.compare) < 2:
        parser.error("--compare needs two folders or more, the baseline's first")
    if options.config and options.levels:
        parser.error("--levels goes with --compare and --csv: an experiment names its levels in its file")
    if (options.labels or options.dataset) and not options.compare:
        parser.error("--labels and --dataset go with --compare")
    if not options.config and (options.variants or options.seeds or options.report_only or options.cost):
        parser.error("--variants, --seeds, --report-only and --cost go with --config")
    if min(options.jobs, options.num_gpus, 1 if options.threads is None else options.threads) < 1:
        parser.error("--jobs, --num-gpus and --threads count from 1")
    return options


def reproduce(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``reproduce``."""
    parser.epilog = "\n\n".join(
        [
            listing("exhibits", EXHIBITS),
            "Writes NAME.md, NAME.json and figures. The default configurations are those of the embedded scenes; on\n"
            "your own copy of the paper's data: --config configs/tables/cliptrase_224.yaml",
        ]
    )
    add = parser.add_argument
    parser.add_name("exhibit", "EXHIBIT", EXHIBITS, "table or figure, see below")
    add("--config", type=Path, metavar="FILE", help="configuration (default: the exhibit's, on the embedded scenes)")
    add("--output", type=Path, metavar="DIR", help="folder (default: output/reproduce/EXHIBIT)")
    add("--resume", action="store_true", help="keep what an earlier call finished, go on with what it began")
    add("--source", action="append", default=[], metavar="timm:MODEL", help="table2: a source of regions; repeatable")
    parser.add_overrides("overrides", "keys of every configuration, such as TEST.MAX_IMAGES 20")
    options = parser.parse_intermixed_args(arguments)
    if options.source and options.exhibit != "table2":
        parser.error(f"{options.exhibit} takes no --source; table2 does")
    if options.overrides and options.exhibit == "figure1":
        parser.error("figure1 takes no KEY VALUE: an experiment's file holds its settings")
    return options


def demo(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``demo``."""
    parser.epilog = (
        "Scores four attention rules without training, trains plain SAN and SAN from CLIPtrase's regions on the same\n"
        "images in the same order, and writes a convergence plot, images and a summary."
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output/demo"), metavar="DIR", help="folder (default: %(default)s)"
    )
    parser.add_overrides("overrides", "keys of every configuration, such as SEED 1")
    return parser.parse_intermixed_args(arguments)
