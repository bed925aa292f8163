"""Which image towers this package can run: told from the configuration, and again from what was built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from san_cliptrase.errors import OptionError

_NEEDED = (
    "a ViT of open_clip with a [CLS] token is needed (such as ViT-B-16), not a ResNet, a timm or a Hugging Face tower"
)
_ATTENTION_POOL = "it pools by attention, not from its [CLS] token"
_NO_CLS = "its image feature is not its [CLS] token"

# Each of these has open_clip build its own attention in place of torch's.
_CUSTOM_ATTENTION = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def reject_unsupported_config(config: Mapping[str, Any]) -> None:
    """What :func:`reject_unsupported` does, before anything is fetched or built.

    Args:
        config: A model configuration of open_clip.

    Raises:
        OptionError: Its image tower is no [CLS] ViT of open_clip's standard blocks.
    """
    vision = config["vision_cfg"]
    if timm := vision.get("timm_model_name"):
        raise _unsupported(f"TimmModel ({timm})", _NEEDED)
    if isinstance(vision.get("layers"), (list, tuple)):
        raise _unsupported("ModifiedResNet", _NEEDED)
    if vision.get("attentional_pool"):
        raise _unsupported("VisionTransformer", _ATTENTION_POOL)
    if vision.get("pool_type", "tok") != "tok":
        raise _unsupported("VisionTransformer", _NO_CLS)
    kind = vision.get("block_type")
    if kind == "custom" or (kind is None and any(vision.get(option) for option in _CUSTOM_ATTENTION)):
        raise _unsupported("VisionTransformer", "its blocks do not attend with standard multi-head attention")


def reject_unsupported(vision: nn.Module) -> None:
    """Raise a ``OptionError`` that says what is missing if a tower is no [CLS] ViT of open_clip's standard blocks."""
    name = type(vision).__name__
    if not all(hasattr(vision, part) for part in ("conv1", "class_embedding", "transformer", "ln_post", "proj")):
        raise _unsupported(name, _NEEDED)
    if getattr(vision, "attn_pool", None) is not None:
        raise _unsupported(name, _ATTENTION_POOL)
    if getattr(vision, "pool_type", "tok") != "tok" or getattr(vision, "global_average_pool", False):
        raise _unsupported(name, _NO_CLS)
    for index, block in enumerate(vision.transformer.resblocks):
        standard = isinstance(block.attn, nn.MultiheadAttention)
        if not standard:
            found = type(block.attn).__name__
            raise _unsupported(name, f"block {index} attends with {found}, not with standard multi-head attention")


def _unsupported(tower: str, reason: str) -> OptionError:
    return OptionError(f"image tower {tower} is not supported: {reason}")
