"""True sentences about images of which it is known what they show, for training a small CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from san_cliptrase.clip.templates import load_templates

Batch = tuple[Tensor, list[str], Tensor]
"""(B, 3, H, W) uint8 images, B captions, and (B, B) bool: [i, j], caption j is true of image i."""


def caption(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, frozenset[str]]:
    """A true sentence about an image that shows ``names``: mostly about one of them, else about more or all."""
    count = 1 if rng.random() < 0.6 else int(rng.integers(1, len(names) + 1))
    told = [names[i] for i in rng.permutation(len(names))[:count]]
    phrase = told[0] if count == 1 else ", ".join(told[:-1]) + " and " + told[-1]
    pool = load_templates(("imagenet", "vild", "none")[rng.integers(3)])
    return pool[rng.integers(len(pool))].replace("{}", phrase), frozenset(told)


def caption_batch(rng: np.random.Generator, images: Tensor, names: Sequence[Sequence[str]]) -> Batch:
    """Draws a caption for each picture.

    Args:
        rng: decides the captions.
        images: (B, 3, H, W) uint8.
        names: for each image, what it shows.
    """
    captions = [caption(rng, shown) for shown in names]
    truth = torch.tensor([[told <= set(shown) for _, told in captions] for shown in names])
    return images, [sentence for sentence, _ in captions], truth
