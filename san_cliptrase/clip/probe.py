"""Weights that are finite and of no use: what they give does not depend on what they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.text_tower import encode_tokens
from san_cliptrase.errors import WeightsError

if TYPE_CHECKING:
    from san_cliptrase.clip.build import FrozenClip

ONE_CLASS = "They are finite, but every pixel would be of one class: is something zero, as the last norm or projection?"
"""The end of a message about such weights."""
ROUNDING = 1e-5
"""Relative differences up to here are those of float32's rounding."""
_WORDS = ("a dog", "a cat")  # as many tokens each, so that nothing else tells them apart
_PATCHES = 2


def differ(values: Tensor) -> bool:
    """Whether the entries along the first dimension are not all one value; NaN, which is told elsewhere, differs."""
    values = values.float()
    return not bool((values - values[:1]).abs().max() <= ROUNDING * values.abs().max())


def all_alike(values: Tensor, valid: Tensor) -> Tensor:
    """Whether all valid patches (B, L, C) of an image are one value, (B,) bool; its first patch is always valid."""
    values = values.float().where(valid[..., None], values[:, :1].float())
    spread = (values - values[:, :1]).abs().amax((1, 2))
    return spread <= ROUNDING * values.abs().amax((1, 2))


def noise(count: int, side: int) -> Tensor:
    """Images (count, 3, side, side) uint8 of which no two are alike, the same at every call."""
    generator = torch.Generator().manual_seed(0)  # the draws of the run stay as they are
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def useless_clip(clip: FrozenClip) -> list[str]:
    """Why a CLIP gives one class everywhere, whatever it is asked; nothing where it does not.

    Two images of noise, a few patches large, and two words are encoded. Where images that have nothing in common get
    features of one direction, or different words one embedding, no class can be told from another. A trained CLIP is
    far from it, and one of random weights too; images of the user's have no say.
    """
    visual, scale, device = clip.visual, clip.logit_scale, clip.logit_scale.device
    images = clip.normalize(noise(2, _PATCHES * max(visual.patch_size)).to(device).float() / 255)
    seen = F.normalize(visual.head(visual(images, (visual.depth,)).tokens[visual.depth]), dim=-1)
    read = encode_tokens(clip.text.model, clip.text.tokenizer(list(_WORDS)).to(device))
    found = {
        "the feature of [CLS] is the same for every image": seen[:, 0],
        "the features of patches are the same for every image": seen[:, 1:],
        "the text embedding is the same for every word": F.normalize(read.float(), dim=-1),
        f"the scale of the logits is {scale.item():g}": torch.stack([torch.zeros_like(scale), scale]),
    }
    return [what for what, values in found.items() if not differ(values)]


def refuse_useless_clip(clip: FrozenClip, source: str) -> None:
    """Refuse a CLIP of which :func:`useless_clip` finds something.

    Raises:
        WeightsError: It does.
    """
    if wrong := useless_clip(clip):
        raise WeightsError(f"the weights {source!r} cannot be used: {'; '.join(wrong)}. {ONE_CLASS}")
