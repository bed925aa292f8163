"""The datasets of the table, registered with detectron2 under ``$DETECTRON2_DATASETS`` (default: ``datasets``)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from san_cliptrase.class_lists import check_class_names, read_class_list
from san_cliptrase.data.pairs import Pairs, find_pairs, load_pairs  # noqa: F401  (the last one for own datasets)
from san_cliptrase.data.table import DATASETS, DatasetSpec
from san_cliptrase.errors import DataError, MissingFilesError, OptionError
from san_cliptrase.files import from_home, is_plain_name
from san_cliptrase.scenes import CLASS_NAMES, SEEN_CLASSES
from san_cliptrase.scenes.write import draw_split

_CLASS_FILES = Path(__file__).parent / "class_names"
_BACKGROUND_FILES = Path(__file__).parent / "background_words"
_SCENE_CLASSES = {"scenes": CLASS_NAMES, "scenes_seen": SEEN_CLASSES}


def class_names(name: str) -> list[str]:
    """Class names in the order of their label values.

    Args:
        name: a list in ``data/class_names`` without its suffix, or "scenes" or "scenes_seen".
    """
    if name in _SCENE_CLASSES:
        return list(_SCENE_CLASSES[name])
    return list(read_class_list(class_list_file(name)))


def class_list_file(name: str) -> Path:
    """Where the list of that name in ``data/class_names`` is, or would be."""
    return _CLASS_FILES / f"{name}.txt"


def background_words(name: str) -> tuple[str, ...]:
    """The words that together stand for a dataset's last class, "background"; none for the name ""."""
    if not name:
        return ()
    return tuple((_BACKGROUND_FILES / f"{name}.txt").read_text(encoding="utf-8").splitlines())


def datasets_root() -> Path:
    """The folder that holds the datasets."""
    return from_home(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def image_folder(spec: DatasetSpec) -> Path:
    """Where a dataset's images are, or are expected: ``images``, unless only ``other_images`` exists."""
    root = datasets_root()
    images, other = root / spec.images, root / spec.other_images
    return other if spec.other_images and other.is_dir() and not images.is_dir() else images


def find_dataset(name: str) -> Pairs:
    """The files of a dataset of the table.

    Raises:
        FileNotFoundError: see :func:`san_cliptrase.data.pairs.find_pairs`.
    """
    spec, root = DATASETS[name], datasets_root()
    images, labels, stems = image_folder(spec), root / spec.labels, root / spec.stems if spec.stems else None
    try:
        pairs = find_pairs(name, images, labels, spec.subset, spec.image_suffix, spec.label_suffix, stems)
    except FileNotFoundError as error:
        if not spec.source or labels.is_dir():
            raise
        remedy = f"`san-cliptrase data prepare {name}` makes the label maps from the published archive."
        raise MissingFilesError(f"{error} {remedy}") from error
    # What the mapper must know of files whose values are no plain class indices.
    reading: dict[str, object] = {}
    if spec.file_classes:
        reading["label_names"] = tuple(class_names(spec.file_classes))
    if spec.reduction:
        reading["reduction"] = spec.reduction
    return replace(pairs, records=[{**record, **reading} for record in pairs.records])


def first_records(name: str, count: int) -> list[dict]:
    """The first ``count`` records of a registered dataset: of demo scenes, no others are drawn."""
    drawn = name in DATASETS and DATASETS[name].split
    return (_load(name, count) if drawn else DatasetCatalog.get(name))[:count]


def _load(name: str, first: int = 0) -> list[dict]:
    if split := DATASETS[name].split:
        if comm.is_main_process():
            draw_split(datasets_root() / "demo_scenes", split, first)
        comm.synchronize()  # every process of a run loads its datasets
    return find_dataset(name).complete(name)


def usual_ignore(classes: int) -> int:
    """What label files of so many classes have for pixels without a label, if nothing else is said."""
    return 255 if classes <= 255 else 65535


def check_ignore(ignore: object, classes: Sequence[str], source: str) -> None:
    """Refuses a value for pixels without a label that label files cannot have, or that is a class.

    Raises:
        DataError: begins with ``source``.
    """
    if isinstance(ignore, bool) or not isinstance(ignore, int) or not -(2**31) <= ignore < 2**32:
        raise DataError(f"{source}: the ignore value {ignore!r:.100} is not a whole number that a label file can hold")
    if 0 <= ignore < len(classes):
        raise DataError(f"{source}: the ignore value {ignore} is the class {classes[ignore]!r}: choose another one")


def register(
    name: str,
    loader: Callable[[], list[dict]],
    classes: Sequence[str],
    unseen: Sequence[str] = (),
    background: Sequence[str] = (),
    ignore_label: int = 255,
) -> None:
    """Registers a semantic segmentation dataset: also the way to add one's own.

    Args:
        name: what DATASETS.TRAIN and DATASETS.TEST call it.
        loader: function without arguments that returns detectron2's list of dicts.
        classes: class names in the order of the label values.
        unseen: those of ``classes`` that training never labels; they are scored apart too.
        background: words that together stand for the last class, which is then called "background".
        ignore_label: value of the label files for pixels without a label.

    Raises:
        OptionError: the name is not plain, the classes are no list of names, or there are background words, but the
            last class is not "background".
        DataError: two names are the same for CLIP, or the ignore value is a class.
    """
    if not is_plain_name(name):
        raise OptionError(f"{name!r} is not a name for a dataset: use letters, digits, _, . and -")
    if isinstance(classes, str) or not classes:
        raise OptionError(f"dataset {name!r} needs a list of class names, not {classes!r:.100}")
    check_class_names(classes, f"dataset {name!r}", "item")
    if ignore_label != 255:  # 255 stands for what is usual
        check_ignore(ignore_label, classes, f"dataset {name!r}")
    if background and list(classes)[-1:] != ["background"]:
        raise OptionError(f"dataset {name!r} has background words; its last class must then be 'background'")
    DatasetCatalog.register(name, loader if ignore_label == 255 else functools.partial(_mark, loader, ignore_label))
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes),
        unseen_classes=list(unseen),
        background_words=tuple(background),
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
    )


def _mark(loader: Callable[[], list[dict]], ignore_label: int) -> list[dict]:
    return [{**record, "ignore_value": ignore_label} for record in loader()]


for _name, _spec in DATASETS.items():
    register(
        _name,
        functools.partial(_load, _name),
        class_names(_spec.classes),
        _spec.unseen,
        background_words(_spec.background),
        _spec.ignore,
    )
