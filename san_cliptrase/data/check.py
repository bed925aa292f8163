"""Is a dataset whole, and what is wrong with which file?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from detectron2.data import MetadataCatalog

from san_cliptrase.data.datasets import datasets_root, find_dataset, image_folder
from san_cliptrase.data.mapper import WIDE_IGNORE, record_labels
from san_cliptrase.data.own import OWN
from san_cliptrase.data.pairs import Pairs
from san_cliptrase.data.table import DATASETS
from san_cliptrase.data.tasks import map_files
from san_cliptrase.errors import DataError
from san_cliptrase.images import read_image


@dataclass(frozen=True)
class State:
    """What of a dataset is there.

    Attributes:
        pairs: how many pictures have their label file.
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
    expected = spec.count if spec else 0
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
    problems = "; ".join(_count_problems(name, pairs))
    return State(len(pairs.records), expected, "incomplete" if problems else "ready", problems)


def check_dataset(name: str, workers: int) -> Iterator[str]:
    """Everything that is wrong with a dataset, a line a file; reads every file in whole.

    Args:
        name: a dataset of the table or of the user's registry.
        workers: processes.

    Raises:
        FileNotFoundError: a folder is missing, or two files of a folder share their stem.
    """
    pairs, metadata = dataset_pairs(name), MetadataCatalog.get(name)
    yield from _count_problems(name, pairs)
    yield from (f"{stem}: there is an image or a label file of this name, and not the other" for stem in pairs.alone)
    yield from check_records(pairs.records, metadata.stuff_classes, metadata.ignore_label, name, workers)


def check_records(records: list[dict], classes: Iterable[str], ignore: int, title: str, workers: int) -> Iterator[str]:
    """What is wrong with the files of detectron2's dicts, one message a pair that training would refuse."""
    marked = [{**record, "ignore_value": ignore} for record in records]
    found = map_files(partial(check_pair, tuple(classes)), marked, title, workers)
    return (problem for problem in found if problem)


def check_pair(classes: tuple[str, ...], record: dict) -> str:
    """What is wrong with an image or its label file; "" if nothing is."""
    try:
        image = read_image(record["file_name"])
        record_labels(record, classes, WIDE_IGNORE, image.shape[:2])
    except DataError as error:
        return str(error)
    return ""


def _count_problems(name: str, pairs: Pairs) -> Iterator[str]:
    expected = DATASETS[name].count if name in DATASETS else 0
    if not pairs.records:
        yield f"empty: {pairs.found}"
    elif expected and len(pairs.records) != expected:
        yield f"{len(pairs.records)} pictures with labels, where the published split has {expected}"
    if pairs.alone:
        yield f"{len(pairs.alone)} files without a partner ({pairs.found})"
