"""What a set of predicted masks is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class MaskTarget(NamedTuple):
    """Ground truth of one image: a mask for every class that it shows.

    Attributes:
        labels: (N,) int64 in [0, K); N may be 0.
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
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f"target {image}: labels {labels.unique().tolist()} must lie in 0..{num_classes - 1}")
        canvases.add(tuple(masks.shape[1:]))
    if len(canvases) > 1:
        raise ValueError(f"target masks of one batch must share the padded canvas, got {sorted(canvases)}")
