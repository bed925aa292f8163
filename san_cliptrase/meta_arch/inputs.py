"""What both meta-architectures read from detectron2's dicts in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor

from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.cliptrase.segmenter import Cliptrase
from san_cliptrase.san.network import resize_for_clip


def clip_from_config(cfg: Any) -> FrozenClip:
    """The CLIP that MODEL.CLIP names."""
    clip = cfg.MODEL.CLIP
    return build_clip(clip.NAME, clip.PRETRAINED, clip.INTERPOLATE_OFFSET, clip.TRAINABLE, clip.SYNONYMS)


def cliptrase_from_config(cfg: Any, clip: FrozenClip) -> Cliptrase:
    """CLIPtrase on that CLIP with the settings of MODEL.CLIPTRASE."""
    node = cfg.MODEL.CLIPTRASE
    automatic = node.EPS == 0
    return Cliptrase(
        clip.visual,
        eps=None if automatic else node.EPS,
        min_samples=None if automatic else node.MIN_SAMPLES,
        attention=node.ATTENTION,
        vote=node.VOTE,
        cls_prior=node.CLS_PRIOR,
    )


def image_batch(
    inputs: Sequence[dict], clip: FrozenClip, device: torch.device, divisibility: int = 0, scale: float = 1.0
) -> ImageList:
    """Normalised images of a batch, each resized by ``scale``, padded at the bottom and the right to a common size."""
    images = [clip.normalize(entry["image"].to(device).float() / 255) for entry in inputs]
    return ImageList.from_tensors([resize_for_clip(image[None], scale)[0] for image in images], divisibility)


def batch_vocabulary(inputs: Sequence[dict]) -> tuple[str, ...]:
    """The class names that all dicts of a batch carry.

    Raises:
        ValueError: if they carry none, or different ones.
    """
    found = {tuple(entry.get("vocabulary", ())) for entry in inputs}
    if len(found) != 1 or not next(iter(found)):
        raise ValueError(
            f"every input needs the same non-empty 'vocabulary'; this batch of {len(inputs)} has {len(found)} different"
        )
    return next(iter(found))


def one_hot_scores(labels: Tensor, num_classes: int) -> Tensor:
    """(K, H, W) scores of a label map (H, W), as detectron2's evaluators expect them."""
    scores = torch.zeros(num_classes, *labels.shape, device=labels.device)
    return scores.scatter_(0, labels[None], 1.0)
