"""From a dataset's dict to what the meta-architectures read: images and masks as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.structures import BitMasks, Instances

from san_cliptrase.data.palette import Palette
from san_cliptrase.data.reductions import IGNORED, REDUCTIONS, Reduction
from san_cliptrase.errors import DataError
from san_cliptrase.images import image_size, read_image, read_values

GREY = 128
WIDE_IGNORE = 65535
"""What label files of more than 255 classes have for pixels without a label."""
MOST_MASKS = 1024
"""Most classes in one training image: each is a mask of its size."""


def read_labels(
    path: str, num_classes: int, ignore_label: int, size: tuple[int, int], palette: Palette | None = None
) -> np.ndarray:
    """(H, W) int64 label map, checked.

    Args:
        path: single-channel label image; with a palette, one in colours.
        num_classes: labels are 0 .. num_classes - 1, or ``ignore_label``.
        ignore_label: the value of unlabelled pixels.
        size: (height, width) that the image has.
        palette: what colours stand for.

    Raises:
        DataError: if the file cannot be read, has channels, another size, fewer bits than the classes need, or a value
            that is no class; with a palette see :meth:`Palette.read`.
    """
    labels = palette.read(path, ignore_label) if palette else read_values(path)
    if labels.ndim != 2:
        raise DataError(
            f"label file {path} has shape {labels.shape}; expected one class index per pixel. If its colours stand for "
            f"classes, write them behind the names in the class file, as in 'building 128 0 0' (docs/datasets.md)"
        )
    if labels.shape != size:
        raise DataError(f"label file {path} is {labels.shape[0]}x{labels.shape[1]}, its image {size[0]}x{size[1]}")
    if labels.dtype.itemsize == 1 and num_classes > 256:
        raise DataError(
            f"label file {path} has 8 bits a pixel, which cannot hold {num_classes} classes: it was cut down when it "
            f"was written. Make it again as a 16-bit TIFF or PNG (san-cliptrase data prepare does)"
        )
    labels = labels.astype(np.int64)
    outside = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_label)
    if outside.any():
        values = np.unique(labels[outside])
        raise DataError(
            f"label file {path} holds the value(s) {', '.join(map(str, values[:5]))}; the dataset has classes 0 to "
            f"{num_classes - 1}, and {ignore_label} for ignored pixels. Unconverted files, a class list that is too "
            f"short or another ignore value look like this (docs/datasets.md)"
        )
    return labels


def record_labels(record: dict, vocabulary: Sequence[str], ignore_label: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int64 label map of a dataset's dict, whose values index ``vocabulary``.

    Where the file has colours, the dict says in "palette" what they stand for. Where it was made for other classes,
    the dict names those as "label_names", or has the name of a "reduction"; pixels of a class that ``vocabulary`` lacks
    get ``ignore_label``. Pixels without a label get it too, whatever value ("ignore_value") they have in the file.

    Raises:
        DataError: see :func:`read_labels`.
    """
    names, path = tuple(record.get("label_names", vocabulary)), record["sem_seg_file_name"]
    reduction = REDUCTIONS[record["reduction"]] if "reduction" in record else None
    num_values = len(reduction.classes) if reduction else len(names)
    # Files of datasets that do not say: 255 for up to 255 classes, or what INPUT.IGNORE_LABEL was set to below.
    usual = min(ignore_label, WIDE_IGNORE if num_values > 255 else 255)
    file_ignore = record.get("ignore_value", usual)
    labels = read_labels(path, num_values, file_ignore, size, record.get("palette"))
    if reduction is None and names == tuple(vocabulary):
        return labels if file_ignore == ignore_label else np.where(labels == file_ignore, ignore_label, labels)
    if reduction is None:
        reduction = Reduction(tuple(vocabulary.index(name) if name in vocabulary else IGNORED for name in names))
    return reduction.apply(labels, file_ignore, ignore_label)


def check_labelled(records: Sequence[dict], vocabulary: Sequence[str], ignore_label: int, what: str) -> None:
    """Refuses a set without any label: in training the loss would be 0 to the end, in an evaluation no metric exists.

    Reads label files until one has a label, which nearly always is the first. Files that cannot be used are left to
    the loader.

    Args:
        records: dicts of the set.
        vocabulary: its classes.
        ignore_label: see :func:`record_labels`.
        what: how messages call the set.

    Raises:
        DataError: label files were read, and none has a pixel of a class.
    """
    read = 0
    for record in records:
        try:
            size = image_size(record["file_name"])
            labels = record_labels(record, vocabulary, ignore_label, size)
        except DataError:
            continue
        read += 1
        if (labels != ignore_label).any():
            return
    if read:
        raise DataError(
            f"no pixel of {what} has a label: the {read} label files, such as "
            f"{records[0]['sem_seg_file_name']}, hold only values that mean no label. Check what the values "
            f"of the files mean (docs/datasets.md)"
        )


class ResizeShorterSide(T.ResizeShortestEdge):
    """detectron2's resizing, but that of an image as thin as a line at least one pixel is left."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """How this image is resized."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform):
            resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
        return resize


class SemanticMapper:
    """detectron2 dataset dict -> {"image", "height", "width", "sem_seg", "vocabulary"} and, for training, "instances".

    "image" is (3, H, W) uint8 RGB, "sem_seg" (H, W) int64, "vocabulary" the class names that its values index.
    Pixels without a label are INPUT.IGNORE_LABEL in "sem_seg".
    "instances" holds ``gt_classes`` and binary ``gt_masks``, one for each class that shows. Training pads images that
    are smaller than the crop with grey to its size, as SAN does; "shown_size" (h, w) is the part that is image.
    It draws its augmentation from Python's and numpy's global generators, which the loader seeds for every sample.
    """

    @configurable
    def __init__(
        self,
        augmentations: list,
        pad_to: tuple[int, int],
        vocabulary: Sequence[str],
        ignore_label: int,
        is_train: bool,
    ) -> None:
        self.augmentations, self.pad_to = T.AugmentationList(augmentations), pad_to
        self.vocabulary, self.ignore_label, self.is_train = tuple(vocabulary), ignore_label, is_train
        if ignore_label < len(self.vocabulary):
            raise DataError(
                f"INPUT.IGNORE_LABEL is {ignore_label}, which is also one of the {len(self.vocabulary)} classes: "
                f"set it to {WIDE_IGNORE}"
            )

    @classmethod
    def from_config(cls, cfg: Any, vocabulary: Sequence[str], is_train: bool) -> dict:
        """Augmentations of SAN: resize, crop, colour, flip; at test time the resize alone."""
        ignore, pad_to = cfg.INPUT.IGNORE_LABEL, (0, 0)
        if is_train:
            augmentations = [
                ResizeShorterSide(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
            ]
            if cfg.INPUT.CROP.ENABLED:
                pad_to = tuple(cfg.INPUT.CROP.SIZE)
                augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
            if cfg.INPUT.COLOR_AUG_SSD:
                augmentations.append(ColorAugSSDTransform(img_format="RGB"))
            if cfg.INPUT.RANDOM_FLIP != "none":
                augmentations.append(T.RandomFlip(horizontal=True, vertical=False))
        else:
            augmentations = [ResizeShorterSide(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
        return {
            "augmentations": augmentations,
            "pad_to": pad_to,
            "vocabulary": vocabulary,
            "ignore_label": ignore,
            "is_train": is_train,
        }

    def __call__(self, record: dict) -> dict:
        """Reads, checks, augments.

        Raises:
            DataError: see :func:`read_image` and :func:`read_labels`.
        """
        image = read_image(record["file_name"])
        height, width = image.shape[:2]
        labels = record_labels(record, self.vocabulary, self.ignore_label, (height, width))
        result = {**record, "height": height, "width": width, "vocabulary": self.vocabulary}
        # T.AugInput resizes label maps with nearest neighbours; uint8 images are what its transforms expect.
        pair = T.AugInput(image, sem_seg=labels.astype(np.float32) if self.is_train else None)
        self.augmentations(pair)
        resized = torch.from_numpy(np.ascontiguousarray(pair.image.transpose(2, 0, 1)))
        if not self.is_train:
            return {**result, "image": resized, "sem_seg": torch.from_numpy(labels)}
        h, w = resized.shape[1:]
        below, right = max(self.pad_to[0] - h, 0), max(self.pad_to[1] - w, 0)
        labels = np.pad(pair.sem_seg.astype(np.int64), ((0, below), (0, right)), constant_values=self.ignore_label)
        result["image"] = F.pad(resized, (0, right, 0, below), value=GREY)
        result["shown_size"] = (h, w)
        result["sem_seg"] = torch.from_numpy(labels)
        result["instances"] = self._masks(labels, record["sem_seg_file_name"])
        return result

    def _masks(self, labels: np.ndarray, path: str) -> Instances:
        present = np.flatnonzero(np.bincount(labels.ravel()))
        present = present[present != self.ignore_label]
        if len(present) > MOST_MASKS:
            raise DataError(
                f"label file {path} has {len(present)} classes in one training image, more than the {MOST_MASKS} "
                f"masks that are made: are its values instances instead of classes?"
            )
        instances = Instances(labels.shape)
        instances.gt_classes = torch.from_numpy(present)
        instances.gt_masks = BitMasks(torch.from_numpy(labels[None] == present[:, None, None]))
        return instances
