"""From patch logits and regions to one class per pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def patch_logits(tokens: Tensor, text_weights: Tensor, cls_prior: bool = False) -> Tensor:
    """Cosine similarity of every patch with every word.

    Args:
        tokens: (B, T, E), [CLS] first, rows of length 1.
        text_weights: (K, E), rows of length 1.
        cls_prior: Multiply by the [CLS] token's own similarities, which favours words that the whole image is about
            (CLIPtrase on VOC20).

    Returns:
        (B, L, K)
    """
    logits = tokens @ text_weights.to(tokens).T
    return logits[:, 1:] * logits[:, :1] if cls_prior else logits[:, 1:]


def classify_pixels(logits: Tensor, canvas: Size, size: Size) -> Tensor:
    """Class of every pixel from the logits of the patches, upsampled bilinearly.

    Args:
        logits: (h, w, K) of one image.
        canvas: (height, width) in pixels that the patches cover.
        size: (H, W) of the image, the top-left part of the canvas.

    Returns:
        (H, W) int64 in [0, K).
    """
    maps = logits.permute(2, 0, 1)[None]
    pixels = F.interpolate(maps, size=canvas, mode="bilinear", align_corners=False)[0]
    return pixels[:, : size[0], : size[1]].argmax(dim=0)


def majority_vote(classes: Tensor, regions: Tensor, num_classes: int) -> Tensor:
    """Let the pixels of each region agree on their most frequent class; the lowest index wins a tie.

    Args:
        classes: (H, W) int64 in [0, num_classes).
        regions: (H, W) int64 >= 0, the region of each pixel.
        num_classes: K.

    Returns:
        (H, W) int64 in [0, num_classes).
    """
    cells = torch.bincount((regions * num_classes + classes).flatten(), minlength=0)
    count = int(regions.max()) + 1
    counts = F.pad(cells, (0, count * num_classes - len(cells))).unflatten(0, (count, num_classes))
    return counts.argmax(dim=1)[regions]


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
    best = torch.full(size, -1.0, device=labels.device)
    resized = torch.zeros(size, dtype=torch.int64, device=labels.device)
    # One class after the other: a photograph times all classes does not fit into memory.
    for index in labels.unique():
        mask = (labels == index).float()[None, None]
        share = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)[0, 0]
        resized[share > best] = index
        best = torch.maximum(best, share)
    return resized
