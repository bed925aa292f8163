"""Where the regions that CLIPtrase classifies come from, by name.

==============  ====================================================================================================
cliptrase       CLIP's own self-correlation, as published; nothing else is built.
timm:MODEL      Self-correlation of another frozen ViT, of timm: DINO, DINOv2, ... (CLIPtrase, supplement, table 2).
sam             SAM's automatic masks.
sam_points      SAM's masks for one point in each of CLIPtrase's regions.
==============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from san_cliptrase.errors import OptionError
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.sam import SamMasks, SamPoints, load_sam
from san_cliptrase.regions.timm_vit import TimmRegions, load_timm
from san_cliptrase.structures import ClipFeatures, Size

MaskSource = Callable[[Sequence[Tensor], Sequence[Size], ClipFeatures], list[Tensor | None]]
"""Images (3, H, W) in [0, 1], RGB; for each the (height, width) that its regions are wanted at; CLIP's features with
CLIPtrase's taps. Gives for each image the region (height, width) int64 of every pixel, numbered in any way, or None
where it has none."""

OWN, TIMM = "cliptrase", "timm:"
SOURCES = (OWN, f"{TIMM}MODEL", "sam", "sam_points")


def build_mask_source(
    name: str,
    finder: RegionFinder,
    pretrained: str = "default",
    sam_model: str = "facebook/sam-vit-base",
    sam_grid: int = 32,
) -> MaskSource | None:
    """Build a source of regions.

    Args:
        name: One of ``SOURCES``.
        finder: Whose regions SAM refines; gives DBSCAN's core size too.
        pretrained: Of a timm model, see ``load_timm``.
        sam_model: Of SAM, see ``load_sam``.
        sam_grid: Of ``sam``: points along each side of the picture.

    Returns:
        None for ``cliptrase``.

    Raises:
        OptionError: There is no such source or timm model; the message lists what there is.
        WeightsError: Weights, or the package that SAM needs, are missing; the message says what to do.
    """
    if name == OWN:
        return None
    if name.startswith(TIMM):
        return TimmRegions(load_timm(name.removeprefix(TIMM), pretrained), finder.min_samples)
    if name == "sam":
        return SamMasks(*load_sam(sam_model), finder, sam_grid)
    if name == "sam_points":
        return SamPoints(*load_sam(sam_model), finder)
    raise OptionError(f"unknown source of regions {name!r}; choose one of: {', '.join(SOURCES)}")
