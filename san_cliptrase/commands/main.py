"""``san-cliptrase COMMAND ...``: from the command line to the module that does it."""

from __future__ import annotations

import importlib
import os
import sys
from argparse import REMAINDER, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper

from san_cliptrase import __version__
from san_cliptrase.commands import app, data, export, lab, predict, runs
from san_cliptrase.commands.parser import Parser, listing
from san_cliptrase.terminal import exit_status

PROGRAM = "san-cliptrase"
INTERRUPTED = 130
CLOSED_PIPE = 141


@dataclass(frozen=True)
class Command:
    """Something to be done.

    Attributes:
        about: one line.
        parse: adds its options to a parser and reads the arguments; ends the process where they are wrong.
        module: whose ``execute(options)`` does it; imported only then. Returns the exit status, None for 0.
        go_on: what to say after Ctrl-C.
    """

    about: str
    parse: Callable[[Parser, Sequence[str]], Namespace]
    module: str
    go_on: str = ""


@dataclass(frozen=True)
class Group:
    """Commands under one name.

    Attributes:
        about: one line.
        commands: by name.
        epilog: more for --help.
    """

    about: str
    commands: Mapping[str, Command | Group]
    epilog: str = ""


_ENGINE, _DATA = "san_cliptrase.engine.launch", "san_cliptrase.data.command"
_RESUME = "the same command with --resume goes on"
_AGAIN = "the same command goes on"
TRAIN_NET = Command("train or evaluate SAN and CLIPtrase", runs.train_net, _ENGINE, _RESUME)
COMMANDS = Group(
    "open-vocabulary semantic segmentation: training-free CLIPtrase, and SAN trained from its regions",
    {
        "predict": Command("segment images by words", predict.parse, "san_cliptrase.commands.predict"),
        "app": Command("a page in the browser to try the models on", app.parse, "san_cliptrase.app.command"),
        "train": Command("train a SAN", runs.train, _ENGINE, _RESUME),
        "evaluate": Command("score a model on data sets", runs.evaluate, _ENGINE, _RESUME),
        "data": Group(
            "list, prepare, check and register data sets",
            {
                "list": Command("show which data sets are there, and where the others are expected", data.show, _DATA),
                "prepare": Command("convert an unpacked archive; finished files are kept", data.prepare, _DATA, _AGAIN),
                "check": Command(
                    "read every file of a data set and say what is wrong; status 1 if anything is", data.check, _DATA
                ),
                "register": Command(
                    "make a data set of a folder with images, label maps and a class file", data.register, _DATA
                ),
            },
            "Layouts and sources: docs/datasets.md",
        ),
        "export": Command("write a trained SAN as one file", export.parse, "san_cliptrase.commands.export"),
        "convergence": Command(
            "how fast variants of SAN learn: runs, statistics, report",
            lab.convergence,
            "san_cliptrase.lab.convergence.command",
            "the same command goes on from the last checkpoints",
        ),
        "reproduce": Command(
            "tables and figures of CLIPtrase's paper", lab.reproduce, "san_cliptrase.lab.reproduce.command", _RESUME
        ),
        "demo": Command("the whole project once through, on embedded data", lab.demo, "san_cliptrase.lab.demo.run"),
    },
    f"{PROGRAM} COMMAND --help says more about each.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status.

    Raises:
        SystemExit: of --help, --version (0) and of a command line that cannot be read (2).
    """
    given, prog, node = sys.argv[1:] if arguments is None else list(arguments), PROGRAM, COMMANDS
    while isinstance(node, Group):
        name, given = _chosen(node, prog, given)
        prog, node = f"{prog} {name}", node.commands[name]
    return _execute(node, node.parse(Parser(prog, _sentence(node.about)), given))


def train_net(arguments: Sequence[str] | None = None) -> int:
    """The command line of ``train_net.py``; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    return _execute(
        TRAIN_NET, TRAIN_NET.parse(Parser("train_net.py", _sentence(TRAIN_NET.about), abbreviations=True), given)
    )


def _chosen(group: Group, prog: str, arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of a command of the group, and what follows it."""
    commands = listing("commands", {name: command.about for name, command in group.commands.items()})
    parser = Parser(prog, _sentence(group.about), "\n\n".join(filter(None, [commands, group.epilog])))
    if group is COMMANDS:
        parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_name("command", "COMMAND", group.commands, "see below")
    parser.add_argument("arguments", nargs=REMAINDER, metavar="...", help="its options")
    options = parser.parse_args(arguments)
    return options.command, options.arguments


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:]}."


def _execute(command: Command, options: Namespace) -> int:
    # Read by OpenMP when torch is imported. Threads that spin while they wait take the core from the one that they wait
    # for as soon as another program is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal or pipe has no letters for
    try:
        status = exit_status(lambda: importlib.import_module(command.module).execute(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        sys.stderr.write("; ".join(filter(None, ["\nstopped", command.go_on])) + "\n")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
