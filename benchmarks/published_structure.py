"""SAN computed as it was published, from the same weights: what its structure costs, and that the outcome is equal.

In the published code (Xu et al., "Side Adapter Network", 2023) the extractor ends before the recognition head. The head
runs [SOS], [CLS] and all patches as one sequence through CLIP's last blocks under an attention mask, once for each
supervised block of the side adapter, in evaluation too; and the decoder makes the bias from a key per head and patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.blocks import run_block
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.meta_arch.san import SAN
from san_cliptrase.san.mask_decoder import MaskPrediction
from san_cliptrase.structures import ClipFeatures


def recognise_in_one_sequence(
    clip: ClipVisualEncoder, features: ClipFeatures, attn_bias: Tensor, num_blocks: int
) -> Tensor:
    """``san.recognition.recognise_masks`` (B, Q, E) for a bias of one set, all patches valid, by one long sequence."""
    first, count = clip.depth - num_blocks, attn_bias.shape[3]
    tokens = features.tokens[first]
    tokens = torch.cat([tokens[:, :1].expand(-1, count, -1), tokens], dim=1)
    pooled = F.adaptive_max_pool2d(attn_bias[:, 0].flatten(0, 1), features.grid).flatten(2)
    pooled = pooled.unflatten(0, (len(attn_bias), -1))
    mask = pooled.new_zeros(len(pooled), pooled.shape[1], tokens.shape[1], tokens.shape[1])
    mask[:, :, :, : count + 1] = -torch.inf  # nobody sees [SOS] or, but for the image's own tokens, [CLS]
    mask[:, :, count:, count] = 0
    mask[:, :, range(count), range(count)] = 0
    mask[:, :, :count, count + 1 :] = pooled
    for block in clip.blocks[first:]:
        tokens = run_block(block, tokens, bias=mask)
    return F.normalize(clip.head(tokens[:, :count]), dim=-1)


def use_published_structure(model: SAN) -> None:
    """Makes a SAN compute in the published structure from now on; weights and, but for rounding, outputs stay."""
    clip, blocks, decoder = model.clip.visual, model.recognition_blocks, model.network.decoder
    supervised = len(model.network.adapter.supervised)
    model.taps = tuple(sorted({*model.network.taps, clip.depth - blocks}))

    def classify(predictions: Sequence[MaskPrediction], features: ClipFeatures, text: Tensor) -> list[Tensor]:
        # In evaluation only the last block's prediction comes here: the head ran for the others, too.
        biases = [prediction.attn_bias for prediction in predictions] * (1 if model.training else supervised)
        embeddings = [recognise_in_one_sequence(clip, features, bias, blocks) for bias in biases]
        return [model.classifier(own, text, model.clip.logit_scale) for own in embeddings[-len(predictions) :]]

    def attn_products(query: Tensor, patches: Tensor) -> Tensor:
        keys = decoder.attn_mlp(patches).unflatten(-1, decoder._attn_shape)
        return torch.einsum("bqc,blsmc->bsmql", query, keys)

    model.classify, decoder._attn_products = classify, attn_products
    # Masks of all supervised blocks, in evaluation too.
    model.network.train = lambda mode=True: type(model.network).train(model.network, True)
    model.network.train()
