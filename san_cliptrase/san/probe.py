"""Weights of a SAN that are finite and of no use."""

from __future__ import annotations

import torch

from san_cliptrase.clip.batches import canvas_for_clip, image_batch
from san_cliptrase.clip.probe import differ, noise
from san_cliptrase.san.model import SanModel

_PATCHES = 4


@torch.no_grad()
def useless_san(model: SanModel) -> list[str]:
    """Why a SAN gives one class everywhere, whatever the image; nothing where it does not.

    An image of noise, a few patches large, is segmented without regions. Where every mask has one value at all pixels,
    or all queries one attention bias, all pixels are of one class. Where regions bring a prior, masks come from it too,
    and nothing is certain. A learned background of length 0 has no direction, and is never found.
    """
    visual, adapter = model.clip.visual, model.network.adapter
    wrong = [] if model.classifier.background.any() else ["the embedding of the learned background is 0"]
    if model.network.query_init.prior is not None:
        return wrong
    batch = image_batch(noise(1, _PATCHES * adapter.patch_size), model.clip)
    canvas = canvas_for_clip(batch.tensor, model.resolution, visual.patch_size)
    features = visual(canvas, model.taps)  # not the cache, which is for images of the user's
    found = model.network(batch.tensor, features)[-1]
    if not differ(found.mask_logits[0].flatten(1).T):
        wrong.append("every mask has the same value at all pixels")
    biases = found.attn_bias[0].movedim(2, 0)
    if len(biases) > 1 and not differ(biases):
        wrong.append("all queries have the same attention bias, and so the same class")
    return wrong
