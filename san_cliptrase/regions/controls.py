"""Sources of regions that are controls: what others are worth is measured beside them.

=============  ======================================================================================================
grid           Squares of equal size: place without content.
random         Cells around random points (Voronoi), drawn anew each time.
shuffled       The regions of another image of the batch: the same shapes in the wrong place.
truth          The ground truth's classes: what perfect regions would give.
=============  ======================================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.errors import OptionError
from san_cliptrase.regions.maps import image_grids
from san_cliptrase.regions.pixels import regions_from_pixels
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions, Size

UNLABELLED = -1
"""The class of pixels and patches without a label."""


class GridRegions(RegionSource):
    """``side`` x ``side`` rectangles over each image, equal to within a patch."""

    def __init__(self, side: int = 3) -> None:
        self.side = side

    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """The same for all images of one size."""
        cells = torch.full_like(features.valid, UNLABELLED, dtype=torch.int64).unflatten(1, features.grid)
        for image, (h, w) in zip(cells, image_grids(features.valid, features.grid), strict=True):
            rows, columns = (torch.arange(n, device=cells.device) * self.side // n for n in (h, w))
            image[:h, :w] = rows[:, None] * self.side + columns
        return _regions_from_patches(cells.flatten(1), features)


class RandomRegions(RegionSource):
    """Voronoi cells of ``count`` points drawn uniformly over each image from PyTorch's generator."""

    def __init__(self, count: int = 9) -> None:
        self.count = count

    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """Others each time."""
        h, w = features.grid
        grid = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        place = torch.stack(grid, dim=-1).flatten(0, 1).float()
        cells = []
        for size, valid in zip(image_grids(features.valid, features.grid), features.valid, strict=True):
            centres = torch.rand(self.count, 2) * torch.tensor(size)
            nearest = torch.cdist(place + 0.5, centres).argmin(1).to(valid.device)
            cells.append(nearest.where(valid, UNLABELLED))
        return _regions_from_patches(torch.stack(cells), features)


class ShuffledRegions(RegionSource):
    """Every image gets the regions of the one before it in the batch, the first those of the last.

    Args:
        source: Whose regions are shuffled.
    """

    needs_batch = True

    def __init__(self, source: RegionSource) -> None:
        self.source = source
        self.taps, self.needs_images, self.needs_labels = source.taps, source.needs_images, source.needs_labels

    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """Masks alone, cut to the images that they come to.

        Raises:
            OptionError: There is only one image.
        """
        if len(features.valid) == 1:
            raise OptionError(
                "regions of one image cannot be shuffled: use batches of two images or more (TEST.BATCH_SIZE and "
                "SOLVER.IMS_PER_BATCH; the last test batch counts too) and no panels (VIS_IMAGES 0)"
            )
        masks = self.source(images, features, labels).masks.roll(1, dims=0)
        masks = masks * features.valid.unflatten(1, features.grid)[:, None]
        present = masks.flatten(2).any(dim=2)
        order = present.argsort(dim=1, descending=True, stable=True)
        masks = masks.gather(1, order[..., None, None].expand_as(masks))
        return Regions(masks, present.gather(1, order))

    def forget(self) -> None:
        """Forget what the source remembers."""
        self.source.forget()


class TrueRegions(RegionSource):
    """One region for each class of the ground truth; pixels without a label are together one more, patches in none."""

    needs_labels = True

    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """From label maps alone.

        Raises:
            OptionError: An image has no label map.
        """
        masks = _regions_from_patches(patch_classes(features, labels), features)
        partitions = [_pixel_classes(*one, features) for one in zip(labels, features.sizes, strict=True)]
        return dataclasses.replace(masks, labels=regions_from_pixels(partitions, features).labels)


def canvas_labels(labels: Tensor | None, canvas: Size, ignore_label: int) -> Tensor | None:
    """A label map as sources of regions and attention rules read it: padded, without a class where none is known.

    Args:
        labels: (H, W) class indices; None: there is no label map.
        canvas: (height, width) of the padded batch at the scale of the labels, which the patch grid divides evenly.
        ignore_label: Value of pixels without a label.

    Returns:
        (height, width) int64, -1 at padding and at pixels without a label.
    """
    if labels is None:
        return None
    known = labels.long().where(labels != ignore_label, UNLABELLED)
    return F.pad(known, (0, canvas[1] - labels.shape[1], 0, canvas[0] - labels.shape[0]), value=UNLABELLED)


def patch_classes(features: ClipFeatures, labels: Sequence[Tensor | None]) -> Tensor:
    """The class that covers most of each patch: (B, L), -1 where that is no class, or the patch is padding.

    Args:
        features: Of the images.
        labels: See ``canvas_labels``.

    Raises:
        OptionError: An image has no label map.
    """
    patches = []
    for index, valid in enumerate(features.valid):
        image = labels[index] if index < len(labels) else None
        if image is None:
            raise OptionError(f"image {index} of the batch has no label map to take the ground truth from")
        image = image.to(valid.device)
        classes = image.unique()
        classes = torch.cat([classes[classes >= 0], classes[classes < 0]])  # the lowest class wins a tie
        shares = F.adaptive_avg_pool2d((image == classes[:, None, None]).float(), features.grid)
        patches.append(classes[shares.flatten(1).argmax(0)].where(valid, UNLABELLED))
    return torch.stack(patches)


def _pixel_classes(labels: Tensor, size: Size, features: ClipFeatures) -> Tensor:
    """The class (H, W) of each pixel that CLIP sees of an image; see ``canvas_labels``."""
    rows, columns = (
        torch.arange(length, device=labels.device) * whole // (patches * patch)
        for length, whole, patches, patch in zip(size, labels.shape, features.grid, features.patch_size, strict=True)
    )
    return labels[rows][:, columns].to(features.valid.device)


def _regions_from_patches(classes: Tensor, features: ClipFeatures) -> Regions:
    """Regions of equal class on the patch grid, (B, L); -1 belongs to none."""
    per_image = [image.unique() for image in classes]
    per_image = [values[values >= 0] for values in per_image]
    masks = features.valid.new_zeros(len(classes), max(map(len, per_image)), classes.shape[1])
    for image, values, out in zip(classes, per_image, masks, strict=True):
        out[: len(values)] = image == values[:, None]
    return Regions(masks.unflatten(2, features.grid).float(), masks.any(dim=2))


def image_features(features: ClipFeatures, sizes: Sequence[Size], canvas: Size) -> ClipFeatures:
    """Features of a padded canvas that CLIP has seen whole, with the images told from the padding.

    Args:
        features: Whose images fill the canvas.
        sizes: (height, width) in pixels of each image.
        canvas: (height, width) in pixels of the padded batch.

    Returns:
        The features with ``valid`` at the patches that show some of the images, and ``sizes`` of these as CLIP sees
        them.
    """
    valid = torch.zeros(len(sizes), *features.grid, dtype=torch.bool, device=features.valid.device)
    for flags, (h, w) in zip(valid, sizes, strict=True):
        flags[: -(-h * features.grid[0] // canvas[0]), : -(-w * features.grid[1] // canvas[1])] = True
    seen = tuple(
        tuple(-(-side * whole // long) for side, whole, long in zip(size, own, canvas, strict=True))
        for size, own in zip(sizes, features.sizes, strict=True)
    )
    return dataclasses.replace(features, valid=valid.flatten(1), sizes=seen)
