"""What a set of predicted masks is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNNAMED = -1
"""The label of a mask of no known class."""


class MaskTarget(NamedTuple):
    """What one image shows: a mask for every class of its ground truth, and any number of no known class.

    Attributes:
        labels: (N,) int64 in [0, K), or ``UNNAMED``; N may be 0.
        masks: (N, H, W), bool or in [0, 1], on the padded canvas that the predicted masks cover.
    """

    labels: Tensor
    masks: Tensor


def check_targets(targets: Sequence[MaskTarget], batch: int, num_classes: int) -> None:
    """Refuse targets that do not fit the predictions.

    Raises:
        ValueError: Wrong number of images, labels and masks of different number, masks of different canvas, or a
            label outside the classes; says which.
    """
    if len(targets) != batch:
        raise ValueError(f"{len(targets)} targets were given for predictions of {batch} images")
    canvases = set()
    for image, (labels, masks) in enumerate(targets):
        if masks.ndim != 3 or labels.shape != masks.shape[:1]:
            raise ValueError(
                f"target {image}: labels {tuple(labels.shape)} and masks {tuple(masks.shape)} "
                "must be (N,) and (N, H, W)"
            )
        if len(labels) and not UNNAMED <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f"target {image}: labels {labels.unique().tolist()} must lie in 0..{num_classes - 1}")
        canvases.add(tuple(masks.shape[1:]))
    if len(canvases) > 1:
        raise ValueError(f"target masks of one batch must share the padded canvas, got {sorted(canvases)}")


def pseudo_targets(regions: Tensor, unlabelled: Tensor) -> MaskTarget:
    """Unnamed masks of an image: the unlabelled pixels of each region most of which has no label.

    Args:
        regions: (N, h, w) in [0, 1], on a grid over the padded canvas; empty ones are left out.
        unlabelled: (H, W) bool on the canvas.
    """
    shares = F.adaptive_avg_pool2d(unlabelled[None].float(), regions.shape[-2:])
    areas = regions.flatten(1).sum(1)
    chosen = regions[(regions * shares).flatten(1).sum(1) > areas / 2]
    masks = F.interpolate(chosen[:, None], unlabelled.shape, mode="bilinear")[:, 0] > 0.5
    masks &= unlabelled
    masks = masks[masks.flatten(1).any(1)]
    return MaskTarget(torch.full((len(masks),), UNNAMED, device=masks.device), masks)
