"""CLIPer: the attention of all earlier blocks, fused, in place of the last block's; classes are scored at every block.

After Sun et al., "CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic
Segmentation" (2024), without diffusion, as its published code computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.blocks import project_kv, project_output, project_qkv
from san_cliptrase.clip.depth import check_depth
from san_cliptrase.clip.layers import LayerReading
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.structures import ClipFeatures

SCALE = 100.0
"""Of cosines in the softmax over the words."""
CUT = 0.2
"""Scores below this share of the class's largest one in the image are not spread."""
FEWEST_BLOCKS = 2
VALUES_AT_ONCE = 2**26
"""Entries of attention maps that are in memory at a time, heads one after the other if need be."""


@dataclass(frozen=True)
class Cliper(LayerReading):
    """CLIPer's fused attention.

    Level j of n reads the last block with the fused attention ``B_j`` and the values of what enters block j; its tokens
    are ``W_o B_j v(u_j)``, without residual and MLP. :meth:`tokens` are those of the last level.
    """

    def taps(self, visual: ClipVisualEncoder) -> tuple[int, ...]:
        """See ``LayerReading``."""
        check_depth("cliper", FEWEST_BLOCKS, visual.depth)
        return tuple(range(visual.depth))

    def tokens(self, visual: ClipVisualEncoder, features: ClipFeatures) -> Tensor:
        """See ``LayerReading``."""
        return self.levels(visual, features)[0][-1]

    def levels(self, visual: ClipVisualEncoder, features: ClipFeatures) -> tuple[list[Tensor], Tensor]:
        """Tokens (B, T, C) of every level, and the last fused attention, its mean over heads, (B, T, T).

        Args:
            visual: The tower that made the features.
            features: With ``taps``, without padding.
        """
        *earlier, last = visual.blocks
        inputs = [features.tokens[tap] for tap in range(visual.depth)]
        projected = [project_qkv(block, x)[:2] for block, x in zip(earlier, inputs, strict=False)]
        # The code normalises the inputs of all levels but the last twice: by their own block, then by the last one.
        normalised = [block.ln_1(x) for block, x in zip(earlier, inputs, strict=False)] + [inputs[-1]]
        values = [project_kv(last, x)[1] for x in normalised]
        batch, heads, count, _ = values[0].shape
        mixed: list[list[Tensor]] = [[] for _ in values]
        mean = 0.0
        for part in torch.arange(heads).split(max(1, VALUES_AT_ONCE // (batch * count**2))):
            head = slice(int(part[0]), int(part[-1]) + 1)
            fused = attention_sum([(q[:, head], k[:, head]) for q, k in projected])
            for level, value in enumerate(values):
                fused, sharpened = fuse(fused)
                mixed[level].append(sharpened.to(value.dtype) @ value[:, head])
            mean = mean + sharpened.sum(1) / heads
        return [project_output(last, torch.cat(parts, dim=1)).to(inputs[-1].dtype) for parts in mixed], mean

    def scores(
        self, visual: ClipVisualEncoder, features: ClipFeatures, text_weights: Tensor, cls_prior: bool = False
    ) -> Tensor:
        """How well each word fits each patch, as CLIPer decides it.

        ``p_j = softmax over the words of 100 cos`` at every level j. The last one's entries below 0.2 of the word's
        maximum over the image become 0, also in the mean; the score is ``B_n p_n + mean_j p_j``, B_n transposed.

        Args:
            visual: The tower that made the features.
            features: With ``taps``, without padding.
            text_weights: (K, E), rows of length 1.
            cls_prior: Multiply by the cosines of [CLS], see ``cliptrase.voting.patch_logits``.

        Returns:
            (B, T, K); [CLS] has zeros.
        """
        levels, fused = self.levels(visual, features)
        text = text_weights.to(levels[0])
        logits = [F.normalize(visual.head(tokens), dim=-1) @ text.T for tokens in levels]
        shares = [(SCALE * own[:, 1:]).softmax(-1) for own in logits]
        last = shares[-1]
        shares[-1] = last.masked_fill(last < CUT * last.amax(1, keepdim=True), 0)
        found = fused[:, 1:, 1:].transpose(1, 2).to(last.dtype) @ shares[-1] + torch.stack(shares).mean(0)
        found = found * logits[-1][:, :1] if cls_prior else found
        return F.pad(found, (0, 0, 1, 0))


def attention_sum(projected: list[tuple[Tensor, Tensor]]) -> Tensor:
    """``F_0``: the sum of ``softmax(q k^T / sqrt(d))`` over blocks, for queries and keys of each: (B, M, T, T)."""
    total = 0.0
    for q, k in projected:
        total = total + (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
    return total


def fuse(attention: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the fusion, (B, M, T, T) to two of the same shape.

    Returns:
        What the next step begins with: columns, then rows divided by their sums. And the attention of this level,
        ``B``: that, symmetric, without each column's mean, negative values 0, rows divided by their sums.
    """
    attention = attention / attention.sum(-2, keepdim=True)
    attention = attention / attention.sum(-1, keepdim=True)
    symmetric = (attention + attention.transpose(-2, -1)) / 2
    above = (symmetric - symmetric.mean(-2, keepdim=True)).clamp(min=0)
    return attention, above / above.sum(-1, keepdim=True)
