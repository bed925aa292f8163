"""Prepare, check, list and register datasets: ``san-cliptrase data {list,prepare,check,register} ...``.

``list`` shows what is there and what is missing; ``prepare NAME`` makes this project's layout of the unpacked published
archive; ``check NAME`` reads every file and says what is wrong; ``register FOLDER`` makes a dataset of any folder with
images, label maps and a class file. docs/datasets.md has the layouts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog

from san_cliptrase.data.check import check_dataset, check_records, dataset_state
from san_cliptrase.data.datasets import datasets_root, image_folder
from san_cliptrase.data.folder import make_entries
from san_cliptrase.data.own import OWN, register_own, write_entries
from san_cliptrase.data.sources import SOURCES
from san_cliptrase.data.table import DATASETS
from san_cliptrase.data.tasks import run_tasks
from san_cliptrase.errors import DataError, MissingFilesError, suggest
from san_cliptrase.scenes.write import draw_split
from san_cliptrase.text_tables import plain_table
from san_cliptrase.texts import escaped

MOST_LINES = 50


def list_command(options: argparse.Namespace) -> int:
    """A table of all data sets."""
    head, rows = ("data set", "classes", "images", "state", "folders under the root, or what is missing"), []
    for name in (*DATASETS, *OWN):
        state, place = dataset_state(name), DATASETS.get(name) or OWN[name]
        images = f"{state.pairs}/{state.expected}" if state.expected else str(state.pairs)
        classes = str(len(MetadataCatalog.get(name).stuff_classes))
        rows.append((name, classes, images, state.kind, state.note or f"{place.images}, {place.labels}"))
    _say(f"root (DETECTRON2_DATASETS): {datasets_root().absolute()}")
    _say(plain_table(head, rows, right=(1, 2)))
    return 0


def prepare_command(options: argparse.Namespace) -> int:
    """Converts what is not converted yet."""
    return max(_prepare(name, options.source, options.workers) for name in _known(options.names))


def _prepare(name: str, folder: Path | None, workers: int) -> int:
    spec, root = DATASETS.get(name), datasets_root()
    if spec and spec.split:
        draw_split(root / "demo_scenes", spec.split)
    if not spec or not spec.source:
        _say(f"{name}: nothing to convert, its files are read as they are; `check {name}` looks at them")
        return 0
    source = SOURCES[spec.source]
    place = folder or root / source.folder
    tasks = source.plan(place, root, spec)
    if not tasks:
        raise MissingFilesError(
            f"{name}: {place} does not hold the published archive. Expected there: {source.layout}. Unpack it there, "
            f"or name its folder with --source"
        )
    written, problems = run_tasks(tasks, name, workers)
    _say(f"{name}: {written} files written to {root / spec.labels}, {len(tasks) - written - len(problems)} were there")
    _report(problems)
    if not image_folder(spec).is_dir():
        _say(f"{name}: its images must lie in {image_folder(spec)}, which does not exist")
    return 1 if problems else 0


def check_command(options: argparse.Namespace) -> int:
    """Reads every file; 1 if anything is wrong."""
    bad = False
    for name in _known(options.names):
        found = check_dataset(name, options.workers)
        _report(found.problems, options.all)
        _warn(name, found.warnings)
        in_order = "no file would stop a run" if found.warnings else "everything is in order"
        _say(f"{name}: {f'{len(found.problems)} problems' if found.problems else in_order}")
        bad |= bool(found.problems)
    return 1 if bad else 0


def register_command(options: argparse.Namespace) -> int:
    """Writes entries of the registry, once the files are what they should be."""
    background = tuple(word.strip() for word in options.background.split(",") if word.strip())
    entries = make_entries(options.folder, options.name, options.classes, options.ignore, background)
    problems: list[str] = []
    for name, entry in entries.items():
        records = entry.find(name).complete(name)
        if not options.unchecked:
            found = check_records(records, entry.classes, entry.ignore, name, options.workers)
            problems += found.problems
            _warn(name, found.warnings)
    if problems:
        _report(problems)
        _say(f"not registered: {len(problems)} problems (--unchecked registers all the same)")
        return 1
    path = write_entries(entries)
    _say(f"registered in {path}: {', '.join(entries)}")
    last = [*entries][-1]
    if entries[last].colors:
        first, (color, *_) = entries[last].classes[0], entries[last].colors
        _say(f"label maps are read by their colours: {color} is {first!r}, and so on")
    _say(f"""for example: san-cliptrase evaluate --config configs/cliptrase.yaml DATASETS.TEST "('{last}',)" """)
    return 0


def _known(names: Sequence[str]) -> Sequence[str]:
    known = [*DATASETS, *OWN]
    for name in names:
        if name not in known:
            raise DataError(f"unknown dataset {name!r}; {suggest(name, known)}")
    return names


def _report(problems: Sequence[str], everything: bool = False) -> None:
    shown = problems if everything else problems[:MOST_LINES]
    for problem in shown:
        sys.stderr.write(f"  {escaped(problem)}\n")
    if len(shown) < len(problems):
        sys.stderr.write(f"  ... and {len(problems) - len(shown)} more\n")


def _warn(name: str, warnings: Sequence[str]) -> None:
    for warning in warnings:
        _say(f"{name}: warning: {warning}")


def _say(line: str) -> None:
    sys.stdout.write(f"{escaped(line.rstrip())}\n")


_ACTIONS = {"list": list_command, "prepare": prepare_command, "check": check_command, "register": register_command}


def execute(options: argparse.Namespace) -> int:
    """What ``data list``, ``prepare``, ``check`` and ``register`` do; returns the exit status."""
    register_own()
    return _ACTIONS[options.action](options)
