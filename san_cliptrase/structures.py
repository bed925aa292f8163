"""The two contracts that the rooms of this package share, and the letters their shapes are written in.

Letters:
    B images, H W pixels, h w patch grid, L = h*w patches, T = 1+L tokens ([CLS] first), C ViT width,
    M attention heads, d = C/M, E joint text-image width, N regions (padded to the batch's largest),
    Q queries, K classes. Tokens are batch-first everywhere; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width), in pixels or patches."""


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ClipFeatures:
    """What one pass of a frozen CLIP ViT hands to everything that follows.

    Attributes:
        tokens: block index -> (B, T, C), the tokens that ENTER that block (0: after ``ln_pre``; the number of
            blocks: what leaves the last one). Only the taps that were asked for are present.
        grid: (h, w), the patch grid of the padded batch.
        valid: (B, L) bool, False at patches that lie in an image's padding.
        sizes: per image the (height, width) in pixels that CLIP sees of it, without padding.
        patch_size: (height, width) of a patch in pixels.
    """

    tokens: Mapping[int, Tensor]
    grid: Size
    valid: Tensor
    sizes: tuple[Size, ...]
    patch_size: Size

    def __post_init__(self) -> None:
        h, w = self.grid
        _expect(self.valid.dtype == torch.bool, f"valid must be bool, got {self.valid.dtype}")
        _expect(
            self.valid.ndim == 2 and self.valid.shape[1] == h * w,
            f"valid must be (B, {h * w}) for the grid {self.grid}, got {tuple(self.valid.shape)}",
        )
        _expect(len(self.sizes) == len(self.valid), f"{len(self.sizes)} sizes for a batch of {len(self.valid)} images")
        for index, tokens in self.tokens.items():
            _expect(
                tokens.ndim == 3 and tokens.shape[:2] == (self.valid.shape[0], 1 + h * w),
                f"tokens[{index}] must be ({self.valid.shape[0]}, {1 + h * w}, C), got {tuple(tokens.shape)}",
            )

    def patch_map(self, index: int) -> Tensor:
        """Patch tokens entering block ``index`` as a map, (B, C, h, w)."""
        patches = self.tokens[index][:, 1:]
        return patches.transpose(1, 2).unflatten(2, self.grid)


@dataclass(frozen=True)
class Regions:
    """Regions of each image on the patch grid, and what the region of each pixel follows from.

    SAN reads the masks. The training-free reading needs a region for every pixel, which costs more than the masks do:
    ``regions.pixels.pixel_partition`` derives it where it is asked for, from ``labels``, else ``maps``, else the masks.

    Attributes:
        masks: (B, N, h, w) in [0, 1]; zero at padded patches and for absent regions.
        valid: (B, N) bool, False where an image has fewer than N regions. Present regions come first.
        labels: per image the region (H, W) int64 of each pixel at the size that CLIP sees, 0 to the number of regions
            without gaps, or None where the image has no region.
        maps: (B, M, L), see ``regions.maps.region_maps``: a pixel is of the region whose map is largest there.
    """

    masks: Tensor
    valid: Tensor
    labels: tuple[Tensor | None, ...] | None = None
    maps: Tensor | None = None

    def __post_init__(self) -> None:
        _expect(self.masks.ndim == 4, f"masks must be (B, N, h, w), got {tuple(self.masks.shape)}")
        _expect(
            self.valid.dtype == torch.bool and self.valid.shape == self.masks.shape[:2],
            f"valid must be bool of shape {tuple(self.masks.shape[:2])}, "
            f"got {self.valid.dtype} {tuple(self.valid.shape)}",
        )
