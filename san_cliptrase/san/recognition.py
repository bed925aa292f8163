"""Recognition of the predicted masks by CLIP's own last blocks.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, section 3.3. A [SOS] token per
query starts as a copy of [CLS] and attends to the patches with the query's attention bias (``clip/recognition.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from san_cliptrase.clip.recognition import recognise
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.structures import ClipFeatures, Size


def recognise_masks(clip: ClipVisualEncoder, features: ClipFeatures, attn_bias: Tensor, num_blocks: int = 3) -> Tensor:
    """Embed each predicted mask in CLIP's joint space.

    Args:
        clip: The frozen image tower that made the features.
        features: Its tokens, with the taps that ``recognition_taps`` names. Patches that are not valid are not seen.
        attn_bias: (B, S, M, Q, h', w'), see ``MaskPrediction``. Max-pooled to CLIP's grid.
        num_blocks: How many of CLIP's last blocks the [SOS] tokens pass.

    Returns:
        (B, Q, E), rows of length 1.

    Raises:
        OptionError: The sets or heads of the bias fit neither 1 nor CLIP.
    """
    return recognise(clip, features, _biases_per_block(attn_bias, features, clip.heads, num_blocks))


def _biases_per_block(attn_bias: Tensor, features: ClipFeatures, heads: int, num_blocks: int) -> list[Tensor]:
    """Bring the bias to CLIP's grid, hide padded patches, and give every block its set: (B, M, Q, L) each."""
    sets, bias_heads = attn_bias.shape[1:3]
    if sets not in (1, num_blocks) or bias_heads not in (1, heads):
        raise OptionError(
            f"attn_bias has {sets} sets and {bias_heads} heads; CLIP recognises with {num_blocks} blocks of {heads} "
            f"heads, so 1 or {num_blocks} sets and 1 or {heads} heads are needed"
        )
    pooled = _max_pooled(attn_bias.flatten(0, 2), features.grid)
    pooled = pooled.flatten(2).unflatten(0, attn_bias.shape[:3])
    pooled = pooled.masked_fill(~features.valid[:, None, None, None], -torch.inf)
    per_set = list(pooled.unbind(1))
    return per_set * num_blocks if sets == 1 else per_set


def _max_pooled(maps: Tensor, grid: Size) -> Tensor:
    """``adaptive_max_pool2d`` of maps (..., H, W), which ONNX has not: there, the maximum of gathered windows."""
    if not torch.compiler.is_compiling():
        return F.adaptive_max_pool2d(maps, grid)
    for dim, wanted in zip((-2, -1), grid, strict=True):
        size, place = maps.shape[dim], torch.arange(wanted, device=maps.device)
        first, last = place * size // wanted, ((place + 1) * size + wanted - 1) // wanted - 1
        steps = torch.arange((size + wanted - 1) // wanted + 1, device=maps.device)  # of the widest window
        windows = torch.minimum(first[:, None] + steps, last[:, None])
        gathered = maps.movedim(dim, -1)[..., windows].amax(-1)
        maps = gathered.movedim(-1, dim)
    return maps


class MaskClassifier(nn.Module):
    """Logits of mask embeddings against a vocabulary and a learned background.

    ``logits = s e . [text; b/|b|]``

    Args:
        embed_dim: E.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.randn(1, embed_dim) * embed_dim**-0.5)

    def weights(self, text_weights: Tensor) -> Tensor:
        """Append the background, normalised, to text embeddings: (K, E) -> (K+1, E)."""
        background = F.normalize(self.background, dim=-1).to(text_weights.dtype)
        return torch.cat([text_weights, background])

    def forward(self, mask_embs: Tensor, text_weights: Tensor, logit_scale: Tensor | float) -> Tensor:
        """Classify mask embeddings.

        Args:
            mask_embs: (B, Q, E), L2-normalised.
            text_weights: (K, E), L2-normalised.
            logit_scale: s, already exponentiated (100 for the released CLIPs).

        Returns:
            (B, Q, K+1) logits, the background last.
        """
        return logit_scale * mask_embs @ self.weights(text_weights).T
