"""The table of datasets: where each lies under the root, what its label values mean, and how many files it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from san_cliptrase.data.reductions import CCP_UNSEEN
from san_cliptrase.scenes import UNSEEN_CLASSES


@dataclass(frozen=True)
class DatasetSpec:
    """Where a dataset lies and what its label values mean.

    Attributes:
        images: folder of images under the root.
        labels: folder of label maps under the root: one PNG (or TIFF) a image, the same stem, class index per pixel.
        classes: name of the class list, see :func:`san_cliptrase.data.datasets.class_names`.
        split: for the demo scenes, which split to draw if the files are not there yet.
        subset: the folder of images holds more than this split; the label files say which belong to it.
        file_classes: name of the class list that the label files' values index, if it is another one than
            ``classes``; pixels of classes that ``classes`` lacks are then read as not labelled.
        unseen: those of ``classes`` that the training set lacks; they are scored apart too.
        reduction: key of :data:`san_cliptrase.data.reductions.REDUCTIONS`: what the files' values mean, if they are no
            class indices of ``classes``.
        ignore: value of the label files for pixels without a label.
        background: name of the list of words, in ``data/background_words``, that stand for the last class.
        count: number of images of the published split; 0: it is not known how many there should be.
        source: key of :data:`san_cliptrase.data.sources.SOURCES`: the published archive that `prepare` converts; none:
            the files are read as they are published.
        stems: text file under the root, one stem a line: those files alone are the dataset.
        image_suffix: end of the images' names that is not part of the stem; folders below ``images`` are then searched.
        label_suffix: the same of label files.
        other_images: folder of images under the root that is read where ``images`` does not exist.
    """

    images: str
    labels: str
    classes: str
    split: str = ""
    subset: bool = False
    file_classes: str = ""
    unseen: tuple[str, ...] = ()
    reduction: str = ""
    ignore: int = 255
    background: str = ""
    count: int = 0
    source: str = ""
    stems: str = ""
    image_suffix: str = ""
    label_suffix: str = ""
    other_images: str = ""


CAMVID_UNSEEN = ("pavement", "tree", "car")
"""A ground, a plant and a thing, each with 1.7 % or more of the pixels of every split."""

_COCO = DatasetSpec("coco/{}", "coco/stuffthingmaps_detectron2/{}", "coco_stuff171", source="coco")
_COCO_27 = replace(_COCO, classes="coco_stuff27", reduction="coco_stuff27")
_VOC = DatasetSpec(
    "VOC2012/JPEGImages",
    "VOC2012/annotations_detectron2/{}",
    "voc20",
    subset=True,
    source="voc20",
    other_images="VOC2012/images_detectron2/{}",  # CLIPtrase's; SAN reads the archive's own
)
_CONTEXT = DatasetSpec("pcontext/{}/image", "pcontext/{}/label", "pc59", source="pc59")
_CITYSCAPES = DatasetSpec(
    "cityscapes/leftImg8bit/{}",
    "cityscapes/gtFine/{}",
    "cityscapes19",
    reduction="cityscapes19",
    image_suffix="_leftImg8bit.png",
    label_suffix="_gtFine_labelIds.png",
)


def _splits(name: str, spec: DatasetSpec, **splits: tuple[str, int]) -> dict[str, DatasetSpec]:
    """A row for each split; (folder, number of images) fill the braces in the spec's folders and its ``count``."""
    rows = {}
    for split, (folder, count) in splits.items():
        places = {key: getattr(spec, key).format(folder) for key in ("images", "labels", "other_images")}
        rows[f"{name}_{split}"] = replace(spec, **places, count=count)
    return rows


_CAMVID = DatasetSpec("camvid/images/{}", "camvid/annotations/{}", "camvid")
_CAMVID_CROPS = replace(_CAMVID, images="camvid_crops/images/{}", labels="camvid_crops/annotations/{}")


def _in_split(spec: DatasetSpec, split: str) -> DatasetSpec:
    return replace(spec, images=spec.images.format(split), labels=spec.labels.format(split))


def _seen(spec: DatasetSpec, split: str) -> DatasetSpec:
    return replace(_in_split(spec, split), classes="camvid_seen", file_classes="camvid")


def _open(spec: DatasetSpec, split: str) -> DatasetSpec:
    return replace(_in_split(spec, split), unseen=CAMVID_UNSEEN)


_CCP = DatasetSpec("ccp/images/{}", "ccp/annotations/{}", "ccp", reduction="ccp")
_CCP_CROPS = _splits(
    "ccp_crops",
    replace(_CCP, images="ccp_crops/images/{}", labels="ccp_crops/annotations/{}"),
    **{split: (split, 0) for split in ("train", "val", "test")},
)
_COCO_SPLITS = {"train": ("train2017", 118287), "val": ("val2017", 5000)}
_CONTEXT_SPLITS = {"train": ("train", 4998), "val": ("val", 5105)}
# SAN's users have the 10582 images of the augmented training set in this folder, `prepare` writes the 1464 of VOC.
_VOC_SPLITS = {"train": ("train", 0), "val": ("val", 1449)}
_CITYSCAPES_SPLITS = {"train": ("train", 2975), "val": ("val", 500)}

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
    **_splits("coco_stuff171", _COCO, **_COCO_SPLITS),
    **_splits(
        "coco_object",
        replace(_COCO, classes="coco_object", reduction="coco_object", background="coco_object"),
        **_COCO_SPLITS,
    ),
    **_splits("coco_stuff27", _COCO_27, **_COCO_SPLITS),
    # The images that PiCIE and STEGO are scored on; the list comes with PiCIE's repository.
    "coco_stuff27_curated_val": replace(
        _COCO_27,
        images="coco/val2017",
        labels="coco/stuffthingmaps_detectron2/val2017",
        count=2175,
        stems="coco/curated/val2017/Coco164kFull_Stuff_Coarse_7.txt",
    ),
    **_splits(
        "ade150",
        DatasetSpec(
            "ADEChallengeData2016/images/{}",
            "ADEChallengeData2016/annotations_detectron2/{}",
            "ade150",
            source="ade150",
        ),
        train=("training", 20210),
        val=("validation", 2000),
    ),
    **_splits(
        "ade847",
        DatasetSpec(
            "ADE20K_2021_17_01/images_detectron2/{}",
            "ADE20K_2021_17_01/annotations_detectron2/{}",
            "ade847",
            ignore=65535,
            source="ade847",
        ),
        train=("training", 25574),
        val=("validation", 2000),
    ),
    **_splits("pc59", _CONTEXT, **_CONTEXT_SPLITS),
    **_splits("pc60", replace(_CONTEXT, classes="pc60", reduction="pc60", background="pc60"), **_CONTEXT_SPLITS),
    **_splits(
        "pc459",
        DatasetSpec("pcontext_full/{}/image", "pcontext_full/{}/label", "pc459", ignore=65535, source="pc459"),
        **_CONTEXT_SPLITS,
    ),
    **_splits("voc20", _VOC, **_VOC_SPLITS),
    # SAN's label files of VOC hold 255 for background and void alike; these keep them apart.
    **_splits(
        "voc21",
        replace(
            _VOC, labels="VOC2012/annotations_detectron2_bg/{}", classes="voc21", background="voc21", source="voc21"
        ),
        **_VOC_SPLITS,
    ),
    **_splits("cityscapes19", _CITYSCAPES, **_CITYSCAPES_SPLITS),
    **_splits(
        "cityscapes27", replace(_CITYSCAPES, classes="cityscapes27", reduction="cityscapes27"), **_CITYSCAPES_SPLITS
    ),
    **_splits("camvid", _CAMVID, train=("train", 367), val=("val", 101), test=("test", 233)),
    # The same files for open vocabulary: labels of some classes are kept from training.
    "camvid_seen_train": _seen(_CAMVID, "train"),
    "camvid_open_val": _open(_CAMVID, "val"),
    "camvid_open_test": _open(_CAMVID, "test"),
    # In whole photographs places tell classes: experiments read random squares of them.
    "camvid_crops_train": _in_split(_CAMVID_CROPS, "train"),
    "camvid_crops_seen_train": _seen(_CAMVID_CROPS, "train"),
    "camvid_crops_open_val": _open(_CAMVID_CROPS, "val"),
    "camvid_crops_open_test": _open(_CAMVID_CROPS, "test"),
    **_splits("ccp", _CCP, train=("train", 704), val=("val", 100), test=("test", 200)),
    "ccp_crops_train": _CCP_CROPS["ccp_crops_train"],
    "ccp_crops_seen_train": replace(_CCP_CROPS["ccp_crops_train"], classes="ccp_seen", reduction="ccp_seen"),
    "ccp_crops_open_val": replace(_CCP_CROPS["ccp_crops_val"], unseen=CCP_UNSEEN),
    "ccp_crops_open_test": replace(_CCP_CROPS["ccp_crops_test"], unseen=CCP_UNSEEN),
}
"""The layouts that SAN's and CLIPtrase's users have already, so that prepared folders are used as they are; Cityscapes
lies as it is published. Layouts and sources: docs/datasets.md."""
