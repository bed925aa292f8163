"""Where SAN's queries begin: at learned embeddings, or at the regions that CLIPtrase found in the image.

A query's content is its embedding before the first block; its prior is a fixed start of its mask. Modes by name:

==============  ===================================================================================================
off             Learned embeddings: SAN as published.
map_add         Mask-average-pooled CLIP features of the region, projected and added to the learned embedding.
map_replace     The same instead of the learned embedding.
tokens          The mean of the side adapter's own patch tokens over the region instead of the learned embedding.
tokens_prior    ``tokens``, and a learnable multiple of the region's mask on the query's mask logits and attention bias;
                beside them, if asked for, of what CLIP's patches in the region are called on the query's class.
prior           Only these multiples; learned embeddings.
prototypes      Learned embeddings that begin at the centres of the training set's regions (``engine/prototypes.py``).
==============  ===================================================================================================

In ``prior+prototypes`` and ``tokens_prior+prototypes`` the learned embeddings begin at these centres too.

Region k, largest first, meets query k. The remaining queries go round again from the largest (``repeat``), or keep
their learned embedding.

With ``annealed`` regions are for training alone: a query that has lost its region begins as in plain SAN, as all do at
inference. Training takes more and more of them away (``meta_arch/san.py``), as EoMT anneals its masked attention
(Kerssies et al., "Your ViT is secretly an image segmentation model", CVPR 2025).

With ``zero_init`` every mode begins as plain SAN, bit for bit, and learns how much of the regions it takes: the
projection of ``map_add`` and the strengths of a prior begin at 0, and content ``c`` that takes the place of the learned
embedding ``e`` comes in as ``e + s (c - e)``, where ``s`` is learned and begins at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from san_cliptrase.choices import QUERY_INITS
from san_cliptrase.errors import OptionError
from san_cliptrase.regions.pooling import mask_average_pool, pooling_weights
from san_cliptrase.san.mask_decoder import MaskPrediction
from san_cliptrase.san.region_maps import resize_regions
from san_cliptrase.structures import ClipFeatures, Regions


class ProjectedRegions(nn.Module):
    """Query content from CLIP: ``W LN(mean of z over the region) + b``, z the tokens entering one of CLIP's blocks.

    Args:
        clip_width: C.
        width: C'.
        tap: CLIP block whose input is pooled, counted from the first.
        replace: Take the place of the learned embedding instead of being added to it.
        zero_init: Start the projection at zero, if it is added, so that adding changes nothing at first.
    """

    def __init__(self, clip_width: int, width: int, tap: int, replace: bool, zero_init: bool = False) -> None:
        super().__init__()
        self.tap, self.replace = tap, replace
        self.norm = nn.LayerNorm(clip_width)
        self.proj = nn.Linear(clip_width, width)
        if zero_init and not replace:
            nn.init.zeros_(self.proj.weight)
            nn.init.zeros_(self.proj.bias)

    def forward(self, learned: Tensor, side_map: Tensor, features: ClipFeatures, regions: Regions) -> Tensor:
        """Queries (B, Q, C') of all regions; see ``QueryInit.queries``."""
        pooled = self.proj(self.norm(mask_average_pool(features.patch_map(self.tap), regions)))
        return pooled if self.replace else learned + pooled


class PooledTokens(nn.Module):
    """Query content from the side adapter: the mean of its own patch tokens over the region."""

    def forward(self, learned: Tensor, side_map: Tensor, features: ClipFeatures, regions: Regions) -> Tensor:
        """Queries (B, Q, C') of all regions; see ``QueryInit.queries``."""
        return pool_tokens(side_map, regions)


def pool_tokens(side_map: Tensor, regions: Regions) -> Tensor:
    """Means of the side adapter's patch tokens (B, C', h', w') over regions on any grid, (B, N, C')."""
    return mask_average_pool(side_map, resize_regions(regions, side_map.shape[-2:]))


class RegionPrior(nn.Module):
    """A learnable multiple of the signed region mask ``2m - 1`` on mask logits and attention bias, and of names.

    A query without region has ``m = 0``: its mask is pushed down everywhere by as much, its bias and class stay.

    Names: ``votes = n m / sum m``, the weights by which CLIP's patches vote on the class of the query, see
    ``SanModel.classify``.

    A strength of 0 is not learned: that part of the prior is left out.

    Args:
        mask_strength: Initial multiple on mask logits; 2 means probabilities of 0.88 inside and 0.12 outside.
        bias_strength: Initial multiple on the attention bias.
        name_strength: n, initially; 0: there is no such parameter.
        zero_init: Begin at 0 instead, and learn the strengths that are not 0.
    """

    name_strength: nn.Parameter | None

    def __init__(
        self,
        mask_strength: float = 2.0,
        bias_strength: float = 10.0,
        name_strength: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.mask_strength, self.bias_strength, names = (
            nn.Parameter(torch.tensor(0.0 if zero_init else float(strength)), requires_grad=strength != 0)
            for strength in (mask_strength, bias_strength, name_strength)
        )
        self.name_strength = names if name_strength else None  # checkpoints without names have no place for it

    def forward(self, prediction: MaskPrediction, regions: Regions, annealed: Tensor | None = None) -> MaskPrediction:
        """Add the prior to what the mask decoder predicts, but for the ``annealed`` (B, Q) queries."""
        votes = None
        if self.name_strength is not None:
            votes = self.name_strength * pooling_weights(regions, prediction.mask_logits.dtype)
            votes = votes if annealed is None else votes.masked_fill(annealed[..., None], 0)
        masks = resize_regions(regions, prediction.mask_logits.shape[-2:]).masks
        signed = 2 * masks.to(prediction.mask_logits.dtype) - 1
        if annealed is not None:
            signed = signed.masked_fill(annealed[..., None, None], 0)
        on_bias = signed * regions.valid[..., None, None]
        return MaskPrediction(
            mask_logits=prediction.mask_logits + self.mask_strength * signed,
            attn_bias=prediction.attn_bias + self.bias_strength * on_bias[:, None, None],
            votes=votes,
        )


class QueryInit(nn.Module):
    """One mode of query initialisation: a content, a prior, both or neither.

    Args:
        content: ``ProjectedRegions``, ``PooledTokens`` or None for learned embeddings.
        prior: ``RegionPrior`` or None.
        repeat: See ``assign_regions``.
        zero_init: The mode begins as plain SAN; content and prior are built so.
        annealed: Regions are for training alone.

    Attributes:
        content_strength: Learned share of the content in the place of the learned embedding, with ``zero_init``.
    """

    content_strength: nn.Parameter | None

    def __init__(
        self,
        content: nn.Module | None = None,
        prior: RegionPrior | None = None,
        repeat: bool = False,
        zero_init: bool = False,
        annealed: bool = False,
    ) -> None:
        super().__init__()
        self.content = content
        self.prior = prior
        self.repeat = repeat
        self.zero_init = zero_init
        self.annealed = annealed
        added = isinstance(content, ProjectedRegions) and not content.replace
        shared = zero_init and content is not None and not added
        self.content_strength = nn.Parameter(torch.tensor(0.0)) if shared else None

    @property
    def begins_as_plain_san(self) -> bool:
        """Whether, as built, regions change nothing."""
        return self.zero_init or not self.trains_with_regions

    @property
    def trains_with_regions(self) -> bool:
        """Whether regions change anything in training."""
        return self.content is not None or self.prior is not None

    @property
    def needs_regions(self) -> bool:
        """Whether regions change what the model predicts at inference."""
        return self.trains_with_regions and not self.annealed

    @property
    def names_queries(self) -> bool:
        """Whether regions have a say in the classes of their queries."""
        return self.prior is not None and self.prior.name_strength is not None

    @property
    def taps(self) -> tuple[int, ...]:
        """CLIP taps that the content needs."""
        return (self.content.tap,) if isinstance(self.content, ProjectedRegions) else ()

    def queries(
        self,
        learned: Tensor,
        side_map: Tensor,
        features: ClipFeatures,
        regions: Regions | None,
        annealed: Tensor | None = None,
    ) -> Tensor:
        """Query embeddings before the first block, the queries' position not yet added.

        Args:
            learned: (1, Q, C'), the learned embeddings.
            side_map: (B, C', h', w'), the side adapter's patch tokens after position and first fusion.
            features: CLIP's tokens.
            regions: What ``assign_regions`` returned, or None for learned embeddings.
            annealed: (B, Q) bool, queries that begin at their learned embedding in spite of a region.

        Returns:
            (B, Q, C'), or (1, Q, C') where nothing depends on the image.
        """
        if regions is None and self.training:
            # Distributed training wants every parameter in every loss.
            return learned + 0 * sum(parameter.sum() for parameter in self.parameters())
        if self.content is None or regions is None:
            return learned
        found = self.content(learned, side_map, features, regions)
        if self.content_strength is not None:
            found = learned + self.content_strength * (found - learned)
        begins = regions.valid if annealed is None else regions.valid & ~annealed
        return torch.where(begins[..., None], found, learned)

    def apply_prior(
        self, prediction: MaskPrediction, regions: Regions | None, annealed: Tensor | None = None
    ) -> MaskPrediction:
        """The prediction of one supervised block with the regions' prior, if this mode has one."""
        if self.prior is None or regions is None:
            return prediction
        return self.prior(prediction, regions, annealed)


def build_query_init(
    name: str,
    *,
    clip_width: int = 768,
    width: int = 240,
    tap: int = 9,
    zero_init: bool = False,
    mask_strength: float = 2.0,
    bias_strength: float = 10.0,
    name_strength: float = 0.0,
    repeat: bool = False,
    annealed: bool = False,
) -> QueryInit:
    """Build a mode of ``QUERY_INITS`` by its name; the arguments are those of its parts.

    Raises:
        OptionError: There is no mode of that name; the message lists them. Or names are asked of a mode without prior.
    """
    if name not in QUERY_INITS:
        raise OptionError(f"unknown query initialisation {name!r}; choose one of: {', '.join(QUERY_INITS)}")
    if name_strength and "prior" not in name:
        having = " or ".join(known for known in QUERY_INITS if "prior" in known)
        raise OptionError(
            f"MODEL.SAN.QUERY_INIT.NAME_STRENGTH is {name_strength}, but the query initialisation {name!r} has no "
            f"prior: set it to 0, or MODEL.SAN.QUERY_INIT.NAME to {having}"
        )
    content: nn.Module | None = None
    if name.startswith("map"):
        content = ProjectedRegions(clip_width, width, tap, replace=name == "map_replace", zero_init=zero_init)
    elif name.startswith("tokens"):
        content = PooledTokens()
    prior = RegionPrior(mask_strength, bias_strength, name_strength, zero_init) if "prior" in name else None
    return QueryInit(content, prior, repeat, zero_init, annealed)
