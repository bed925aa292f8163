"""Sources of regions by name.

==============  ====================================================================================================
cliptrase       CLIP's own self-correlation, as published.
timm:MODEL      Self-correlation of another frozen ViT, of timm: DINO, DINOv2, ... (CLIPtrase, supplement, table 2).
sam             SAM's automatic masks.
sam_points      SAM's masks for one point in each of CLIPtrase's regions.
grid            Controls, see ``regions.controls``.
random
shuffled
truth
==============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.refine import refinement
from san_cliptrase.regions.controls import GridRegions, RandomRegions, ShuffledRegions, TrueRegions
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.memory import RememberedRegions
from san_cliptrase.regions.refined import RefinedRegions
from san_cliptrase.regions.source import RegionSource

TIMM = "timm:"
ONE_IMAGE = ("cliptrase", f"{TIMM}MODEL", "sam", "sam_points", "grid", "random")
"""Sources that need nothing but an image."""
PLAIN = ("grid", "random", "truth")
"""Controls that are made without CLIP."""
SOURCES = (*ONE_IMAGE, "shuffled", "truth")


def check_source(name: str, known: Sequence[str] = SOURCES) -> None:
    """Refuse an unknown name.

    Raises:
        OptionError: Lists what is known.
    """
    if name not in known and not name.startswith(TIMM):
        raise OptionError(f"unknown source of regions {name!r}; choose one of: {', '.join(known)}")


def build_region_source(
    name: str,
    visual: ClipVisualEncoder,
    *,
    eps: float | None = None,
    min_samples: int | None = None,
    correlation: str = "cosine",
    scales: Sequence[float] = (1.0,),
    pretrained: str = "default",
    sam_model: str = "facebook/sam-vit-base",
    sam_grid: int = 32,
    grid_side: int = 3,
    refine: str = "none",
    keep_gb: float = 0.0,
) -> RegionSource:
    """Build a source of regions.

    Args:
        name: One of ``SOURCES``.
        visual: The frozen tower, see ``RegionFinder``; also ``eps``, ``min_samples``, ``correlation`` and ``scales``.
            Another ViT takes ``min_samples`` alone.
        pretrained: Of a timm model, see ``load_timm``.
        sam_model: Of SAM, see ``load_sam``.
        sam_grid: Of ``sam``: points along each side of the image.
        grid_side: Of ``grid``: squares along each side; of ``random``: the square root of the number of cells.
        refine: Refinement of the regions by the image's edges, see ``RefinedRegions``; not of ``grid``, ``random`` and
            ``truth``.
        keep_gb: Remember the regions of images that come again in so many gigabytes, but for ``grid``, ``random`` and
            ``truth``, which cost nothing; 0: do not.

    Raises:
        OptionError: There is no such source or timm model, and the message lists what there is; or an argument is out
            of range.
        WeightsError: Weights, or the package that SAM needs, are missing; the message says what to do.
    """
    check_source(name)
    if refinement(refine) is not None and (name in PLAIN or len(scales) > 1):
        raise OptionError(
            f"the regions of {name!r} are a control as they are: leave their refinement at none, not {refine!r}"
            if name in PLAIN
            else f"refined by {refine!r}, regions of several scales would be one partition: leave one of {list(scales)}"
        )
    if name == "grid":
        return GridRegions(grid_side)
    if name == "random":
        return RandomRegions(grid_side**2)
    if name == "truth":
        return TrueRegions()
    source: RegionSource
    if name.startswith(TIMM):
        from san_cliptrase.regions.timm_vit import TimmRegions, load_timm  # imports timm

        source = TimmRegions(load_timm(name.removeprefix(TIMM), pretrained), min_samples)
    else:
        source = RegionFinder(visual, eps, min_samples, correlation, scales)
        if name.startswith("sam"):
            from san_cliptrase.regions.sam import SamMasks, SamPoints, load_sam

            sam = load_sam(sam_model)
            source = SamMasks(*sam, source, sam_grid) if name == "sam" else SamPoints(*sam, source)
    if refinement(refine) is not None:
        source = RefinedRegions(source, refine)
    source = RememberedRegions(source, visual.depth, keep_gb) if keep_gb else source
    return ShuffledRegions(source) if name == "shuffled" else source
