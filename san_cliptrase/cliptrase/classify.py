"""How the class of a region is found from a frozen CLIP, by name (CLIPtrase's supplement, A.3); nothing is trained.

What happens here depends on the partition of the pixels only, wherever it comes from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.choices import CLASSIFY
from san_cliptrase.clip.recognition import recognise
from san_cliptrase.clip.visual import ClipVisualEncoder, resolve_layer
from san_cliptrase.errors import OptionError
from san_cliptrase.regions.pooling import mask_average_pool
from san_cliptrase.structures import ClipFeatures, Regions

EMBEDDED = ("pooled", "cls")
"""Those that embed each region in the joint space."""


def classify_parts(text: str) -> tuple[str, ...]:
    """The ways whose scores are averaged: ``cls+patches`` has two.

    Raises:
        OptionError: A part is not a key of ``choices.CLASSIFY``, is repeated, or is a vote beside others, whose shares
            cannot be added to cosines.
    """
    parts = tuple(text.split("+"))
    for name in parts:
        if name not in CLASSIFY:
            raise OptionError(
                f"unknown way to classify regions {name!r}; choose one of: {', '.join(CLASSIFY)}, or the mean of "
                "several, as cls+patches"
            )
    if len({*parts}) < len(parts):
        raise OptionError(f"{text!r} classifies regions twice in the same way")
    if "vote" in parts and len(parts) > 1:
        raise OptionError(f"{text!r} adds shares of a vote to cosines: a vote stands alone")
    return parts


def classification_blocks(visual: ClipVisualEncoder, classify: str, cls_layer: int) -> int:
    """How many of CLIP's last blocks the [CLS] token of a region passes; 0 where there is none.

    Args:
        classify: See :func:`classify_parts`.
        cls_layer: The first of those blocks, see ``resolve_layer``.

    Raises:
        OptionError: There is no such way to classify, or CLIP has no such blocks.
    """
    if "cls" not in classify_parts(classify):
        return 0
    if not -visual.depth <= cls_layer < visual.depth:
        raise OptionError(
            f"a region's [CLS] token cannot begin at block {cls_layer} (MODEL.CLIPTRASE.CLS_LAYER, predict: "
            f"--cls-layer): this tower has {visual.depth} blocks; choose -{visual.depth} to -1"
        )
    return visual.depth - resolve_layer(cls_layer, visual.depth)


def mean_logits(logits: Tensor, regions: Tensor) -> Tensor:
    """The mean of the logits of each region's pixels.

    Args:
        logits: (K, H, W).
        regions: (H, W) int64 >= 0.

    Returns:
        (K, N), zero for a region without a pixel.
    """
    numbers = regions.flatten()
    areas = numbers.bincount()
    sums = torch.zeros(len(logits), len(areas), device=logits.device)
    # Not a product with one-hot rows: masks of SAM are many, pixels times masks do not fit into memory.
    sums.scatter_add_(1, numbers.expand(len(logits), -1), logits.flatten(1).float())
    return sums / areas.clamp(min=1)


def embed_regions(
    visual: ClipVisualEncoder, features: ClipFeatures, dense: Tensor, masks: Tensor, num_blocks: int
) -> Tensor:
    """Regions in CLIP's joint space.

    ``pooled``: ``normalize(mean of x_l over the mask)``. ``cls``: a copy of [CLS] per region passes the last blocks as
    they were trained, but sees only itself and the patches of its mask: the attention bias is 0 there, -inf elsewhere.

    Args:
        visual: The frozen image tower that made the features.
        features: Its tokens; for ``cls`` with the taps of those blocks.
        dense: (B, T, E), see ``TrainingFreeReader.dense``.
        masks: (B, N, L) bool, see ``regions.pixels.patch_masks``; False at padded patches and for absent regions.
        num_blocks: See ``classification_blocks``; 0: ``pooled``.

    Returns:
        (B, N, E), rows of length 1; nothing of meaning for absent regions.
    """
    if num_blocks:
        bias = torch.zeros_like(masks, dtype=torch.float32).masked_fill(~masks, -torch.inf)
        return recognise(visual, features, [bias[:, None]] * num_blocks)
    regions = Regions(masks=masks.unflatten(2, features.grid).to(dense), valid=masks.any(2))
    return F.normalize(mask_average_pool(dense[:, 1:].transpose(1, 2).unflatten(2, features.grid), regions), dim=-1)
