"""Regions of images that come again: a source that always finds the same would only find them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from san_cliptrase.clip.cache import BoundedMemory, content_key
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions


class RememberedRegions(RegionSource):
    """Asks a source for the regions of images that it has not seen yet, one by one, and remembers the others'.

    Args:
        source: What it finds depends on the image alone; its masks are rounded to half precision.
        depth: Number of CLIP's blocks.
        gigabytes: Regions are kept until they take so much; what comes later is found each time.
    """

    def __init__(self, source: RegionSource, depth: int, gigabytes: float) -> None:
        self.source = source
        self.taps, self.needs_images, self.needs_labels = source.taps, source.needs_images, source.needs_labels
        self._tokens = tuple(resolve_layer(tap, depth) for tap in source.taps)
        self._kept: BoundedMemory[Regions] = BoundedMemory(gigabytes)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """The source's regions of each image, found or remembered."""
        found = []
        for index in range(len(features.valid)):
            one = slice(index, index + 1)
            tokens = {tap: features.tokens[tap][one] for tap in self._tokens}
            own = dataclasses.replace(features, tokens=tokens, valid=features.valid[one], sizes=features.sizes[one])
            found.append(self._of_one(images[one], own, labels[one]))
        return _together(found)

    def forget(self) -> None:
        """Forget everything: CLIP has got other weights."""
        self._kept.clear()
        self.source.forget()

    def _of_one(self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None]) -> Regions:
        given = [*features.tokens.values(), features.valid]
        given += images if self.needs_images else []
        given += [own for own in labels if own is not None] if self.needs_labels else []
        key = content_key(given, f"{features.grid} {features.sizes}")
        found = self._kept.get(key)
        if found is None:
            found = self.source(images, features, labels)
            found = dataclasses.replace(found, masks=found.masks.half())
            parts = (found.masks, found.maps, *(found.labels or ()))
            self._kept.keep(key, found, sum(part.nbytes for part in parts if part is not None))
        return found


def _together(found: Sequence[Regions]) -> Regions:
    """The regions of single images as those of a batch."""
    labels = None if found[0].labels is None else tuple(own for regions in found for own in regions.labels)
    maps = None
    if found[0].maps is not None:
        maps = pad_sequence([regions.maps[0] for regions in found], batch_first=True, padding_value=-torch.inf)
    return Regions(
        masks=pad_sequence([regions.masks[0] for regions in found], batch_first=True).float(),
        valid=pad_sequence([regions.valid[0] for regions in found], batch_first=True),
        labels=labels,
        maps=maps,
    )
