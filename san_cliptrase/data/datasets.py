"""One table of datasets, registered with detectron2 under ``$DETECTRON2_DATASETS`` (default: ``datasets``)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from san_cliptrase.scenes import CLASS_NAMES, SEEN_CLASSES, UNSEEN_CLASSES
from san_cliptrase.scenes.write import draw_split

_CLASS_FILES = Path(__file__).parent / "class_names"
_SCENE_CLASSES = {"scenes": CLASS_NAMES, "scenes_seen": SEEN_CLASSES}


@dataclass(frozen=True)
class DatasetSpec:
    """Where a dataset lies and what its label values mean.

    Attributes:
        images: folder of images under the root.
        labels: folder of label maps under the root: one PNG (or TIFF) a picture, the same stem, class index per pixel.
        classes: name of the class list, see :func:`class_names`.
        split: for the demo scenes, which split to draw if the files are not there yet.
        subset: the folder of images holds more than this split; the label files say which belong to it.
        file_classes: name of the class list that the label files' values index, if it is another one than
            ``classes``; pixels of classes that ``classes`` lacks are then read as not labelled.
        unseen: those of ``classes`` that the training set lacks; they are scored apart too.
    """

    images: str
    labels: str
    classes: str
    split: str = ""
    subset: bool = False
    file_classes: str = ""
    unseen: tuple[str, ...] = ()


CAMVID_UNSEEN = ("pavement", "tree", "car")
"""A ground, a plant and a thing, each with 1.7 % or more of the pixels of every split."""


DATASETS: dict[str, DatasetSpec] = {
    "demo_scenes_train": DatasetSpec(
        "demo_scenes/images/train", "demo_scenes/annotations/train", "scenes_seen", "train"
    ),
    "demo_scenes_val": DatasetSpec(
        "demo_scenes/images/val", "demo_scenes/annotations/val", "scenes", "val", unseen=UNSEEN_CLASSES
    ),
    "demo_scenes_tune": DatasetSpec(
        "demo_scenes/images/tune", "demo_scenes/annotations/tune", "scenes", "tune", unseen=UNSEEN_CLASSES
    ),
    "coco_stuff171_train": DatasetSpec("coco/train2017", "coco/stuffthingmaps_detectron2/train2017", "coco_stuff171"),
    "coco_stuff171_val": DatasetSpec("coco/val2017", "coco/stuffthingmaps_detectron2/val2017", "coco_stuff171"),
    "ade150_val": DatasetSpec(
        "ADEChallengeData2016/images/validation", "ADEChallengeData2016/annotations_detectron2/validation", "ade150"
    ),
    "pc59_val": DatasetSpec("pcontext/val/image", "pcontext/val/label", "pc59"),
    "voc20_val": DatasetSpec("VOC2012/JPEGImages", "VOC2012/annotations_detectron2/val", "voc20", subset=True),
    "camvid_train": DatasetSpec("camvid/images/train", "camvid/annotations/train", "camvid"),
    "camvid_val": DatasetSpec("camvid/images/val", "camvid/annotations/val", "camvid"),
    "camvid_test": DatasetSpec("camvid/images/test", "camvid/annotations/test", "camvid"),
    # The same files for open vocabulary: labels of some classes are kept from training.
    "camvid_seen_train": DatasetSpec(
        "camvid/images/train", "camvid/annotations/train", "camvid_seen", file_classes="camvid"
    ),
    "camvid_open_val": DatasetSpec("camvid/images/val", "camvid/annotations/val", "camvid", unseen=CAMVID_UNSEEN),
    "camvid_open_test": DatasetSpec("camvid/images/test", "camvid/annotations/test", "camvid", unseen=CAMVID_UNSEEN),
}
"""The layouts that SAN's dataset preparation writes, so that prepared folders are used as they are; CamVid's layout is
described in docs/datasets.md."""


def class_names(name: str) -> list[str]:
    """Class names in the order of their label values.

    Args:
        name: a list in ``data/class_names`` without its suffix, or "scenes" or "scenes_seen".
    """
    if name in _SCENE_CLASSES:
        return list(_SCENE_CLASSES[name])
    return (_CLASS_FILES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def datasets_root() -> Path:
    """The folder that holds the datasets."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def load_pairs(name: str, images: Path, labels: Path, subset: bool = False) -> list[dict]:
    """Pairs image and label files by their stems, in sorted order.

    Args:
        name: of the dataset, for messages.
        images: folder of images.
        labels: folder of label maps.
        subset: leave out images without a label file instead of refusing them.

    Raises:
        FileNotFoundError: if a folder is missing or empty, an image has no label file or the reverse, or two files of
            a folder share their stem.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"dataset {name!r} expects the folder {folder}, which does not exist. Put the data there, or set "
                f"DETECTRON2_DATASETS to the folder that holds it (docs/datasets.md)."
            )
    pictures = _by_stem(images, {".jpg", ".jpeg", ".png"})
    truths = _by_stem(labels, {".png", ".tif", ".tiff"})
    if subset:
        pictures = {stem: path for stem, path in pictures.items() if stem in truths}
    alone = sorted(pictures.keys() ^ truths.keys())
    if alone or not pictures:
        found = f"{len(pictures)} images in {images}, {len(truths)} label files in {labels}"
        unpaired = f"; without a partner: {', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}" if alone else ""
        raise FileNotFoundError(f"dataset {name!r}: {found}{unpaired}. Every image needs the label file of its stem.")
    return [
        {"file_name": str(pictures[stem]), "sem_seg_file_name": str(truths[stem]), "image_id": stem}
        for stem in sorted(pictures)
    ]


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and found.setdefault(path.stem, path) != path:
            raise FileNotFoundError(f"{found[path.stem]} and {path} share a stem: which one belongs to its partner?")
    return found


def _load(name: str) -> list[dict]:
    spec, root = DATASETS[name], datasets_root()
    if spec.split:
        if comm.is_main_process():
            draw_split(root / "demo_scenes", spec.split)
        comm.synchronize()  # every process of a run loads its datasets
    records = load_pairs(name, root / spec.images, root / spec.labels, spec.subset)
    if spec.file_classes:
        label_names = tuple(class_names(spec.file_classes))
        records = [{**record, "label_names": label_names} for record in records]
    return records


def register(name: str, loader: Callable[[], list[dict]], classes: Sequence[str], unseen: Sequence[str] = ()) -> None:
    """Registers a semantic segmentation dataset: also the way to add one's own.

    Args:
        name: what DATASETS.TRAIN and DATASETS.TEST call it.
        loader: function without arguments that returns detectron2's list of dicts.
        classes: class names in the order of the label values.
        unseen: those of ``classes`` that training never labels; they are scored apart too.
    """
    DatasetCatalog.register(name, loader)
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes), unseen_classes=list(unseen), ignore_label=255, evaluator_type="sem_seg"
    )


for _name, _spec in DATASETS.items():
    register(_name, functools.partial(_load, _name), class_names(_spec.classes), _spec.unseen)
