"""Which image towers this package can run."""

from __future__ import annotations

from torch import nn


def reject_unsupported(vision: nn.Module) -> None:
    """Raise a ``ValueError`` that says what is missing if a tower is no [CLS] ViT of open_clip's standard blocks."""
    name = type(vision).__name__
    if not all(hasattr(vision, part) for part in ("conv1", "class_embedding", "transformer", "ln_post", "proj")):
        raise ValueError(
            f"image tower {name} is not supported: a ViT of open_clip with a [CLS] token is needed (such as ViT-B-16), "
            "not a ResNet, a timm or a Hugging Face tower"
        )
    if getattr(vision, "attn_pool", None) is not None:
        raise ValueError(f"image tower {name} is not supported: it pools by attention, not from its [CLS] token")
    if getattr(vision, "pool_type", "tok") != "tok" or getattr(vision, "global_average_pool", False):
        raise ValueError(f"image tower {name} is not supported: its image feature is not its [CLS] token")
    for index, block in enumerate(vision.transformer.resblocks):
        standard = isinstance(block.attn, nn.MultiheadAttention)
        if not standard:
            raise ValueError(
                f"image tower {name} is not supported: block {index} attends with {type(block.attn).__name__}, "
                "not with standard multi-head attention"
            )
