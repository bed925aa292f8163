"""What both meta-architectures read from detectron2's dicts in the same way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from san_cliptrase.class_lists import find_background
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.cliptrase.voting import Background
from san_cliptrase.errors import DataError, OptionError
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.scoring import Scoring

Words = tuple[str, ...]


def output_size(entry: dict) -> tuple[int, int]:
    """The (height, width) that an entry asks for; without, that of its image."""
    height, width = entry["image"].shape[-2:]
    return entry.get("height", height), entry.get("width", width)


def batch_vocabulary(inputs: Sequence[dict]) -> tuple[str, ...]:
    """The class names that all dicts of a batch carry.

    Raises:
        OptionError: if they carry none, or different ones.
    """
    found = {tuple(entry.get("vocabulary", ())) for entry in inputs}
    if len(found) != 1 or not next(iter(found)):
        raise OptionError(
            f"every input needs the same non-empty 'vocabulary'; this batch of {len(inputs)} has {len(found)} different"
        )
    return next(iter(found))


def background_last(inputs: Sequence[dict]) -> tuple[Sequence[dict], Tensor | None]:
    """The entries of a batch with "background", wherever it is in their vocabulary, as the last class.

    Returns:
        The entries, and (K,) the places that their classes have in the vocabulary as given; None: they are as given.
    """
    vocabulary = batch_vocabulary(inputs)
    place = find_background(vocabulary)
    if place is None or place == len(vocabulary) - 1:
        return inputs, None
    order = [*(index for index in range(len(vocabulary)) if index != place), place]
    names = tuple(vocabulary[index] for index in order)
    return [{**entry, "vocabulary": names} for entry in inputs], torch.tensor(order)


def in_given_order(label_maps: Callable[[Any, list[dict]], list[Tensor]]) -> Callable[[Any, list[dict]], list[Tensor]]:
    """A method ``label_maps`` that is given vocabularies with "background" as the last class, and knows no others."""

    @functools.wraps(label_maps)
    def ordered(self: Any, inputs: list[dict]) -> list[Tensor]:
        moved, places = background_last(inputs)
        found = label_maps(self, moved)
        return found if places is None else [places.to(labels.device)[labels] for labels in found]

    return ordered


def check_views(scoring: Scoring, reads: TrainingFreeReader | RegionSource | None) -> None:
    """Refuses windows, test-time augmentation and refinement where something looks beyond the one image.

    Args:
        scoring: how images are seen.
        reads: what reads them, or finds regions in them.

    Raises:
        OptionError: it looks at the ground truth or at other images of the batch.
    """
    if reads is not None and not scoring.is_plain and (reads.needs_labels or reads.needs_batch):
        raise OptionError(
            "an attention rule with '+truth' and the sources of regions truth and shuffled look at whole images as "
            "they are: protocols with windows, such as slide, TEST.SCALES, FLIP and REFINE cannot have them"
        )


@dataclass(frozen=True)
class BackgroundReader:
    """TEST.BACKGROUND: what a batch's words and scores mean where its dataset has a class "background".

    Attributes:
        kind: words, threshold or learned.
        words: background words that replace those of the dataset; () keeps the dataset's.
        threshold: of ``threshold``.
    """

    kind: str
    words: Words
    threshold: float

    @classmethod
    def from_config(cls, cfg: Any) -> BackgroundReader:
        """Reads TEST.BACKGROUND, TEST.BACKGROUND_THRESHOLD and MODEL.CLIPTRASE.BACKGROUND."""
        return cls(cfg.TEST.BACKGROUND, tuple(cfg.MODEL.CLIPTRASE.BACKGROUND), cfg.TEST.BACKGROUND_THRESHOLD)

    def __call__(self, inputs: Sequence[dict], scale: float = 0.0) -> tuple[Words, Words, Background | None]:
        """Reads a batch.

        Args:
            inputs: dicts of :func:`background_last`, with "vocabulary" and maybe "background_words".
            scale: see ``Background``; used for a threshold.

        Returns:
            The class names to encode, the background words, and how scores over both become classes.

        Raises:
            DataError: if there are background words, but the last class is not "background"; or a threshold on
                probabilities of one class alone, which are 1.
        """
        vocabulary = batch_vocabulary(inputs)
        words = self.words or tuple(inputs[0].get("background_words", ()))
        *classes, last = vocabulary
        has_one = find_background(vocabulary) is not None
        if words and not has_one:
            raise DataError(
                f"the background words {', '.join(words[:3])}, ... (of the dataset, or of MODEL.CLIPTRASE.BACKGROUND) "
                f"need 'background' as the dataset's last class, not {last!r}"
            )
        if not has_one or (self.kind == "words" and not words):
            return vocabulary, (), None
        if self.kind == "words":
            return tuple(classes), words, Background(len(classes))
        threshold = self.threshold if self.kind == "threshold" else 0.0
        if threshold and scale and len(classes) == 1:
            raise DataError(
                f"TEST.BACKGROUND threshold finds no background beside the one class {classes[0]!r}: the probability "
                f"of a single class is always 1. Name words for the background (MODEL.CLIPTRASE.BACKGROUND) with "
                f"TEST.BACKGROUND words, or evaluate a SAN"
            )
        return tuple(classes), (), Background(len(classes), threshold, scale)

    def keeps(self, background: Background | None) -> bool:
        """Whether SAN's learned background is a class of its semantic map."""
        return background is not None and self.kind == "learned"


def merge_scores(scores: Tensor, background: Background | None) -> Tensor:
    """(K, H, W) scores whose maximum is the class that ``decide_pixels`` takes, for scores that are probabilities."""
    if background is None:
        return scores
    rest = scores[background.index :]
    if background.threshold > 0:
        rest = torch.full_like(scores[:1], background.threshold)
    return torch.cat([scores[: background.index], rest.amax(dim=0, keepdim=True)])


def one_hot_scores(labels: Tensor, num_classes: int) -> Tensor:
    """(K, H, W) scores of a label map (H, W), as detectron2's evaluators expect them."""
    scores = torch.zeros(num_classes, *labels.shape, device=labels.device)
    return scores.scatter_(0, labels[None], 1.0)
