"""Commands that run a configuration: ``train``, ``evaluate``, and ``train_net.py``."""

from __future__ import annotations

from argparse import REMAINDER, Namespace
from collections.abc import Sequence

from san_cliptrase.commands.parser import Parser, together


def train(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``train``."""
    parser.epilog = "example: san-cliptrase train --config configs/demo/san_cliptrase.yaml --output output/mine SEED 1"
    return _run(parser, arguments, eval_only=False)


def evaluate(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``evaluate``."""
    parser.epilog = (
        "examples: san-cliptrase evaluate --config configs/demo/cliptrase.yaml\n"
        "          san-cliptrase evaluate --config configs/san.yaml MODEL.WEIGHTS output/san/model_final.pth"
    )
    return _run(parser, arguments, eval_only=True)


def _run(parser: Parser, arguments: Sequence[str], eval_only: bool) -> Namespace:
    add = parser.add_argument
    add("--config", dest="config_file", required=True, metavar="FILE", help="configuration")
    add("--output", metavar="DIR", help="folder for what the run writes (the key OUTPUT_DIR)")
    add("--device", metavar="DEVICE", help="auto, cpu, cuda, ... (the key MODEL.DEVICE)")
    _add_run_options(parser, eval_only)
    names = {"output": "OUTPUT_DIR", "device": "MODEL.DEVICE"}
    if eval_only:
        names["pictures"] = "TEST.PICTURES"
        text = "write N images beside prediction, ground truth and errors (the key TEST.PICTURES)"
        add("--pictures", type=int, metavar="N", help=text)
    parser.add_overrides("opts", "keys of the configuration, such as SEED 1 TEST.BATCH_SIZE 4")
    options = parser.parse_intermixed_args(arguments)
    options.eval_only = eval_only
    given = {option: (key, getattr(options, option)) for option, key in names.items()}
    options.opts = together(options.opts, parser, **given)
    return options


def train_net(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """The command line of ``train_net.py``: detectron2's, of which ``--config`` is the common short form."""
    parser.epilog = "example: python train_net.py --config configs/demo/san_cliptrase.yaml OUTPUT_DIR output/mine"
    parser.add_argument("--config-file", "--config", default="", metavar="FILE", help="configuration")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    _add_run_options(parser, eval_only=None)
    parser.add_argument(
        "opts",
        nargs=REMAINDER,
        metavar="KEY VALUE",
        help="keys of the configuration, such as SEED 1; after all options",
    )
    options = parser.parse_args(arguments)
    if not options.config_file:
        parser.error("name a configuration: --config configs/san_cliptrase.yaml")
    if late := [part for part in options.opts if part.startswith("--")]:
        parser.error(f"{late[0]} stands behind KEY VALUE, where it is not read: put options first")
    return options


def _add_run_options(parser: Parser, eval_only: bool | None) -> None:
    """What ``train``, ``evaluate`` and ``train_net.py`` have in common; defaults are detectron2's."""
    training, evaluation = "go on from the folder's last checkpoint", "go on with what an evaluation has counted"
    resume = {True: evaluation, False: training, None: f"{training}; with --eval-only: {evaluation}"}
    add = parser.add_argument
    add("--resume", action="store_true", help=resume[eval_only])
    add("--skip-bad", action="store_true", help="leave unreadable files out (TEST.SKIP_BAD, DATALOADER.SKIP_BAD)")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs of this machine, one process each")
    add("--num-machines", type=int, default=1, metavar="N", help="machines of the run")
    add("--machine-rank", type=int, default=0, metavar="N", help="which of them this one is, from 0")
    add("--dist-url", default="auto", metavar="URL", help="where machines meet: tcp://HOST:PORT of the first")
