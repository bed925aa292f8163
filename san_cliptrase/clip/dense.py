"""Reading CLIP densely: its last blocks under a rule that was chosen by name, for features of every patch."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.attention import AttentionRule, DenseRule, softmax_attention
from san_cliptrase.clip.blocks import attention_output, mlp_output, project_qkv
from san_cliptrase.clip.depth import check_depth, same_share
from san_cliptrase.clip.layers import LayerReading, grid_by_grid
from san_cliptrase.clip.recognition import last_cls
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.structures import ClipFeatures, Size

# Of the Gaussian window, in patches: Hajimiri et al., 2025.
NEIGHBOUR_STD = 5.0
# Of ViT-B/16, counted from 1, and how much their attention counts: Yang et al., "ResCLIP", 2025.
RCS_BLOCKS = (6, 9)
RCS_SHARE = 0.3
RCS_FACTOR = 2.0


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
    products = rows[:, None, :, None] * columns[:, None]  # kron's, which an exported graph keeps at one size
    return F.pad(products.flatten(2).flatten(0, 1), (1, 0, 1, 0))


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


def rcs_taps(depth: int) -> range:
    """Blocks (their inputs) whose attention ``rcs`` takes: 6 to 9 of 12, else those of the same share of the depth.

    Raises:
        OptionError: Fewer than two blocks.
    """
    check_depth("rcs", 2, depth)
    first, last = (same_share(block, depth) for block in RCS_BLOCKS)
    return range(first - 1, last)


def with_earlier(rule: AttentionRule, earlier: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None) -> AttentionRule:
    """ResCLIP's residual cross-correlation self-attention (RCS): ``2 (0.7 rule + 0.3 R v)``.

    R is the mean over earlier blocks of their own ``A(q, k)``, head by head (Yang et al., "ResCLIP", CVPR 2025).

    Args:
        rule: Of the last block.
        earlier: Queries and keys of each earlier block.
        bias: Of their attention logits.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, own_bias: Tensor | None = None) -> Tensor:
        across = torch.stack([softmax_attention(*pair, v, bias) for pair in earlier]).mean(0)
        return RCS_FACTOR * torch.lerp(rule(q, k, v, own_bias), across, RCS_SHARE)

    return attend


def dense_taps(visual: ClipVisualEncoder, rule: DenseRule | LayerReading) -> tuple[int, ...]:
    """The taps that :func:`read_densely` needs.

    Raises:
        OptionError: The tower has fewer blocks than the rule reads.
    """
    if isinstance(rule, LayerReading):
        return rule.taps(visual)
    if rule.dual > visual.depth:
        raise OptionError(
            f"the attention rule sums the last {rule.dual} blocks, but this tower has {visual.depth}: choose a shorter "
            f"second path, as vv-mlp+dual{visual.depth}+surgery"
        )
    taps = {*range(-max(rule.dual, 1), 0)}
    earlier = {tap - visual.depth for tap in rcs_taps(visual.depth)} if rule.rcs else set()
    return tuple(sorted(taps | earlier))


def read_densely(
    visual: ClipVisualEncoder, features: ClipFeatures, rule: DenseRule | LayerReading, classes: Tensor | None = None
) -> Tensor:
    """The tokens that leave the last block under a rule; a ``LayerReading`` says itself what they are.

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
    if isinstance(rule, LayerReading):
        return grid_by_grid(features, functools.partial(rule.tokens, visual))
    depth = visual.depth
    shown = _added(visual.key_bias(features.valid), _truth_bias(rule, classes))
    bias = _added(shown, neighbour_window(features.grid, features.valid.device) if rule.neighbours else None)
    attend: AttentionRule = rule
    if rule.rcs:
        pairs = [project_qkv(visual.blocks[tap], features.tokens[tap])[:2] for tap in rcs_taps(depth)]
        attend = with_earlier(rule, pairs, shown)
    first = depth - max(rule.dual, 1)
    path = features.tokens[first] if rule.residual else torch.zeros_like(features.tokens[first])
    for index in range(first, depth):
        block = visual.blocks[index]
        path = path + attention_output(block, features.tokens[index], attend, bias, rule.first)
        if rule.mlp:
            path = path + mlp_output(block, path)
    return torch.cat([last_cls(visual, features), path[:, 1:]], dim=1) if rule.dual else path


def _truth_bias(rule: DenseRule, classes: Tensor | None) -> Tensor | None:
    if not rule.truth:
        return None
    if classes is None:
        raise OptionError(
            "the attention rule has '+truth', a control that looks at the ground truth, but there are no label maps"
        )
    return class_bias(classes)


def _added(*biases: Tensor | None) -> Tensor | None:
    """The sum of what is added to attention logits; None where nothing is."""
    return functools.reduce(operator.add, [bias for bias in biases if bias is not None] or [None])
