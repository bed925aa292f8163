"""Classes of several words: labels from the scores of words, as SCLIP and the methods after it decide them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.cliptrase.voting import CLASSES_AT_ONCE, SCORES_AT_ONCE
from san_cliptrase.protocols import WindowRules
from san_cliptrase.structures import Size


@dataclass(frozen=True)
class ClassWords:
    """The words of all classes in the order in which the first of equal scores wins.

    Attributes:
        words: W words; one that stands for two classes is there twice and counts twice in the softmax.
        classes: of each word.
        background: the class that pixels without a probable class get; None: there is none.
    """

    words: tuple[str, ...]
    classes: tuple[int, ...]
    background: int | None = None

    @classmethod
    def of(cls, groups: Sequence[Sequence[str]], background: int | None = None) -> ClassWords:
        """The words of each class, given class by class; the background's come first, as in the authors' lists."""
        order = sorted(range(len(groups)), key=lambda index: index != background)
        named = [(word, index) for index in order for word in groups[index]]
        return cls(tuple(word for word, _ in named), tuple(index for _, index in named), background)


def decide_by_words(scores: Tensor, words: ClassWords, size: Size, rules: WindowRules) -> Tensor:
    """Class of every pixel, as the published code of SCLIP, NACLIP, ClearCLIP and SC-CLIP decides it.

    In this order: the scores are resized bilinearly; ``p = softmax(scale * scores)`` over all words; a class has the
    largest p of its words; the pixel is of the class with the largest. With ``share``, classes are then dropped that
    have no more than this share of the pixels that are not background, and pixels are decided again among the others.
    Last, pixels whose largest p is below ``probability`` become background.

    Args:
        scores: (W, h, w), cosines of pixels and words.
        words: Whose scores they are.
        size: (H, W) wanted.
        rules: ``scale``, ``share`` and ``probability``; the last two mean nothing without a background.

    Returns:
        (H, W) int64
    """
    classes = torch.tensor(words.classes, device=scores.device)
    labels, best, total = _largest(scores, classes, size, rules.scale)
    if words.background is None:
        return labels
    if rules.share > 0:
        pixels = labels.flatten().bincount(minlength=max(words.classes) + 1)
        pixels[words.background] = 0
        kept = pixels > rules.share * pixels.sum()
        kept[words.background] = True
        labels, best, _ = _largest(scores[kept[classes]], classes[kept[classes]], size, rules.scale)
    # total is that of all words, also of those that were dropped
    labels[(best - total).exp() < rules.probability] = words.background
    return labels


def _largest(scores: Tensor, classes: Tensor, size: Size, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Class of each pixel's largest score, that score, and the logarithm of the softmax's sum; words in parts."""
    best = torch.full(size, -torch.inf, device=scores.device)
    total, labels = best.clone(), torch.zeros(size, dtype=torch.int64, device=scores.device)
    at_once = max(1, min(CLASSES_AT_ONCE, SCORES_AT_ONCE // (size[0] * size[1])))
    for part, own in zip(scores.split(at_once), classes.split(at_once), strict=True):
        resized = part.float()
        if resized.shape[-2:] != torch.Size(size):
            resized = F.interpolate(resized[None], size=size, mode="bilinear", align_corners=False)[0]
        resized = scale * resized
        value, index = resized.max(0)
        labels = torch.where(value > best, own[index], labels)  # the first of equal ones stays
        best = torch.maximum(value, best)
        total = torch.logaddexp(total, resized.logsumexp(0))
    return labels, best, total
