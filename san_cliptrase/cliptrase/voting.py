"""From patch logits and regions to one class per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.errors import NotFiniteError
from san_cliptrase.regions.pixels import count_classes
from san_cliptrase.strips import resize_in_strips, strip_rows
from san_cliptrase.structures import Size

CLASSES_AT_ONCE = 64
SCORES_AT_ONCE = 2**27
# Li et al., 2023: how sharply [CLS] tells classes apart.
SURGERY_SCALE = 2.0


def patch_logits(tokens: Tensor, text_weights: Tensor, cls_prior: bool = False, surgery: bool = False) -> Tensor:
    """Cosine similarity of every patch with every word.

    Args:
        tokens: (B, T, E), [CLS] first, rows of length 1.
        text_weights: (K, E), rows of length 1.
        cls_prior: Multiply by the [CLS] token's own similarities, which favours words that the whole image is about
            (CLIPtrase on VOC20).
        surgery: ``feature_surgery`` of them, the prior's included.

    Returns:
        (B, L, K)
    """
    logits = tokens @ text_weights.to(tokens).T
    patches = logits[:, 1:] * logits[:, :1] if cls_prior else logits[:, 1:]
    return feature_surgery(patches, logits[:, :1]) if surgery else patches


def feature_surgery(logits: Tensor, cls_logits: Tensor) -> Tensor:
    """Take from each class's score what all classes share.

    ``s_k = sum_c (w_k x_c t_kc - mean_j w_j x_c t_jc)`` with the weights ``w_k = p_k / mean_j p_j``,
    ``p = softmax(2 x_cls t^T)`` (Li et al., "A closer look at the explainability of contrastive language-image
    pre-training", 2023). The sum over channels c goes through: ``s_k = w_k x.t_k - mean_j w_j x.t_j``. What is
    taken off is the same for all classes of a patch, so classes change places through the weights alone.

    Args:
        logits: (B, L, K), cosines ``x.t_k`` of patches and words.
        cls_logits: (B, 1, K), those of [CLS].

    Returns:
        (B, L, K)
    """
    probability = (SURGERY_SCALE * cls_logits).softmax(dim=-1)
    weighted = logits * (probability / probability.mean(dim=-1, keepdim=True))
    return weighted - weighted.mean(dim=-1, keepdim=True)


def pixel_logits(logits: Tensor, canvas: Size, size: Size) -> Tensor:
    """Logits of every pixel from those of the patches, upsampled bilinearly.

    Args:
        logits: (h, w, K) of one image.
        canvas: (height, width) in pixels that the patches cover.
        size: (H, W) of the image, the top-left part of the canvas.

    Returns:
        (K, H, W)
    """
    maps = logits.permute(2, 0, 1).contiguous()[None]  # with the classes last, resizing takes four times as long
    pixels = F.interpolate(maps, size=canvas, mode="bilinear", align_corners=False)[0]
    return pixels[:, : size[0], : size[1]]


@dataclass(frozen=True)
class Background:
    """How pixels become background, the class after all others.

    Attributes:
        index: the class; scores from there on are those of background words, which all mean it.
        threshold: where no class is at least so probable, the pixel is background too; 0: not asked for.
        scale: the probability is ``softmax(scale * scores)``; 0: scores are probabilities already.
    """

    index: int
    threshold: float = 0.0
    scale: float = 0.0


def decide_pixels(scores: Tensor, size: Size, background: Background | None = None) -> Tensor:
    """Class of every pixel, the one with the largest score there.

    A few classes are resized at a time: those of a large vocabulary do not fit into memory at a photograph's size.

    Args:
        scores: (K, h, w).
        size: (H, W) wanted; the scores are resized bilinearly.
        background: None: there is none.

    Returns:
        (H, W) int64: in [0, K), or with a background in [0, index].

    Raises:
        NotFiniteError: A score is NaN or infinite: every pixel would silently become the first class.
    """
    best = torch.full(size, -torch.inf, device=scores.device)
    total, labels = best.clone(), torch.zeros(size, dtype=torch.int64, device=scores.device)
    scaled = background is not None and background.threshold > 0 and background.scale > 0
    at_once = max(1, min(CLASSES_AT_ONCE, SCORES_AT_ONCE // (size[0] * size[1])))
    for start in range(0, len(scores), at_once):
        part = scores[start : start + at_once].float()
        if part.shape[-2:] != torch.Size(size):
            part = F.interpolate(part[None], size=size, mode="bilinear", align_corners=False)[0]
        value, index = part.max(0)  # argmax is four times slower on a CPU
        labels = torch.where(value > best, index + start, labels)
        best = torch.maximum(value, best)
        if scaled:
            total = torch.logaddexp(total, (background.scale * part).logsumexp(0))
    if not best.isfinite().all():  # a NaN among the scores is the largest of them
        raise NotFiniteError(
            "the scores of the classes are NaN or infinite. Are the weights those of a model that diverged, or that "
            "overflowed when it was converted?"
        )
    if background is None:
        return labels
    labels = merge_background(labels, background.index)
    if background.threshold > 0:
        probability = (background.scale * best - total).exp() if scaled else best
        labels[probability < background.threshold] = background.index
    return labels


def majority_vote(classes: Tensor, regions: Tensor, num_classes: int) -> Tensor:
    """Let the pixels of each region agree on their most frequent class; the lowest index wins a tie.

    Args:
        classes: (H, W) int64 in [0, num_classes).
        regions: (H, W) int64 >= 0, the region of each pixel.
        num_classes: K.

    Returns:
        (H, W) int64 in [0, num_classes).
    """
    return count_classes(classes, regions, num_classes).argmax(dim=1)[regions]


def vote_shares(classes: Tensor, regions: Tensor | None, num_classes: int) -> Tensor:
    """A vote that can be averaged: the share of its region's pixels that are of each class.

    Its maximum is the class of :func:`majority_vote`.

    Args:
        classes: (H, W) int64 in [0, num_classes).
        regions: (H, W) int64 >= 0; None: every pixel is a region of its own.
        num_classes: K.

    Returns:
        (K, H, W), each pixel adds up to 1.
    """
    if regions is None:
        return F.one_hot(classes, num_classes).permute(2, 0, 1).float()
    counts = count_classes(classes, regions, num_classes).float()
    return (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).T[:, regions]


def merge_background(classes: Tensor, num_classes: int) -> Tensor:
    """Turn all background words, which follow the ``num_classes`` classes, into the one class ``num_classes``."""
    return classes.clamp(max=num_classes)


def resize_labels(labels: Tensor, size: Size) -> Tensor:
    """Resize a label map with smooth boundaries: every pixel takes the class whose resized mask is largest there.

    Args:
        labels: (h, w) int64.
        size: (H, W) wanted.

    Returns:
        (H, W) int64
    """
    if tuple(labels.shape) == tuple(size):
        return labels
    resized = torch.empty(size, dtype=torch.int64, device=labels.device)
    classes, rows = labels.unique(), strip_rows(size[1])
    # One class after the other: a photograph times all classes does not fit into memory.
    masks = [resize_in_strips((labels == value)[None], size, rows) for value in classes]
    for labelled, shares in zip(resized.split(rows), zip(*masks, strict=True), strict=True):
        best = torch.full(labelled.shape, -1.0, device=labels.device)
        for value, (share,) in zip(classes, shares, strict=True):
            labelled.masked_fill_(share > best, value)
            best = torch.maximum(best, share)
    return resized
