"""Blocks that a published method names by number, on towers of another depth."""

from __future__ import annotations

from san_cliptrase.errors import OptionError

PUBLISHED_DEPTH = 12
"""Blocks of ViT-B/16, on which the methods were published."""


def same_share(block: int, depth: int) -> int:
    """The block at the same share of a tower's depth as a block of ViT-B/16.

    ``1 + floor((block - 1) depth / 12)``, but a block before the last. That is the block itself on 12 blocks, and on
    the 24 of ViT-L/14 it gives SC-CLIP's authors' own numbers for two of their three roles (17 for 9, 7 for 4).

    Args:
        block: Counted from 1, as in papers: x^block is what leaves it, and enters ``blocks[block]``.
        depth: Blocks of the tower.

    Returns:
        Counted from 1.
    """
    return min(1 + (block - 1) * depth // PUBLISHED_DEPTH, depth - 1)


def check_depth(method: str, needed: int, depth: int) -> None:
    """Refuse a tower with too few blocks for a method.

    Raises:
        OptionError: Says how many blocks are needed.
    """
    if depth < needed:
        raise OptionError(
            f"the attention rule {method!r} reads several blocks and needs a tower of {needed} or more, but this one "
            f"has {depth}: choose a rule of the last block, as clearclip or naclip"
        )
