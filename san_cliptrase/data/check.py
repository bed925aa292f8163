"""Is a dataset whole, and what is wrong with which file?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from detectron2.data import MetadataCatalog

from san_cliptrase.data.datasets import datasets_root, find_dataset, image_folder
from san_cliptrase.data.mapper import WIDE_IGNORE, record_labels
from san_cliptrase.data.own import OWN
from san_cliptrase.data.pairs import Pairs
from san_cliptrase.data.table import DATASETS
from san_cliptrase.data.tasks import map_files
from san_cliptrase.errors import DataError
from san_cliptrase.images import read_image
from san_cliptrase.scenes.write import SPLITS

MOST_NAMED = 10
"""Classes that a warning names."""


@dataclass(frozen=True)
class State:
    """What of a dataset is there.

    Attributes:
        pairs: how many images have their label file.
        expected: how many there should be; 0: not known.
        kind: "ready", "incomplete", "missing", or "drawn on first use" (the demo scenes).
        note: what is missing or wrong.
    """

    pairs: int
    expected: int
    kind: str
    note: str = ""


def dataset_pairs(name: str) -> Pairs:
    """The files of a dataset of the table or of the user's registry.

    Raises:
        FileNotFoundError: see :func:`san_cliptrase.data.pairs.find_pairs`.
    """
    return OWN[name].find(name) if name in OWN else find_dataset(name)


def dataset_state(name: str) -> State:
    """What is there, by counting files; none is opened."""
    spec = DATASETS.get(name)
    expected = SPLITS[spec.split][1] if spec and spec.split else spec.count if spec else 0
    try:
        pairs = dataset_pairs(name)
    except FileNotFoundError as error:
        if spec and spec.split:
            return State(0, expected, "drawn on first use")
        place, root = spec or OWN[name], datasets_root()
        images = image_folder(spec) if spec else root / place.images
        there = {place.images: images.is_dir(), place.labels: (root / place.labels).is_dir()}
        missing = [folder for folder, exists in there.items() if not exists]
        return State(0, expected, "missing", f"no {' and no '.join(missing)}" if missing else str(error))
    if spec and spec.split and len(pairs.records) < expected:
        return State(len(pairs.records), expected, "drawn on first use")
    problems = "; ".join(_count_problems(name, pairs))
    return State(len(pairs.records), expected, "incomplete" if problems else "ready", problems)


@dataclass
class Findings:
    """What was found in the files of a dataset.

    Attributes:
        problems: what would stop a run or make it learn nothing, a line a file or dataset.
        warnings: what may be as it should be, a line a dataset.
    """

    problems: list[str]
    warnings: list[str]


def check_dataset(name: str, workers: int) -> Findings:
    """Everything that is wrong with a dataset; reads every file in whole.

    Args:
        name: a dataset of the table or of the user's registry.
        workers: processes.

    Raises:
        FileNotFoundError: a folder is missing, or two files of a folder share their stem.
    """
    pairs, metadata = dataset_pairs(name), MetadataCatalog.get(name)
    found = check_records(pairs.records, metadata.stuff_classes, metadata.ignore_label, name, workers)
    alone = [f"{stem}: there is an image or a label file of this name, and not the other" for stem in pairs.alone]
    return Findings([*_count_problems(name, pairs), *alone, *found.problems], found.warnings)


def check_records(records: list[dict], classes: Sequence[str], ignore: int, title: str, workers: int) -> Findings:
    """What is wrong with the files of detectron2's dicts: pairs that training would refuse, classes without a pixel."""
    marked = [{**record, "ignore_value": ignore} for record in records]
    found = list(map_files(partial(check_pair, tuple(classes)), marked, title, workers))
    problems, seen = [problem for problem, _ in found if problem], {value for _, values in found for value in values}
    absent = [name for index, name in enumerate(classes) if index not in seen]
    if not seen or not absent:
        return Findings(problems, [])
    if seen == {WIDE_IGNORE}:
        problems.append(f"{title}: no pixel has a label: the label files hold only {ignore}, which means no label")
    elif len(classes) == 2 and seen == {0, WIDE_IGNORE}:
        problems.append(
            f"{title}: the label files hold 0 and {ignore} alone, as masks of two classes often do, and {ignore} means "
            f"that a pixel has no label: {classes[1]!r} would never be trained or scored. Write 1 in place of {ignore} "
            f"into the files; if these pixels have no label indeed, take {classes[1]!r} out of the classes"
        )
    else:
        more = f", and {len(absent) - MOST_NAMED} more" if len(absent) > MOST_NAMED else ""
        warning = (
            f"no label file shows {len(absent)} of the {len(classes)} classes: "
            f"{', '.join(map(repr, absent[:MOST_NAMED]))}{more}"
        )
        return Findings(problems, [warning])
    return Findings(problems, [])


def check_pair(classes: tuple[str, ...], record: dict) -> tuple[str, tuple[int, ...]]:
    """What is wrong with an image or its label file, or ""; and the classes in it, ``WIDE_IGNORE`` for no label."""
    try:
        image = read_image(record["file_name"])
        labels = record_labels(record, classes, WIDE_IGNORE, image.shape[:2])
    except DataError as error:
        return str(error), ()
    return "", tuple(np.flatnonzero(np.bincount(labels.ravel())).tolist())


def _count_problems(name: str, pairs: Pairs) -> Iterator[str]:
    expected = DATASETS[name].count if name in DATASETS else 0
    if not pairs.records:
        yield f"empty: {pairs.found}"
    elif expected and len(pairs.records) != expected:
        yield f"{len(pairs.records)} images with labels, where the published split has {expected}"
    if pairs.alone:
        yield f"{len(pairs.alone)} files without a partner ({pairs.found})"
