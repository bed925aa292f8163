"""Checkpoints of the official SAN, under the names of this package.

The official code (github.com/MendelXu/SAN) splits CLIP in three: ``clip_visual_extractor`` holds the first blocks,
``clip_rec_head`` the last ones with what follows, ``ov_classifier`` the text tower and the learned background. Here
they become one ``FrozenClip`` at ``clip``, one ``MaskClassifier`` at ``classifier`` and, with the side adapter, one
``SideAdapterNetwork`` at ``network``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

POS_EMBED = "network.adapter.pos_embed"

# Recomputed at construction, so not part of a model.
_BUFFERS = frozenset({"criterion.empty_weight", "ov_classifier.attn_mask"})

_SIDE, _CLIP = "side_adapter_network", "clip_visual_extractor"
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"{_SIDE}\.(query_embed|query_pos_embed)", r"network.adapter.\1"),
        (rf"{_SIDE}\.vit_model\.patch_embed\.proj\.(.+)", r"network.adapter.patch_embed.\1"),
        (rf"{_SIDE}\.vit_model\.(pos_embed|blocks\..+)", r"network.adapter.\1"),
        (rf"{_SIDE}\.fusion_layers\.layer_(\d+)\.input_proj\.0\.(.+)", r"network.adapter.fusion.\1.norm.\2"),
        (rf"{_SIDE}\.fusion_layers\.layer_(\d+)\.input_proj\.1\.(.+)", r"network.adapter.fusion.\1.proj.\2"),
        (rf"{_SIDE}\.mask_decoder\.(query|attn)_mlp\.layers\.(\d+)\.(.+)", r"network.decoder.\1_mlp.\2.\3"),
        (rf"{_SIDE}\.mask_decoder\.pix_mlp\.layers\.(\d+)\.(.+)", r"network.decoder.pixel_mlp.\1.\2"),
        (rf"{_SIDE}\.mask_decoder\.(bias_scaling\..+)", r"network.decoder.\1"),
        (rf"{_CLIP}\.(class_embedding|positional_embedding|conv1\..+|ln_pre\..+)", r"clip.visual.vision.\1"),
        (rf"{_CLIP}\.(resblocks\..+)", r"clip.visual.vision.transformer.\1"),
        (r"clip_rec_head\.(resblocks\..+)", r"clip.visual.vision.transformer.\1"),
        (r"clip_rec_head\.(proj|ln_post\..+)", r"clip.visual.vision.\1"),
        (r"ov_classifier\.bg_embed", r"classifier.background"),
        (r"ov_classifier\.(.+)", r"clip.text.model.\1"),
    )
)
_MLP_LAYER = re.compile(r"(network\.decoder\.\w+_mlp\.)(\d+)(\..+)")
_REC_BLOCK = re.compile(r"(clip_rec_head\.resblocks\.)(\d+)(\..+)")
_EXTRACTOR_BLOCK = re.compile(rf"{_CLIP}\.resblocks\.(\d+)\.")


def is_official(keys: Mapping[str, object]) -> bool:
    """Whether a model's state was saved by the official SAN."""
    return any(key.startswith(f"{_SIDE}.") for key in keys)


def rename(key: str, first_rec_block: int) -> str | None:
    """The name in this package of a parameter of the official SAN.

    Args:
        key: Official name.
        first_rec_block: Number of CLIP blocks in ``clip_visual_extractor``; block j of ``clip_rec_head`` follows them.

    Returns:
        Our name, or None for a buffer that is not stored here.

    Raises:
        ValueError: SAN has no parameter of that name.
    """
    if key in _BUFFERS:
        return None
    shifted = _REC_BLOCK.sub(lambda m: f"{m[1]}{int(m[2]) + first_rec_block}{m[3]}", key)
    for pattern, replacement in _RULES:
        if found := pattern.fullmatch(shifted):
            # Layer i of an MLP is entry 2i here: the activations between the layers count.
            return _MLP_LAYER.sub(lambda m: f"{m[1]}{2 * int(m[2])}{m[3]}", found.expand(replacement))
    raise ValueError(f"{key!r} is no parameter of the official SAN: this is a checkpoint of another model")


def from_official(state: Mapping[str, Tensor], side_grid: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Convert the state of an official SAN model.

    Its 1x1 convolutions are linear layers over tokens here, so their weights lose the last two dimensions.

    Args:
        state: Official name -> tensor (the entry "model" of a released file).
        side_grid: Patch grid that the side adapter's positional embedding is wanted at; None: as saved.

    Returns:
        Our name -> tensor, for a module with the parts ``clip``, ``network`` and ``classifier``.

    Raises:
        ValueError: A key does not belong to SAN, or the positional embedding is not square.
    """
    first = 1 + max((int(m[1]) for key in state if (m := _EXTRACTOR_BLOCK.match(key))), default=-1)
    converted = {}
    for key, tensor in state.items():
        if (name := rename(key, first)) is not None:
            converted[name] = tensor.flatten(1) if tensor.shape[2:] == (1, 1) else tensor
    if side_grid is not None and POS_EMBED in converted:
        converted[POS_EMBED] = resize_pos_embed(converted[POS_EMBED], side_grid)
    return converted


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a positional embedding saved for a square grid, bicubically: (1, n*n, C) -> (1, h*w, C).

    Raises:
        ValueError: The saved grid is not square.
    """
    side = round(pos_embed.shape[1] ** 0.5)
    if side * side != pos_embed.shape[1]:
        raise ValueError(f"a positional embedding of {pos_embed.shape[1]} patches is for no square grid")
    if (side, side) == grid:
        return pos_embed
    maps = pos_embed.transpose(1, 2).unflatten(2, (side, side))
    maps = F.interpolate(maps.float(), size=grid, mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(pos_embed.dtype)
