"""How CLIP's tokens enter the side adapter."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Of all layer norms of the side adapter; torch's default is 1e-5.
EPS = 1e-6


class ClipFusion(nn.Module):
    """Addition of CLIP patch tokens to the side adapter's: ``x + resize(W LN(z) + b)``.

    Args:
        clip_width: C, channels of CLIP's tokens.
        width: C', channels of the side adapter's.
    """

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(clip_width, eps=EPS)
        self.proj = nn.Linear(clip_width, width)
        # detectron2's "xavier" filling, which SAN uses here: uniform with variance 1/C, no bias.
        nn.init.kaiming_uniform_(self.proj.weight, a=1)
        nn.init.zeros_(self.proj.bias)

    def forward(self, patches: Tensor, grid: tuple[int, int], clip_map: Tensor) -> Tensor:
        """Fuse (B, L', C') patches on ``grid`` with a CLIP map (B, C, h, w)."""
        projected = self.proj(self.norm(clip_map.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        resized = F.interpolate(projected, size=grid, mode="bilinear", align_corners=False)
        return patches + resized.flatten(2).transpose(1, 2)
