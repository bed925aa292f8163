"""The published archives, unpacked, and which files of this project's layouts are made of them.

What their label values mean: ADE20K's scene parsing labels start at 1, 0 is not labelled. COCO-Stuff's are the ids of
its 182 classes minus 1, of which 11 never occur. VOC's are 0 for background, 1 to 20, and 255 for borders. Pascal
Context's are 1 to 459, in the order of the class list, of which 59 are the common benchmark. ADE20K's full annotation
writes the place of an object's name in the archive's index (from 1) as ``red // 10 * 256 + green``; its files of parts
are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from san_cliptrase.data.convert import (
    convert_image,
    convert_labels,
    read_ade_full,
    read_ade_objects,
    read_context,
    value_table,
)
from san_cliptrase.data.datasets import class_names
from san_cliptrase.data.pairs import MOST_BYTES
from san_cliptrase.data.table import DatasetSpec
from san_cliptrase.data.tasks import Task
from san_cliptrase.errors import DataError
from san_cliptrase.files import read_bounded
from san_cliptrase.images import read_values

ADE_FULL_SIDE = 512
"""The shorter side to which the images of the full ADE20K are reduced, as MaskFormer and SAN evaluate them."""


@dataclass(frozen=True)
class Source:
    """A published archive.

    Attributes:
        folder: where it is unpacked, under the root of the datasets.
        layout: what it must contain, for messages.
        plan: function of the archive's folder, the root and the dataset's row: the files to write.
    """

    folder: str
    layout: str
    plan: Callable[[Path, Path, DatasetSpec], list[Task]]


def _coco_meaning() -> dict[int, int]:
    never = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    return {255: 255} | dict.fromkeys(never, 255) | {v: n for n, v in enumerate(sorted(set(range(182)) - never))}


def _context_meaning() -> dict[int, int]:
    names, all_names = class_names("pc59"), class_names("pc459")
    # The one class with another name in the full list.
    places = [all_names.index("table" if name == "diningtable" else name) for name in names]
    return dict.fromkeys(range(460), 255) | {place + 1: number for number, place in enumerate(places)}


def _ade_full_table(index: Path) -> np.ndarray:
    classes, objects = {name: number for number, name in enumerate(class_names("ade847"))}, read_ade_objects(index)
    if missing := sorted(classes.keys() - set(objects)):
        raise DataError(f"{index} does not know {len(missing)} of the 847 classes, {missing[0]!r} for one")
    return value_table({0: 65535} | {number: classes.get(name, 65535) for number, name in enumerate(objects, 1)})


def _plain(pattern: str, meaning: dict[int, int], source: Path, root: Path, spec: DatasetSpec) -> list[Task]:
    """A folder of PNG files, all of which belong to the split."""
    convert = partial(convert_labels, read_values, value_table(meaning), 8, 0)
    folder = source / pattern.format(Path(spec.labels).name)
    return [Task(path, root / spec.labels / path.name, convert) for path in sorted(folder.glob("*.png"))]


def _listed(source: Path, lists: tuple[str, ...], split: str) -> Iterator[str]:
    for folder in lists:
        if (path := source / "ImageSets" / folder / f"{split}.txt").is_file():
            for stem in dict.fromkeys(read_bounded(path, MOST_BYTES).decode(errors="replace").split()):
                if Path(stem).name != stem or "\0" in stem:  # files are written under these names
                    raise DataError(f"{path} lists {stem!r:.100}, which is not a plain file name: is it VOC's list?")
                yield stem
            return


def _voc(meaning: dict[int, int], source: Path, root: Path, spec: DatasetSpec) -> list[Task]:
    convert = partial(convert_labels, read_values, value_table({255: 255} | meaning), 8, 0)
    return [
        Task(source / "SegmentationClass" / f"{stem}.png", root / spec.labels / f"{stem}.png", convert)
        for stem in _listed(source, ("Segmentation",), Path(spec.labels).name)
    ]


def _context(
    meaning: dict[int, int], bits: int, suffix: str, source: Path, root: Path, spec: DatasetSpec
) -> list[Task]:
    convert = partial(convert_labels, read_context, value_table(meaning), bits, 0)
    copy, tasks = partial(convert_image, 0), []
    for stem in _listed(source, ("SegmentationContext", "Main"), Path(spec.labels).parent.name):
        photograph = source / "JPEGImages" / f"{stem}.jpg"
        tasks.append(Task(photograph, root / spec.images / photograph.name, copy))
        tasks.append(Task(source / "trainval" / f"{stem}.mat", root / spec.labels / f"{stem}{suffix}", convert))
    return tasks


def _ade_full(source: Path, root: Path, spec: DatasetSpec) -> list[Task]:
    photographs = sorted((source / "images" / "ADE" / Path(spec.labels).name).rglob("ADE_*.jpg"))
    if not photographs:
        return []
    convert = partial(convert_labels, read_ade_full, _ade_full_table(source / "index_ade20k.pkl"), 16, ADE_FULL_SIDE)
    reduce, tasks = partial(convert_image, ADE_FULL_SIDE), []
    for path in photographs:
        tasks.append(Task(path, root / spec.images / path.name, reduce))
        tasks.append(Task(path.with_name(f"{path.stem}_seg.png"), root / spec.labels / f"{path.stem}.tif", convert))
    return tasks


_VOC_LAYOUT = "SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt"
_CONTEXT_LAYOUT = "JPEGImages/*.jpg, trainval/*.mat (Pascal Context's) and ImageSets/Main/{train,val}.txt of VOC 2010"
_ADE_MEANING = {0: 255} | {value: value - 1 for value in range(1, 151)}
_OBJECTS = {value: value - 1 for value in range(1, 21)}

SOURCES: dict[str, Source] = {
    "coco": Source(
        "coco", "stuffthingmaps/{train2017,val2017}/*.png", partial(_plain, "stuffthingmaps/{}", _coco_meaning())
    ),
    "ade150": Source(
        "ADEChallengeData2016",
        "annotations/{training,validation}/*.png",
        partial(_plain, "annotations/{}", _ADE_MEANING),
    ),
    "voc20": Source("VOC2012", _VOC_LAYOUT, partial(_voc, {0: 255} | _OBJECTS)),
    "voc21": Source("VOC2012", _VOC_LAYOUT, partial(_voc, {0: 20} | _OBJECTS)),
    "pc59": Source("VOC2010", _CONTEXT_LAYOUT, partial(_context, _context_meaning(), 8, ".png")),
    "pc459": Source(
        "VOC2010",
        _CONTEXT_LAYOUT,
        partial(_context, {0: 65535} | {value: value - 1 for value in range(1, 460)}, 16, ".tif"),
    ),
    "ade847": Source(
        "ADE20K_2021_17_01",
        "index_ade20k.pkl and images/ADE/{training,validation}/*/*/ADE_*.jpg with ADE_*_seg.png",
        _ade_full,
    ),
}
