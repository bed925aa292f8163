"""From classified masks to a semantic map of one image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.strips import resize_in_strips
from san_cliptrase.structures import Size


def pixel_masks(mask_logits: Tensor, padded: Size, size: Size, output: Size) -> Tensor:
    """Masks in [0, 1] at every pixel, (Q, *output); for the arguments see :func:`semantic_map`."""
    return next(mask_strips(mask_logits, padded, size, output, output[0]))


def mask_strips(mask_logits: Tensor, padded: Size, size: Size, output: Size, rows: int) -> Iterator[Tensor]:
    """Masks in [0, 1] in strips (Q, <= rows, W) from top to bottom: a photograph's may not fit into memory as a whole.

    Args:
        rows: of a strip; for the others see :func:`semantic_map`.
    """
    masks = F.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)[0]
    masks = masks[:, : size[0], : size[1]]
    if output == size:
        yield from (strip.sigmoid() for strip in masks.split(rows, dim=1))
        return
    yield from (strip.sigmoid() for strip in resize_in_strips(masks, output, rows))


def class_scores(pred_logits: Tensor, masks: Tensor, keep_background: bool = False) -> Tensor:
    """``sum_q softmax(pred_logits)_qk masks_q`` (K, H, W); with the learned background (K+1, H, W)."""
    scores = pred_logits.softmax(dim=-1)
    return torch.einsum("qk,qhw->khw", scores if keep_background else scores[:, :-1], masks)


def semantic_map(pred_logits: Tensor, mask_logits: Tensor, padded: Size, size: Size, output: Size) -> Tensor:
    """Score every class at every pixel: ``sum_q softmax(pred_logits)_qk sigmoid(mask_logits)_q``.

    The softmax runs over all K+1 classes; the background's share is then left out (Cheng et al., "MaskFormer", 2021,
    section 3.4).

    Args:
        pred_logits: (Q, K+1), the background last.
        mask_logits: (Q, h', w').
        padded: (height, width) in pixels of the canvas that the masks cover.
        size: (height, width) of the image in that canvas, at the top left.
        output: (height, width) wanted.

    Returns:
        (K, *output), not normalised: overlapping masks add up.
    """
    return class_scores(pred_logits, pixel_masks(mask_logits, padded, size, output))
