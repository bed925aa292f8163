"""Where the regions of SAN's queries come from: CLIPtrase, or one of the controls that it is compared with.

=============  ======================================================================================================
cliptrase      CLIPtrase's regions of the image, at one radius of DBSCAN or at several.
grid           Squares of equal size: place without content.
random         Cells around random points (Voronoi), drawn anew each time.
shuffled       CLIPtrase's regions of another image of the batch: the same shapes in the wrong place.
truth          The ground truth's classes on the patch grid: what perfect regions would give.
=============  ======================================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from san_cliptrase.clip.cache import BoundedMemory, content_key
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.errors import OptionError
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.maps import image_grids
from san_cliptrase.structures import ClipFeatures, Regions, Size

REGION_SOURCES = ("cliptrase", "grid", "random", "shuffled", "truth")


class RegionSource:
    """Regions of a batch by the name of their source.

    Args:
        name: One of ``REGION_SOURCES``.
        finder: Of the frozen CLIP's regions.
        scales: Multiples of DBSCAN's radius; the regions found at each are taken together.
        side: Of ``grid``: squares along each side; of ``random``: the square root of the number of cells.
        ignore_label: Of ``truth``: pixels that belong to no region.
        keep_gb: Of ``cliptrase`` and ``shuffled``: remember regions, for pictures that come again, in so many
            gigabytes; every picture is then clustered by itself. 0: off.

    Raises:
        OptionError: There is no source of that name; the message lists them. Or no scale is given.
    """

    def __init__(
        self,
        name: str,
        finder: RegionFinder,
        scales: Sequence[float] = (1.0,),
        side: int = 3,
        ignore_label: int = 255,
        keep_gb: float = 0.0,
    ) -> None:
        if name not in REGION_SOURCES:
            raise OptionError(f"unknown source of regions {name!r}; choose one of: {', '.join(REGION_SOURCES)}")
        if not scales or min(scales) <= 0:
            raise OptionError(f"scales of DBSCAN's radius must be above 0, at least one of them; got {list(scales)}")
        self.name, self.finder, self.scales = name, finder, tuple(scales)
        self.side, self.ignore_label = side, ignore_label
        self._kept: BoundedMemory[Tensor] | None = BoundedMemory(keep_gb) if keep_gb else None

    @property
    def taps(self) -> tuple[int, ...]:
        """CLIP taps that the source needs."""
        return self.finder.taps if self.name in ("cliptrase", "shuffled") else ()

    @property
    def needs_labels(self) -> bool:
        """Whether the source reads label maps."""
        return self.name == "truth"

    @property
    def needs_batch(self) -> bool:
        """Whether the regions of an image come from the others of its batch."""
        return self.name == "shuffled"

    @torch.no_grad()
    def __call__(self, features: ClipFeatures, labels: Sequence[Tensor | None], canvas: Size) -> Regions:
        """Find regions.

        Args:
            features: CLIP's tokens with ``taps``; ``valid`` marks the patches that show some of the picture.
            labels: (H, W) class indices of each image's part of the canvas; may be empty unless ``needs_labels``.
            canvas: (height, width) in pixels of the padded batch.

        Raises:
            OptionError: ``shuffled`` is asked for a batch of one image, or ``truth`` for images without labels.
        """
        if self.name == "grid":
            return grid_regions(features, self.side)
        if self.name == "random":
            return random_regions(features, self.side**2)
        if self.name == "truth":
            return truth_regions(features, labels, canvas, self.ignore_label)
        regions = self._cliptrase_regions(features)
        return shuffle_regions(regions, features) if self.name == "shuffled" else regions

    def forget(self) -> None:
        """Forgets the regions that were kept: CLIP has got other weights."""
        if self._kept:
            self._kept.clear()

    def _cliptrase_regions(self, features: ClipFeatures) -> Regions:
        if self._kept is None:
            return self.finder.regions(features, self.scales)
        masks, depth = [], self.finder.visual.depth
        for image in range(len(features.valid)):
            taps = (resolve_layer(tap, depth) for tap in self.taps)
            tokens = {tap: features.tokens[tap][image : image + 1] for tap in taps}
            own = ClipFeatures(tokens, features.grid, features.valid[image : image + 1])
            key = content_key((*tokens.values(), own.valid), str(features.grid))
            found = self._kept.get(key)
            if found is None:
                found = self.finder.regions(own, self.scales).masks[0].bool()
                self._kept.keep(key, found, found.nbytes)
            masks.append(found)
        padded = pad_sequence(masks, batch_first=True)
        return Regions(padded.float(), padded.flatten(2).any(2))


def grid_regions(features: ClipFeatures, side: int) -> Regions:
    """``side`` x ``side`` rectangles over each picture, equal to within a patch."""
    labels = torch.full_like(features.valid, -1, dtype=torch.int64).unflatten(1, features.grid)
    for image, (h, w) in zip(labels, image_grids(features.valid, features.grid), strict=True):
        rows, columns = (torch.arange(n, device=labels.device) * side // n for n in (h, w))
        image[:h, :w] = rows[:, None] * side + columns
    return _regions_from_labels(labels.flatten(1), features)


def random_regions(features: ClipFeatures, count: int) -> Regions:
    """Voronoi cells of ``count`` points drawn uniformly over each picture from PyTorch's generator."""
    h, w = features.grid
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), dim=-1).flatten(0, 1).float()
    labels = []
    for size, valid in zip(image_grids(features.valid, features.grid), features.valid, strict=True):
        centres = torch.rand(count, 2) * torch.tensor(size)
        nearest = torch.cdist(place + 0.5, centres).argmin(1).to(valid.device)
        labels.append(nearest.where(valid, -1))
    return _regions_from_labels(torch.stack(labels), features)


def shuffle_regions(regions: Regions, features: ClipFeatures) -> Regions:
    """Every image gets the regions of the one before it in the batch, the first those of the last.

    Raises:
        OptionError: There is only one image.
    """
    if len(regions.masks) == 1:
        raise OptionError(
            "regions of one image cannot be shuffled: use batches of two images or more (TEST.BATCH_SIZE and "
            "SOLVER.IMS_PER_BATCH; the last test batch counts too) and no pictures (VIS_IMAGES 0)"
        )
    masks = regions.masks.roll(1, dims=0) * features.valid.unflatten(1, features.grid)[:, None]
    present = masks.flatten(2).any(dim=2)
    order = present.argsort(dim=1, descending=True, stable=True)
    masks = masks.gather(1, order[..., None, None].expand_as(masks))
    return Regions(masks, present.gather(1, order))


def truth_regions(features: ClipFeatures, labels: Sequence[Tensor | None], canvas: Size, ignore_label: int) -> Regions:
    """One region per class of the ground truth on the patch grid; see :func:`patch_classes`."""
    return _regions_from_labels(patch_classes(features, labels, canvas, ignore_label), features)


def patch_classes(features: ClipFeatures, labels: Sequence[Tensor | None], canvas: Size, ignore_label: int) -> Tensor:
    """The class that covers most of each patch: (B, L), -1 where that is no class, or the patch is padding.

    Raises:
        OptionError: An image has no label map.
    """
    patches = []
    for index, (image, valid) in enumerate(zip(labels, features.valid, strict=True)):
        if image is None:
            raise OptionError(f"image {index} of the batch has no label map to take the ground truth from")
        below, right = canvas[0] - image.shape[0], canvas[1] - image.shape[1]
        padded = F.pad(image.to(valid.device), (0, right, 0, below), value=ignore_label)
        classes = padded.unique()
        shares = F.adaptive_avg_pool2d((padded == classes[:, None, None]).float(), features.grid)
        found = classes[shares.flatten(1).argmax(0)]
        patches.append(found.where(valid & (found != ignore_label), -1))
    return torch.stack(patches)


def _regions_from_labels(labels: Tensor, features: ClipFeatures) -> Regions:
    """Regions of equal label on the patch grid, (B, L); -1 belongs to none."""
    per_image = [image.unique() for image in labels]
    per_image = [values[values >= 0] for values in per_image]
    masks = features.valid.new_zeros(len(labels), max(map(len, per_image)), labels.shape[1])
    for image, values, out in zip(labels, per_image, masks, strict=True):
        out[: len(values)] = image == values[:, None]
    return Regions(masks.unflatten(2, features.grid).float(), masks.any(dim=2))


def picture_features(features: ClipFeatures, sizes: Sequence[Size], canvas: Size) -> ClipFeatures:
    """The features with ``valid`` at the patches of the canvas that show some of the pictures of these pixel sizes."""
    valid = torch.zeros(len(sizes), *features.grid, dtype=torch.bool, device=features.valid.device)
    for flags, (h, w) in zip(valid, sizes, strict=True):
        flags[: -(-h * features.grid[0] // canvas[0]), : -(-w * features.grid[1] // canvas[1])] = True
    return dataclasses.replace(features, valid=valid.flatten(1))
