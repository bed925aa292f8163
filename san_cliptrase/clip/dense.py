"""Reading CLIP densely: its last blocks under a rule that was chosen by name, for features of every patch."""

from __future__ import annotations

import functools
import operator

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.attention import DenseRule
from san_cliptrase.clip.blocks import attention_output, mlp_output
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.structures import ClipFeatures, Size

# Of the Gaussian window, in patches: Hajimiri et al., 2025.
NEIGHBOUR_STD = 5.0


def neighbour_window(grid: Size, device: torch.device | None = None) -> Tensor:
    """What NACLIP adds to the attention logits, so that patches look at their neighbourhood.

    ``w_ij = exp(-|p_i - p_j|^2 / (2 std^2))`` for patches at rows and columns p_i, p_j, 1 at the patch itself; 0 from
    and to [CLS] (Hajimiri et al., "Pay Attention to Your Neighbours", WACV 2025). It depends on how far two patches
    are apart alone, so that of a padded batch's grid holds in each image's own.

    Args:
        grid: (h, w) in patches.
        device: Where the window is made.

    Returns:
        (T, T), [CLS] first.
    """
    steps = [torch.arange(n, device=device) for n in grid]
    rows, columns = (torch.exp(-((n[:, None] - n) ** 2) / (2 * NEIGHBOUR_STD**2)) for n in steps)
    return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))


def class_bias(classes: Tensor) -> Tensor:
    """What restricts attention to patches of one class: 0 inside it, -inf elsewhere (supplement, table 1, "j in GT").

    Args:
        classes: (B, L) int64, the class of each patch; patches of a negative one, which have none, are not restricted,
            nor is [CLS].

    Returns:
        (B, 1, T, T)
    """
    other = (classes[:, :, None] != classes[:, None]) & (classes[:, :, None] >= 0)
    bias = torch.zeros(other.shape, device=classes.device).masked_fill(other, -torch.inf)
    return F.pad(bias, (1, 0, 1, 0))[:, None]


def dense_taps(visual: ClipVisualEncoder, rule: DenseRule) -> tuple[int, ...]:
    """The taps that :func:`read_densely` needs.

    Raises:
        OptionError: The tower has fewer blocks than the rule's second path.
    """
    if rule.dual > visual.depth:
        raise OptionError(
            f"the attention rule sums the last {rule.dual} blocks, but this tower has {visual.depth}: choose a shorter "
            f"second path, as vv-mlp+dual{visual.depth}+surgery"
        )
    return (*range(-max(rule.dual, 1), 0), *([visual.depth] if rule.dual else []))


def read_densely(
    visual: ClipVisualEncoder, features: ClipFeatures, rule: DenseRule, classes: Tensor | None = None
) -> Tensor:
    """The tokens that leave the last block under a rule.

    The path ``y`` begins with what enters the first block of the rule, ``y = x_f``, which is the last block or, with
    ``rule.dual``, the one that many from the end. For every block i from there on ``y += W_o mix(q, k, v of x_i)``,
    then ``y += mlp(ln_2(y))``. The x_i are CLIP's own tokens, whose path goes on as it was trained; [CLS] of a second
    path is taken from there in the end (Li et al., 2023, "dual paths").

    Args:
        visual: The tower that made the features.
        features: With ``dense_taps``.
        rule: Without ``residual``, y begins at zero; without ``mlp``, there is none.
        classes: (B, L), see ``class_bias``; needed by ``truth``.

    Returns:
        (B, T, C)

    Raises:
        OptionError: ``truth`` without classes.
    """
    depth = visual.depth
    bias = _bias(visual, features, rule, classes)
    first = depth - max(rule.dual, 1)
    path = features.tokens[first] if rule.residual else torch.zeros_like(features.tokens[first])
    for index in range(first, depth):
        block = visual.blocks[index]
        path = path + attention_output(block, features.tokens[index], rule, bias)
        if rule.mlp:
            path = path + mlp_output(block, path)
    return torch.cat([features.tokens[depth][:, :1], path[:, 1:]], dim=1) if rule.dual else path


def _bias(visual: ClipVisualEncoder, features: ClipFeatures, rule: DenseRule, classes: Tensor | None) -> Tensor | None:
    """All that is added to the attention logits, or None."""
    parts = [visual.key_bias(features.valid)]
    if rule.neighbours:
        parts.append(neighbour_window(features.grid, features.valid.device))
    if rule.truth:
        if classes is None:
            raise OptionError(
                "the attention rule has '+truth', a control that looks at the ground truth, but there are no label maps"
            )
        parts.append(class_bias(classes))
    return functools.reduce(operator.add, [part for part in parts if part is not None] or [None])
