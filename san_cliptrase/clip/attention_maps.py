"""What the tokens of a block look at, as CLIP was trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.structures import ClipFeatures


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """What every token looks at: ``A = 1 / M sum_heads softmax(q k^T / sqrt(d) + bias)``.

    Args:
        q: (B, M, T, d), and ``k`` likewise; see ``clip.blocks.project_qkv``.
        bias: Broadcastable to (B, M, T, T), see ``ClipVisualEncoder.key_bias``.

    Returns:
        (B, T, T), rows add up to 1.
    """
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (logits if bias is None else logits + bias).softmax(dim=-1).mean(dim=1)


@torch.no_grad()
def block_attention(visual: ClipVisualEncoder, features: ClipFeatures, index: int) -> Tensor:
    """:func:`attention_weights` of one block as it was trained, (B, T, T); ``features`` hold what enters it."""
    q, k, _ = project_qkv(visual.blocks[index], features.tokens[index])
    return attention_weights(q, k, visual.key_bias(features.valid))
