"""Finding regions in an image by the self-correlation of a frozen CLIP: the steps in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.regions.clustering import (
    PUBLISHED_TOWER,
    check_parameters,
    cluster_rows,
    core_radius,
    default_clustering,
)
from san_cliptrase.regions.correlation import correlation_rule, suppress_global_patches
from san_cliptrase.regions.maps import image_grids, join_regions, region_maps, regions_from_maps
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions


class RegionFinder(RegionSource):
    """The source ``cliptrase``: CLIPtrase's regions (Shao et al., 2024), without names.

    Args:
        visual: The frozen tower. The published numbers need ``interpolate_offset=0.1``.
        eps: DBSCAN's radius; None: ``default_clustering`` of each image's grid if the tower is a ViT-B/16, for which
            the published radii were chosen, else ``core_radius``, from the image itself.
        min_samples: DBSCAN's core size; None: ``default_clustering`` of each image's grid.
        correlation: Name of the correlation whose rows are clustered, see ``regions.correlation``.
        scales: Multiples of the radius; the regions found at each are taken together.

    Attributes:
        taps: Block inputs to ask of the encoder: that of the second-to-last block.

    Raises:
        OptionError: Unknown correlation, parameters of DBSCAN or scales out of range, or a tower of fewer than two
            blocks.
    """

    taps: tuple[int, ...] = (-2,)

    def __init__(
        self,
        visual: ClipVisualEncoder,
        eps: float | None = None,
        min_samples: int | None = None,
        correlation: str = "cosine",
        scales: Sequence[float] = (1.0,),
    ) -> None:
        if visual.depth < 2:
            raise OptionError(
                f"CLIPtrase correlates the second-to-last block, but this tower has {visual.depth} block(s)"
            )
        check_parameters(eps, min_samples)
        if not scales or min(scales) <= 0:
            raise OptionError(
                f"MODEL.REGIONS.SCALES is {list(scales)}: one or more multiples of DBSCAN's radius above 0"
            )
        self.visual = visual
        self.eps = eps
        self.min_samples = min_samples
        self.published_tower = (visual.depth, visual.heads, visual.patch_size) == PUBLISHED_TOWER
        self.correlation = correlation_rule(correlation)
        self.scales = tuple(scales)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """Masks from the maps as they are: patches need none of the smoothing that pixels get."""
        return join_regions([regions_from_maps(maps, features.valid, features.grid) for maps in self.maps(features)])

    @torch.no_grad()
    def correlate(self, features: ClipFeatures) -> Tensor:
        """Self-correlation in the second-to-last block, (B, T, T)."""
        index = self.visual.depth - 2
        block, tokens = self.visual.blocks[index], features.tokens[index]
        return self.correlation(*project_qkv(block, tokens.to(block.attn.out_proj.weight.dtype)))

    @torch.no_grad()
    def maps(self, features: ClipFeatures) -> list[Tensor]:
        """Region maps of all images, (B, N, L) for each multiple of DBSCAN's radius; see ``region_maps``.

        At the precision of the tower's weights also under autocast: rounding to half precision moves patches across
        DBSCAN's radius, and pixels between maps that are nearly equal.
        """
        with torch.autocast(features.valid.device.type, enabled=False):
            rows = suppress_global_patches(self.correlate(features), features.valid)
            eps, min_samples = self.parameters(rows, features)
            labels = (cluster_rows(rows, features.valid, scale * eps, min_samples) for scale in self.scales)
            return [region_maps(rows, found) for found in labels]

    def cluster(self, rows: Tensor, features: ClipFeatures) -> Tensor:
        """Cluster labels (B, L) of correlation rows (B, L, L), each image with the parameters of its own grid."""
        return cluster_rows(rows, features.valid, *self.parameters(rows, features))

    def parameters(self, rows: Tensor, features: ClipFeatures) -> tuple[float | Tensor, int | Tensor]:
        """DBSCAN's radius and core size, those that were given or each image's own (B,)."""
        eps: float | Tensor | None = self.eps
        min_samples: int | Tensor | None = self.min_samples
        if eps is None or min_samples is None:
            defaults = [default_clustering(grid) for grid in image_grids(features.valid, features.grid)]
            min_samples = torch.tensor([default for _, default in defaults]) if min_samples is None else min_samples
            if eps is None and self.published_tower:
                eps = torch.tensor([default for default, _ in defaults], device=rows.device)
            elif eps is None:
                eps = core_radius(rows, features.valid, min_samples)
        return eps, min_samples
