"""The learnable half of SAN in one module: side adapter, query initialisation and mask decoder."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from san_cliptrase.san.mask_decoder import MaskDecoder, MaskPrediction
from san_cliptrase.san.query_init import QueryInit, pool_tokens
from san_cliptrase.san.region_maps import assign_regions
from san_cliptrase.san.side_adapter import SideAdapter
from san_cliptrase.structures import ClipFeatures, Regions


class SideAdapterNetwork(nn.Module):
    """Masks and attention biases from an image, CLIP's features of it and, optionally, its regions.

    Args:
        adapter: The side adapter.
        decoder: The mask decoder, for the adapter's width.
        query_init: Where queries begin; None: ``off``, SAN as published.
    """

    def __init__(self, adapter: SideAdapter, decoder: MaskDecoder, query_init: QueryInit | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        self.decoder = decoder
        self.query_init = query_init if query_init is not None else QueryInit()

    @property
    def taps(self) -> tuple[int, ...]:
        """CLIP taps that ``forward`` needs."""
        return tuple(sorted({*self.adapter.taps, *self.query_init.taps}))

    def region_tokens(self, images: Tensor, features: ClipFeatures, regions: Regions) -> Tensor:
        """The mean of the side adapter's own patch tokens over each region, (B, N, C')."""
        return pool_tokens(self.adapter.embed(images, features), regions)

    def forward(
        self, images: Tensor, features: ClipFeatures, regions: Regions | None = None, annealed: Tensor | None = None
    ) -> list[MaskPrediction]:
        """Predict masks for a batch.

        Args:
            images: (B, 3, H, W), normalised and padded; H and W multiples of the side adapter's patch size.
            features: CLIP's tokens of the same canvas, with ``taps``.
            regions: Regions on CLIP's patch grid, or None: SAN as published.
            annealed: (B, Q) bool, queries that begin as in SAN as published in spite of a region; None: none of them.

        Returns:
            In training one prediction per supervised block, the final one last; else the final one alone.
        """
        assigned = None
        if regions is not None and self.query_init.trains_with_regions:
            assigned = assign_regions(regions, self.adapter.num_queries, self.query_init.repeat)
        initialise = partial(self.query_init.queries, features=features, regions=assigned, annealed=annealed)
        outputs = self.adapter(images, features, initialise)
        outputs = outputs if self.training else outputs[-1:]
        return [self.query_init.apply_prior(self.decoder(tokens), assigned, annealed) for tokens in outputs]
