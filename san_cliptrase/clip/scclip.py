"""SC-CLIP: a frozen CLIP read densely after its outliers are repaired, by the similarities of its middle blocks.

After Bai et al., "Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation" (SC-CLIP), as its published code
computes it. x^l are the tokens that leave block l, counted from 1, of n; C the width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.attention import softmax_attention
from san_cliptrase.clip.blocks import attention_output
from san_cliptrase.clip.depth import check_depth, same_share
from san_cliptrase.clip.layers import LayerReading
from san_cliptrase.clip.recognition import last_cls
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.structures import ClipFeatures, Size

NEIGHBOURS = 30
"""Patches among which one is an outlier or not."""
QUANTILE = 0.95
"""Of the outlier factors: what is above is an outlier, about 5 % of the patches of every image."""
THRESHOLD = 0.4
"""Least similarity of patches that are averaged."""
SHARPNESS = 3.0
"""Of the similarities in the softmax of the last block."""
FEWEST_BLOCKS = 3


class Blocks(NamedTuple):
    """What SC-CLIP takes from which block; numbers count from 1.

    Attributes:
        similar: Whose patches say which patches are alike, before the last block.
        regather: The same, behind it.
        levels: First and last of the blocks whose outputs are summed and read too.
        cls: How much of [CLS] is added to every patch.
    """

    similar: int
    regather: int
    levels: tuple[int, int]
    cls: float


PUBLISHED = {12: Blocks(9, 4, (4, 10), 0.3), 24: Blocks(17, 7, (9, 19), 0.1)}
"""The authors' settings by depth: ViT-B/16, and ViT-L/14 (SuleBai/SC-CLIP, issue 5)."""


def blocks_of(depth: int) -> Blocks:
    """The published blocks for 12 and 24 blocks; else those of ViT-B/16 at the same share of the depth.

    Raises:
        OptionError: Fewer than three blocks.
    """
    check_depth("scclip", FEWEST_BLOCKS, depth)
    if depth in PUBLISHED:
        return PUBLISHED[depth]
    base = PUBLISHED[12]
    first, last = (same_share(block, depth) for block in base.levels)
    return Blocks(same_share(base.similar, depth), same_share(base.regather, depth), (first, last), base.cls)


class Steps(NamedTuple):
    """What the steps give, for patches: (B, L, C) where nothing else is said.

    Attributes:
        outliers: (B, L) bool.
        repaired: x^(n-1) with its outliers replaced.
        similarity: (B, L, L) cosines.
        aggregated: ``repaired``, averaged over patches that are alike.
        attended: What the last block gives for it.
        regathered: The same, averaged over patches that are alike.
        levels: What the sum of the middle blocks gives the same way; zero without.
    """

    outliers: Tensor
    repaired: Tensor
    similarity: Tensor
    aggregated: Tensor
    attended: Tensor
    regathered: Tensor
    levels: Tensor


@dataclass(frozen=True)
class ScClip(LayerReading):
    """SC-CLIP; each of its steps can be left out.

    Attributes:
        repair: Replace outliers by the mean of their neighbours.
        gather: Average patches that are alike before the last block.
        similar: Let half of the last block's attention follow similarity; else all of it is key-key attention.
        cls: Add a share of [CLS] to every patch.
        regather: Average patches that are alike behind the last block.
        levels: Add what the sum of the middle blocks' outputs gives.
    """

    repair: bool = True
    gather: bool = True
    similar: bool = True
    cls: bool = True
    regather: bool = True
    levels: bool = True

    def taps(self, visual: ClipVisualEncoder) -> tuple[int, ...]:
        """See ``LayerReading``; blocks that no step reads are left out."""
        blocks = blocks_of(visual.depth)
        first, last = blocks.levels
        wanted = {visual.depth - 1}
        wanted |= {blocks.similar} if self.gather or self.similar else set()
        wanted |= {blocks.regather} if self.regather else set()
        wanted |= {*range(first, last + 1)} if self.levels else set()
        return tuple(sorted(wanted))

    def tokens(self, visual: ClipVisualEncoder, features: ClipFeatures) -> Tensor:
        """See ``LayerReading``; [CLS] is CLIP's own."""
        steps = self.steps(visual, features)
        return torch.cat([last_cls(visual, features), steps.regathered + steps.levels], dim=1)

    def steps(self, visual: ClipVisualEncoder, features: ClipFeatures, outliers: Tensor | None = None) -> Steps:
        """Every step in order.

        Args:
            visual: The tower that made the features.
            features: With ``taps``, without padding.
            outliers: (B, L) bool, in place of those that are found.
        """
        blocks, tokens = blocks_of(visual.depth), features.tokens
        entering = tokens[visual.depth - 1]
        repaired = entering[:, 1:]
        if outliers is None:
            outliers = find_outliers(repaired) if self.repair else torch.zeros_like(features.valid)
        similarity = torch.empty(0)
        if self.gather or self.similar:
            similarity = cosines(repair(tokens[blocks.similar][:, 1:], outliers, features.grid))
        repaired = repair(repaired, outliers, features.grid)
        aggregated = average_alike(similarity, repaired) if self.gather else repaired
        alike = cosines(tokens[blocks.regather][:, 1:]) if self.regather else None

        def read(patches: Tensor, cls: Tensor) -> tuple[Tensor, Tensor]:
            attended = self._last_block(visual, patches, similarity)
            attended = attended + blocks.cls * cls if self.cls else attended
            return attended, attended if alike is None else average_alike(alike, attended)

        attended, regathered = read(aggregated, entering[:, :1])
        levels = torch.zeros_like(regathered)
        if self.levels:
            total = torch.stack([tokens[tap] for tap in range(blocks.levels[0], blocks.levels[1] + 1)]).sum(0)
            levels = read(total[:, 1:], total[:, :1])[1]
        return Steps(outliers, repaired, similarity, aggregated, attended, regathered, levels)

    def _last_block(self, visual: ClipVisualEncoder, patches: Tensor, similarity: Tensor) -> Tensor:
        """``W_o ((A(k, k) + softmax(M)) / 2) v``, M from :func:`similarity_attention`, without residual and MLP."""

        def attend(q: None, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            mixed = softmax_attention(k, k, v)
            if not self.similar:
                return mixed
            return (mixed + similarity_attention(similarity)[:, None].to(v.dtype) @ v) / 2

        return attention_output(visual.blocks[-1], patches, attend, first=1)


STEPS = tuple(field.name for field in dataclasses.fields(ScClip))
"""Names of the steps that can be left out."""


def outlier_factor(patches: Tensor) -> Tensor:
    """How much farther a patch's 30th neighbour is than those of its neighbours: (B, L, C) -> (B, L).

    The local outlier factor (Breunig et al., 2000) as SC-CLIP's code has it: the distance at which a patch i reaches
    its neighbours is bounded by i's own 30th distance (squared), not by the neighbour's, so all 30 are reached at that
    distance d_i, the density of i is ``1 / d_i``, and the factor is ``d_i mean_j 1 / d_j`` over the neighbours j.
    """
    with torch.autocast(patches.device.type, enabled=False):  # a rank among neighbours needs full precision
        exact = patches.to(torch.promote_types(patches.dtype, torch.float32))
        # Distances do not change, and lose less to rounding, when what all patches share is taken off.
        exact = exact - exact.mean(1, keepdim=True)
        squares = exact.square().sum(-1)
        distances = squares[:, :, None] + squares[:, None] - 2 * exact @ exact.transpose(1, 2)
        count = min(NEIGHBOURS, patches.shape[1] - 1)
        if count == 0:
            return torch.ones_like(squares)
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest, neighbours = distances.topk(count, largest=False)
        reach = nearest[..., -1].clamp(min=torch.finfo(exact.dtype).eps)
        return reach * torch.gather(1 / reach, 1, neighbours.flatten(1)).view_as(neighbours).mean(-1)


def find_outliers(patches: Tensor) -> Tensor:
    """Patches whose :func:`outlier_factor` is above its 0.95 quantile over the image: (B, L, C) -> (B, L) bool."""
    factor = outlier_factor(patches)
    return factor > factor.quantile(QUANTILE, dim=1, keepdim=True)


def repair(patches: Tensor, outliers: Tensor, grid: Size) -> Tensor:
    """Give each outlier the mean of those of its 8 neighbours that are none; one without such stays.

    Args:
        patches: (B, L, C).
        outliers: (B, L) bool.
        grid: (h, w).

    Returns:
        (B, L, C)
    """
    sound = (~outliers)[..., None].to(patches)
    around = torch.ones(1, 1, 3, 3, dtype=patches.dtype, device=patches.device)

    def total(values: Tensor) -> Tensor:  # over the 3 x 3 patches around each; outliers count nowhere, so nor does self
        maps = (values * sound).transpose(1, 2).flatten(0, 1).unflatten(1, grid)[:, None]
        return F.conv2d(maps, around, padding=1).view(len(values), -1, values.shape[1]).transpose(1, 2)

    count = total(torch.ones_like(sound))
    return torch.where(outliers[..., None] & (count > 0), total(patches) / count.clamp(min=1), patches)


def cosines(patches: Tensor) -> Tensor:
    """Cosines of all pairs: (B, L, C) -> (B, L, L)."""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.transpose(1, 2)


def average_alike(similarity: Tensor, patches: Tensor) -> Tensor:
    """The mean of the patches that are alike, each weighed by its similarity where that is 0.4 or more: (B, L, C)."""
    weights = similarity * (similarity >= THRESHOLD)
    return weights.to(patches.dtype) @ patches / (weights.sum(-1, keepdim=True) + 1e-6)


def similarity_attention(similarity: Tensor) -> Tensor:
    """``softmax`` over each row of ``M = 3 (S - mean of all of S)``, negative entries left out: (B, L, L)."""
    logits = SHARPNESS * (similarity - similarity.mean((1, 2), keepdim=True))
    return logits.masked_fill(logits < 0, -torch.inf).softmax(-1)
