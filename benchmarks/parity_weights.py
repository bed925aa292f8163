"""What the parity checks share: weights drawn by a recipe instead of shipped, and the rows of their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One line of the parity table.

    Attributes:
        name: The quantity.
        deviation: The largest deviation found; what it is relative to is part of the name.
        tolerance: The largest deviation allowed.
    """

    name: str
    deviation: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the deviation is a number within the tolerance."""
        return self.deviation <= self.tolerance


def draw_weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Draw the weights that the fixtures were made with.

    Standard normal numbers for every key in sorted order, scaled so that activations stay finite and distinct.

    Args:
        shapes: State dict key -> shape, without buffers such as ``attn_mask``.
        seed: Seed of ``numpy.random.RandomState``.

    Returns:
        Key -> float32 tensor.
    """
    rng = np.random.RandomState(seed)
    drawn = {}
    for key in sorted(shapes):
        shape = tuple(shapes[key])
        noise = rng.standard_normal(shape).astype(np.float32)
        mean, scale = _moments(key, shape)
        drawn[key] = torch.from_numpy(np.asarray(mean + noise * np.float32(scale), dtype=np.float32))
    return drawn


def _moments(key: str, shape: tuple[int, ...]) -> tuple[np.float32, float]:
    """Mean and standard deviation of a parameter; the first rule that fits decides."""
    is_matrix = len(shape) == 2 and key.endswith("weight") and "token_embedding" not in key
    leaves_branch = "out_proj" in key or "c_proj" in key
    fan_in = math.prod(shape[1:])
    rules = (
        (key.endswith("logit_scale"), math.log(100.0), 0.0),
        ("ln_" in key and key.endswith("weight"), 1.0, 0.1),
        (key.endswith("bias"), 0.0, 0.02),
        ("positional_embedding" in key, 0.0, 0.05),
        (key.endswith("class_embedding"), 0.0, 0.5),
        (key.endswith("conv1.weight"), 0.0, (3 * 16 * 16) ** -0.5),
        (key.endswith("in_proj_weight"), 0.0, 2.0 * fan_in**-0.5),
        ("mask_decoder" in key and key.endswith("weight"), 0.0, (2.0 / fan_in) ** 0.5),
        ("query" in key, 0.0, 1.0),
        (is_matrix, 0.0, (0.25 if leaves_branch else 0.7) * fan_in**-0.5),
        (key.endswith("proj"), 0.0, shape[0] ** -0.5 if shape else 1.0),
        (key.endswith("text_projection"), 0.0, shape[0] ** -0.5 if shape else 1.0),
    )
    for fits, mean, scale in rules:
        if fits:
            return np.float32(mean), scale
    return np.float32(0.0), 0.1
