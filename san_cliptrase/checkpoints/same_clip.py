"""Whether a checkpoint belongs to the CLIP of the configuration: a frozen CLIP is the same in both."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from san_cliptrase.checkpoints.official_keys import count_blocks
from san_cliptrase.clip.build import FrozenClip

logger = logging.getLogger(__name__)

# ||a - b|| / ||b||: rounding to half precision stays below it, another training is far above.
SAME_WEIGHTS = 0.01
_VISION = "clip.visual.vision"
# SAN as published trains it.
_TRAINED = f"{_VISION}.positional_embedding"
_OUR_BLOCK = re.compile(rf"{re.escape(_VISION)}\.transformer\.resblocks\.(\d+)\.")


class ClipSize(NamedTuple):
    """What tells the image towers of published CLIPs apart."""

    blocks: int
    width: int
    patch: int
    positions: int

    def __str__(self) -> str:
        return f"{self.blocks} blocks of width {self.width}, patches of {self.patch} pixels, {self.positions} positions"


def official_clip_size(state: Mapping[str, Tensor]) -> ClipSize | None:
    """Size of the image tower in an official state; None if it has none."""
    return _size(state, "clip_visual_extractor", sum(count_blocks(state)))


def our_clip_size(state: Mapping[str, Tensor]) -> ClipSize | None:
    """Size of the image tower in a state of ours; None if it has none."""
    numbers = [int(found[1]) for key in state if (found := _OUR_BLOCK.match(key))]
    return _size(state, _VISION, 1 + max(numbers, default=-1))


def _size(state: Mapping[str, Tensor], tower: str, blocks: int) -> ClipSize | None:
    patches, positions = (state.get(f"{tower}.{name}") for name in ("conv1.weight", "positional_embedding"))
    if patches is None or positions is None or (patches.ndim, positions.ndim) != (4, 2):
        return None
    return ClipSize(blocks, patches.shape[0], patches.shape[3], positions.shape[0])


def compare_sizes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What to say of two states of ours whose CLIPs differ in size; "" if they do not."""
    found, wanted = our_clip_size(state), our_clip_size(own)
    if found is None or wanted is None or found == wanted:
        return ""
    return f"its CLIP has {found}, the configured one {wanted}; "


def check_official_clip(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Checks that an official state can be of the model's CLIP, by sizes and by the blocks that recognise.

    Blocks that the file holds twice count once (see ``from_official``).

    Raises:
        ValueError: the file is of a SAN on another CLIP, or was trained with another recognition head.
    """
    found, own = official_clip_size(state), our_clip_size(model.state_dict())
    if found is None or own is None:
        return  # the names will not fit either, and are reported
    if found[1:] != own[1:] or found.blocks < own.blocks:
        raise ValueError(
            f"it is of a SAN on another CLIP: an image tower with {found}; {model.clip.name or 'the configured one'} "
            f"has {own}. SAN's releases belong to configs/san_vit_b16.yaml and configs/san_vit_l14_336.yaml"
        )
    recognising = count_blocks(state)[1]
    if recognising != model.recognition_blocks:
        raise ValueError(
            f"its recognition head has {recognising} blocks of CLIP, this model's {model.recognition_blocks}: set "
            f"MODEL.SAN.RECOGNITION_LAYER -{recognising}, and MODEL.SAN.SIDE.FUSION as it was trained"
        )


def check_frozen_clip(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Checks that the frozen CLIP in a state of ours is the one that the model was built with.

    Parameters that are trained, and the positional embedding, which SAN trains, may differ. A model that was built with
    random weights takes any CLIP.

    Args:
        state: keys and shapes are the model's.
        model: as it was built.

    Raises:
        ValueError: its CLIP is another one.
    """
    clip = getattr(model, "clip", None)
    if not isinstance(clip, FrozenClip) or not clip.pretrained:
        return
    trained = {f"{_VISION}.{name}" for name, p in clip.visual.vision.named_parameters() if p.requires_grad}
    own = {f"clip.{key}": value for key, value in clip.state_dict().items()}
    compared = sorted(own.keys() - trained - {_TRAINED})
    far = [key for key in compared if not _distance(state[key], own[key]) <= SAME_WEIGHTS]  # NaN is far too
    if far:
        raise ValueError(
            f"it is of a model on another CLIP: {len(far)} of {len(compared)} frozen parameters of CLIP differ from "
            f"those of {clip.name} with weights {clip.pretrained} ({', '.join(far[:3])}{', ...' if far[3:] else ''}). "
            "Name its own CLIP in MODEL.CLIP.NAME and MODEL.CLIP.PRETRAINED, and what was trained of it in "
            "MODEL.CLIP.TRAINABLE"
        )


def warn_of_activation(model: nn.Module) -> None:
    """Says what cannot be checked where the CLIP of an official file is put into a model with random weights."""
    clip = model.clip
    if clip.pretrained:
        return
    logger.warning("the CLIP in the checkpoint is taken unchecked: MODEL.CLIP.PRETRAINED is empty")
    if not clip.quick_gelu:
        logger.warning(
            "SAN's releases are built on OpenAI's CLIP, which needs QuickGELU, and %s has GELU: results will be wrong "
            "unless yours was trained so. Set MODEL.CLIP.NAME %s-quickgelu",
            clip.name,
            clip.name,
        )


def _distance(a: Tensor, b: Tensor) -> float:
    a, b = a.to(b.device, torch.float32), b.float()
    return ((a - b).norm() / b.norm().clamp(min=1e-6)).item()
