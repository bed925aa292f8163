"""Regions whose boundaries follow the image's edges: those of any source, refined as class scores are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.errors import OptionError
from san_cliptrase.refine import Refinement, refinement
from san_cliptrase.regions.maps import own_maps
from san_cliptrase.regions.pixels import pixel_partition, regions_from_pixels
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions, Size


class RefinedRegions(RegionSource):
    """The regions of a source, each pixel given to the one whose refined map is largest there.

    What is refined, at the size of the image as it is given, are the regions' maps, enlarged bilinearly; of sources
    without maps, one-hot maps of the pixels. A mask holds the share of each patch that is the region's.

    Args:
        source: Its regions are a partition, found from the image alone.
        refine: A name in ``REFINEMENTS``, not "none".

    Raises:
        OptionError: There is no such refinement.
    """

    needs_images = True

    def __init__(self, source: RegionSource, refine: str) -> None:
        self.source, self.refine = source, refinement(refine)
        if self.refine is None:
            raise OptionError("regions are to be refined by 'none': leave the refinement out")
        self.taps, self.needs_labels, self.needs_batch = source.taps, source.needs_labels, source.needs_batch

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """See ``RegionSource``."""
        found = self.source(images, features, labels)
        if found.maps is None:
            scores = [None if own is None else _one_hot(own) for own in pixel_partition(found, features)]
        else:
            scores = own_maps(found.maps, features.valid, features.grid)
        parts = [
            None if own is None or not len(own) else self._partition(own, *one, features.patch_size)
            for own, *one in zip(scores, images, features.sizes, strict=True)
        ]
        return regions_from_pixels(parts, features, shares=True)

    def forget(self) -> None:
        """See ``RegionSource``."""
        self.source.forget()

    def _partition(self, scores: Tensor, image: Tensor, size: Size, patch: Size) -> Tensor:
        """The region (H, W) of each pixel at the size that CLIP sees, from maps (N, h, w) of patches or of pixels."""
        whole = tuple(image.shape[-2:])
        step = (1, 1) if tuple(scores.shape[1:]) == tuple(size) else patch
        canvas = tuple(
            max(full, round(n * s * full / seen))
            for n, s, full, seen in zip(scores.shape[1:], step, whole, size, strict=True)
        )
        side = round(min(patch) * whole[0] / size[0])
        labels = refined_partition(scores.float(), canvas, image, side, self.refine).float()
        return F.interpolate(labels[None, None], size=tuple(size), mode="nearest-exact")[0, 0].long()


def refined_partition(maps: Tensor, canvas: Size, image: Tensor, patch: int, refine: Refinement) -> Tensor:
    """The region of every pixel whose refined map is largest, (H, W) int64.

    Args:
        maps: (N, h, w), N >= 1, resized bilinearly.
        canvas: (height, width) in pixels of the image that the maps cover: at least all of it; the last patches may
            reach beyond it.
        image: (3, H, W) in [0, 1].
        patch: Side of a patch in pixels of the image.
        refine: See ``refine``.
    """
    pixels = F.interpolate(maps[None], size=canvas, mode="bilinear", align_corners=False)[0]
    pixels = pixels[:, : image.shape[1], : image.shape[2]]
    return torch.cat(list(refine([pixels], image.to(maps), patch)), dim=1).max(0).indices


def _one_hot(regions: Tensor) -> Tensor:
    return F.one_hot(regions).permute(2, 0, 1)
