"""Copies of [CLS] that each look at one mask: how CLIP's own last blocks embed a mask in the joint space.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, section 3.3, call them [SOS]
tokens. Patch tokens never see them, so the ones that CLIP's own pass left are shared and only the copies are computed
here. SAN learns the attention bias of its masks; CLIPtrase's regions hide the patches outside (supplement, A.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.attention import AttentionRule
from san_cliptrase.clip.blocks import project_kv, run_block
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.structures import ClipFeatures


def sos_attention(keys: Tensor, values: Tensor) -> AttentionRule:
    """Attention rule of [SOS] tokens: each sees itself and all patches, no other [SOS] and no [CLS].

    ``softmax([q . k_self / sqrt(d), q K^T / sqrt(d) + bias]) [v_self; V]``

    Args:
        keys: K (B, M, L, d), the patches' keys in the same block.
        values: V (B, M, L, d), their values.

    Returns:
        A rule for [SOS] tokens (B, M, Q, d) whose bias is broadcastable to (B, M, Q, L).
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        scale = q.shape[-1] ** -0.5
        to_self = (q * k).sum(-1, keepdim=True) * scale
        to_patches = (q * scale) @ keys.transpose(-2, -1)
        if bias is not None:
            to_patches = to_patches + bias
        weights = torch.cat([to_self, to_patches], dim=-1).softmax(dim=-1).to(v.dtype)
        return weights[..., :1] * v + weights[..., 1:] @ values

    return attend


def recognition_taps(clip: ClipVisualEncoder, num_blocks: int) -> tuple[int, ...]:
    """The CLIP taps that recognition by the last ``num_blocks`` blocks needs.

    Raises:
        OptionError: CLIP has fewer blocks.
    """
    if not 1 <= num_blocks <= clip.depth:
        raise OptionError(f"recognition by the last {num_blocks} blocks is impossible: CLIP has {clip.depth} blocks")
    return tuple(range(clip.depth - num_blocks, clip.depth))


def last_cls(clip: ClipVisualEncoder, features: ClipFeatures) -> Tensor:
    """[CLS] as it leaves the last block, (B, 1, C): it alone passes that block, whose patches nobody asks for.

    Args:
        clip: The frozen image tower that made the features.
        features: With the tap of the last block.
    """
    entering, block, bias = features.tokens[clip.depth - 1], clip.blocks[-1], clip.key_bias(features.valid)
    attend = sos_attention(*project_kv(block, entering[:, 1:]))
    return run_block(block, entering[:, :1], attend, None if bias is None else bias[..., 1:])


def recognise(clip: ClipVisualEncoder, features: ClipFeatures, biases: Sequence[Tensor]) -> Tensor:
    """Embed each mask of a batch by a copy of [CLS] that passes CLIP's last blocks under the mask's attention bias.

    Args:
        clip: The frozen image tower that made the features.
        features: Its tokens, with the taps that ``recognition_taps`` names.
        biases: One a block: (B, M or 1, Q, L), added to the attention logits of patches; -inf hides a patch, and must
            hide those of padding.

    Returns:
        (B, Q, E), rows of length 1.
    """
    taps = recognition_taps(clip, len(biases))
    tokens = features.tokens[taps[0]][:, :1].expand(-1, biases[0].shape[2], -1)
    for tap, bias in zip(taps, biases, strict=True):
        block = clip.blocks[tap]
        tokens = run_block(block, tokens, sos_attention(*project_kv(block, features.tokens[tap][:, 1:])), bias)
    return F.normalize(clip.head(tokens), dim=-1)
