"""Training-free segmentation with a frozen CLIP: the steps of CLIPtrase in their order. No mathematics in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.attention import attention_rule
from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase.clustering import (
    PUBLISHED_TOWER,
    check_parameters,
    cluster_rows,
    core_radius,
    default_clustering,
)
from san_cliptrase.cliptrase.correlation import correlation_rule, suppress_global_patches
from san_cliptrase.cliptrase.regions import (
    image_grids,
    join_regions,
    own_maps,
    partition_pixels,
    region_maps,
    regions_from_maps,
    smooth_maps,
)
from san_cliptrase.cliptrase.voting import (
    Background,
    decide_pixels,
    majority_vote,
    patch_logits,
    pixel_logits,
    vote_shares,
)
from san_cliptrase.structures import ClipFeatures, Regions

Size = tuple[int, int]


class Cliptrase:
    """CLIPtrase (Shao et al., 2024) on top of a frozen CLIP image tower; a plain object that owns no parameter.

    Args:
        visual: The frozen tower. The published numbers need ``interpolate_offset=0.1``.
        eps: DBSCAN's radius; None: ``default_clustering`` of each image's grid if the tower is a ViT-B/16, for which
            the published radii were chosen, else ``core_radius``, from the image itself.
        min_samples: DBSCAN's core size; None: ``default_clustering`` of each image's grid.
        attention: Name of the last block's attention rule, see ``clip.attention``.
        vote: Let regions vote; False: every pixel is classified by itself, as MaskCLIP and SCLIP do.
        cls_prior: See ``patch_logits``.
        correlation: Name of the correlation whose rows are clustered, see ``cliptrase.correlation``.

    Attributes:
        taps: Block inputs to ask of the encoder: those of the second-to-last and the last block.

    Raises:
        ValueError: Unknown attention rule or correlation, parameters of DBSCAN out of range, or a tower of fewer than
            two blocks.
    """

    taps = (-2, -1)

    def __init__(
        self,
        visual: ClipVisualEncoder,
        eps: float | None = None,
        min_samples: int | None = None,
        attention: str = "cliptrase",
        vote: bool = True,
        cls_prior: bool = False,
        correlation: str = "cosine",
    ) -> None:
        if visual.depth < 2:
            raise ValueError(
                f"CLIPtrase correlates the second-to-last block, but this tower has {visual.depth} block(s)"
            )
        check_parameters(eps, min_samples)
        self.visual = visual
        self.eps = eps
        self.min_samples = min_samples
        self.published_tower = (visual.depth, visual.heads, visual.patch_size) == PUBLISHED_TOWER
        self.attend = attention_rule(attention)
        self.correlation = correlation_rule(correlation)
        self.vote = vote
        self.cls_prior = cls_prior

    @torch.no_grad()
    def correlate(self, features: ClipFeatures) -> Tensor:
        """Self-correlation in the second-to-last block, (B, T, T)."""
        index = self.visual.depth - 2
        block, tokens = self.visual.blocks[index], features.tokens[index]
        return self.correlation(*project_qkv(block, tokens.to(block.attn.out_proj.weight.dtype)))

    @torch.no_grad()
    def maps(self, features: ClipFeatures, scales: Sequence[float] = (1.0,)) -> list[Tensor]:
        """Region maps of all images, (B, N, L) for each multiple of DBSCAN's radius; see ``region_maps``.

        At the precision of the tower's weights also under autocast: rounding to half precision moves patches across
        DBSCAN's radius, and pixels between maps that are nearly equal.
        """
        with torch.autocast(features.valid.device.type, enabled=False):
            rows = suppress_global_patches(self.correlate(features), features.valid)
            eps, min_samples = self._parameters(rows, features)
            labels = (cluster_rows(rows, features.valid, scale * eps, min_samples) for scale in scales)
            return [region_maps(rows, found) for found in labels]

    def cluster(self, rows: Tensor, features: ClipFeatures) -> Tensor:
        """Cluster labels (B, L) of correlation rows (B, L, L), each image with the parameters of its own grid."""
        return cluster_rows(rows, features.valid, *self._parameters(rows, features))

    def _parameters(self, rows: Tensor, features: ClipFeatures) -> tuple[float | Tensor, int | Tensor]:
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

    def regions(self, features: ClipFeatures, scales: Sequence[float] = (1.0,)) -> Regions:
        """Regions of each image on the patch grid; patches need none of the smoothing that pixels get. No gradient.

        Args:
            features: With ``taps``.
            scales: Multiples of the radius; the regions found at each are taken together.
        """
        return join_regions([regions_from_maps(m, features.valid, features.grid) for m in self.maps(features, scales)])

    @torch.no_grad()
    def dense(self, features: ClipFeatures) -> Tensor:
        """Tokens in the joint space after the last block under the attention rule: (B, T, E), rows of length 1."""
        last = self.visual.depth - 1
        bias = self.visual.key_bias(features.valid)
        tokens = self.visual.run(features.tokens[last], last, last + 1, self.attend, bias)
        return F.normalize(self.visual.head(tokens), dim=-1)

    @torch.no_grad()
    def segment(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        sizes: Sequence[Size],
        num_classes: int | None = None,
        background: Background | None = None,
        cls_prior: bool | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> list[Tensor]:
        """Segment every image of a batch, each as if it were alone.

        Args:
            features: With ``taps``.
            text_weights: (K + background words, E), rows of length 1.
            sizes: True (height, width) of each image in pixels, as given to the encoder.
            num_classes: K; words from there on mean background, which becomes class K. None: no background words.
            background: The same with a threshold on the probability; in place of ``num_classes``.
            cls_prior: In place of the one that the object was made with, if it is not None.
            regions: Of another source: per image (H, W) int64 >= 0, the region of each pixel, or None where it has
                none. None: those of :meth:`partitions`.

        Returns:
            Per image (H, W) int64 class indices.
        """
        if background is None and num_classes is not None:
            background = Background(num_classes)
        results = []
        for logits, own in self._pixels(features, text_weights, sizes, cls_prior, regions):
            # Background is decided before the vote: its words vote as one class.
            classes = decide_pixels(logits, logits.shape[-2:], background)
            results.append(classes if own is None else majority_vote(classes, own, len(text_weights) + 1))
        return results

    @torch.no_grad()
    def scores(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        sizes: Sequence[Size],
        background: Background | None = None,
        cls_prior: bool | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> Iterator[Tensor]:
        """What is averaged where windows overlap, for the arguments of :meth:`segment`, image by image.

        Yields:
            (K + background words, H, W) logits of the pixels; with a vote ``vote_shares`` (K, H, W), background one
            of the K.
        """
        count = len(text_weights) if background is None else background.index + 1
        for logits, own in self._pixels(features, text_weights, sizes, cls_prior, regions):
            if self.vote:
                classes = decide_pixels(logits, logits.shape[-2:], background)
                yield vote_shares(classes, own, count)
            else:
                yield logits

    def own_maps(self, features: ClipFeatures) -> list[Tensor]:
        """Region maps of each image (N, h, w) on its own patch grid, not smoothed; N = 0 where it has no cluster."""
        (found,) = self.maps(features)
        return own_maps(found, features.valid, features.grid)

    @torch.no_grad()
    def partitions(self, features: ClipFeatures, sizes: Sequence[Size]) -> list[Tensor | None]:
        """Per image the region (H, W) of each of its pixels; None where it has no cluster."""
        return [
            partition_pixels(smooth_maps(maps), self._canvas(maps.shape[-2:]), size) if len(maps) else None
            for maps, size in zip(self.own_maps(features), sizes, strict=True)
        ]

    @property
    def uses_regions(self) -> bool:
        """Whether regions have a say in what :meth:`segment` gives."""
        return self.vote

    def _pixels(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        sizes: Sequence[Size],
        cls_prior: bool | None,
        given: Sequence[Tensor | None] | None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Per image the logits (K, H, W) of its pixels, and the region (H, W) of each; None where none vote."""
        prior = self.cls_prior if cls_prior is None else cls_prior
        logits = patch_logits(self.dense(features), text_weights, prior)
        grids = image_grids(features.valid, features.grid)
        if not self.uses_regions:
            given = [None] * len(grids)
        partitions = self.partitions(features, sizes) if given is None else given
        for image_logits, keep, grid, size, own in zip(logits, features.valid, grids, sizes, partitions, strict=True):
            yield pixel_logits(image_logits[keep].unflatten(0, grid), self._canvas(grid), size), own

    def _canvas(self, grid: Size) -> Size:
        """(height, width) in pixels that a grid of patches covers."""
        return grid[0] * self.visual.patch_size[0], grid[1] * self.visual.patch_size[1]
