"""True sentences about images of which it is known what they show, for training a small CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from san_cliptrase.clip.templates import load_templates

Batch = tuple[Tensor, list[str], Tensor]
"""Images, B captions, and (B, B) bool: [i, j], caption j is true of image i. The images are (B, 3, H, W), or
(B, V, 3, H, W) with V views of each, with values from 0 to 255."""


def caption(
    rng: np.random.Generator, names: Sequence[str], weights: Mapping[str, float] | None = None
) -> tuple[str, frozenset[str]]:
    """A true sentence about an image that shows ``names``: mostly about one of them, else about more or all.

    Args:
        rng: decides everything.
        names: what the image shows.
        weights: name -> how much sooner than others it is told; None: all alike.
    """
    count = 1 if rng.random() < 0.6 else int(rng.integers(1, len(names) + 1))
    if weights is None:
        order = rng.permutation(len(names))
    else:
        shares = np.array([weights[name] for name in names])
        order = rng.choice(len(names), len(names), replace=False, p=shares / shares.sum())
    told = [names[i] for i in order[:count]]
    phrase = told[0] if count == 1 else ", ".join(told[:-1]) + " and " + told[-1]
    pool = load_templates(("imagenet", "vild", "none")[rng.integers(3)])
    return pool[rng.integers(len(pool))].replace("{}", phrase), frozenset(told)


def caption_batch(
    rng: np.random.Generator,
    images: Tensor,
    names: Sequence[Sequence[str]],
    weights: Mapping[str, float] | None = None,
) -> Batch:
    """Draws a caption for each picture.

    Args:
        rng: decides the captions.
        images: see :data:`Batch`.
        names: for each image, what it shows.
        weights: see :func:`caption`.
    """
    captions = [caption(rng, shown, weights) for shown in names]
    words = sorted({name for shown in names for name in shown})
    shows, tells = (
        np.array([[word in group for word in words] for group in groups], np.float32)
        for groups in (names, [told for _, told in captions])
    )
    truth = torch.from_numpy((1 - shows) @ tells.T == 0)  # nothing is told that is not shown
    return images, [sentence for sentence, _ in captions], truth
