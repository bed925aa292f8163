"""What a protocol shows of a test image: the mapper of a test set, and central squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as TF
from detectron2.data import MetadataCatalog
from PIL import Image
from torchvision.transforms.functional import InterpolationMode

from san_cliptrase.data.mapper import ResizeShorterSide, SemanticMapper, read_labels, record_labels
from san_cliptrase.data.vocabularies import class_words, replacement_words
from san_cliptrase.images import read_image
from san_cliptrase.protocols import (
    SLIDE_MAX_SIDE,
    SQUARES,
    WINDOW_PROTOCOLS,
    PaperRules,
    paper_rules,
    slide_side,
    window_rules,
)

BICUBIC, NEAREST = InterpolationMode.BICUBIC, InterpolationMode.NEAREST


def build_test_mapper(cfg: Any, dataset: str) -> Callable[[dict], dict]:
    """The mapper of a registered test set under TEST.PROTOCOL.

    Its entries are those of :class:`SemanticMapper`, but that "vocabulary" holds the words of TEST.VOCABULARY where
    that has any; and besides them "background_words", the dataset's words for its last class (empty: it has no
    background), and "cls_prior", whether the protocol multiplies by [CLS] logits. The protocols of papers with windows
    add "window_rules" and "class_words".

    Raises:
        DataError: TEST.VOCABULARY cannot be used.
    """
    metadata, protocol = MetadataCatalog.get(dataset), cfg.TEST.PROTOCOL
    classes, ignore = tuple(metadata.stuff_classes), cfg.INPUT.IGNORE_LABEL
    rules = paper_rules(dataset) if protocol == "cliptrase" else PaperRules()
    if protocol in SQUARES:
        mapper: Callable[[dict], dict] = SquareMapper(cfg.TEST.SIZE, classes, ignore, rules)
    elif protocol == "slide" or protocol in WINDOW_PROTOCOLS:
        own = cfg.TEST.SLIDE.SIDE or slide_side(dataset)
        side = own if protocol == "slide" else window_rules(protocol, dataset).side
        resize = ResizeShorterSide(side, SLIDE_MAX_SIDE)
        mapper = SemanticMapper(
            augmentations=[resize], pad_to=(0, 0), vocabulary=classes, ignore_label=ignore, is_train=False
        )
    else:
        mapper = SemanticMapper(cfg, classes, is_train=False)
    settings = {
        "vocabulary": replacement_words(cfg.TEST.VOCABULARY, dataset, classes) or classes,
        "background_words": tuple(metadata.get("background_words", ())),
        "cls_prior": rules.cls_prior,
    }
    if protocol in WINDOW_PROTOCOLS:
        published = window_rules(protocol, dataset)
        background = settings["background_words"]
        settings |= {
            "window_rules": published,
            "class_words": class_words(published.words, dataset, classes, background),
        }
    return _WithSettings(mapper, settings)


class _WithSettings:
    """Entries of a mapper with the settings of their dataset: a model reads them there and knows no dataset's name."""

    def __init__(self, mapper: Callable[[dict], dict], settings: Mapping[str, Any]) -> None:
        self.mapper, self.settings = mapper, dict(settings)

    def __call__(self, record: dict) -> dict:
        return {**self.mapper(record), **self.settings}


class SquareMapper:
    """The central square of image and ground truth, as CLIPtrase was published: resize, crop, and then normalise.

    The short side becomes ``size`` (bicubic, antialiased; labels by nearest neighbours), and what lies outside the
    square is neither seen nor scored.

    Args:
        size: side of the square in pixels.
        vocabulary: class names.
        ignore_label: value of pixels that are not scored.
        rules: what else is done to the labels.
    """

    def __init__(self, size: int, vocabulary: tuple[str, ...], ignore_label: int, rules: PaperRules) -> None:
        self.size, self.vocabulary, self.ignore_label, self.rules = size, vocabulary, ignore_label, rules

    def __call__(self, record: dict) -> dict:
        """Reads, checks, cuts.

        Raises:
            DataError: see :func:`read_image` and :func:`read_labels`.
        """
        image = read_image(record["file_name"])
        labels = self._scored(central_square(self._labels(record, image.shape[:2]), self.size, NEAREST))
        square = central_square(image, self.size, BICUBIC)
        return {
            **record,
            "image": torch.from_numpy(square.transpose(2, 0, 1).copy()),
            "sem_seg": torch.from_numpy(labels),
            "height": self.size,
            "width": self.size,
            "vocabulary": self.vocabulary,
        }

    def _labels(self, record: dict, size: tuple[int, int]) -> np.ndarray:
        table = self.rules.file_values
        if table:
            file_ignore = record.get("ignore_value", 255)
            labels = read_labels(record["sem_seg_file_name"], max(table) + 1, file_ignore, size, record.get("palette"))
            return np.where(labels == file_ignore, self.ignore_label, labels)
        if self.rules.void_is_background:  # here, not by a reduction: a square without a label stays without
            record = {key: value for key, value in record.items() if key != "reduction"}
        return record_labels(record, self.vocabulary, self.ignore_label, size)

    def _scored(self, labels: np.ndarray) -> np.ndarray:
        """The label map as the rules score it; what they ignore is not void, and does not become background."""
        void, scored = labels == self.ignore_label, labels.astype(np.int64)
        for value, index in self.rules.file_values.items():
            scored[labels == value] = self.ignore_label if index is None else index
        if self.rules.void_is_background and not void.all():
            scored[void] = len(self.vocabulary) - 1
        return scored


def central_square(pixels: np.ndarray, size: int, mode: InterpolationMode) -> np.ndarray:
    """Resizes the short side to ``size`` and cuts the centre out: (H, W) or (H, W, 3) -> (size, size) or with 3."""
    image = Image.fromarray(pixels if pixels.ndim == 3 else pixels.astype(np.int32))
    return np.asarray(TF.center_crop(TF.resize(image, size, mode), size))
