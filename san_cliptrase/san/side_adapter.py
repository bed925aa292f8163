"""The side adapter: a small ViT beside the frozen CLIP, which sees the image in detail and CLIP's tokens by addition.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from san_cliptrase.errors import OptionError
from san_cliptrase.san.fusion import EPS, ClipFusion
from san_cliptrase.structures import ClipFeatures

DEFAULT_FUSION: Mapping[int, int] = MappingProxyType({0: 0, 1: 3, 2: 6, 3: 9})

_KEY = "MODEL.SAN.SIDE"

InitialiseQueries = Callable[[Tensor, Tensor], Tensor]


class SideTokens(NamedTuple):
    """What leaves one block of the side adapter.

    Attributes:
        queries: (B, Q, C').
        patches: (B, L', C'), row by row of ``grid``.
        grid: (h', w'), the side adapter's patch grid.
    """

    queries: Tensor
    patches: Tensor
    grid: tuple[int, int]


class SideAdapter(nn.Module):
    """A ViT over image patches and learned queries, without [CLS] and final norm.

    With ``p`` the positions of queries and patches, ``x_0 = fuse_0([queries; patch_embed(image)] + p)`` and
    ``x_i = fuse_i(block_i(x_{i-1} + p))``, the ``p`` left out for i = 1 because ``x_0`` already holds it.

    Args:
        image_size: Side of the square canvas in pixels whose grid ``pos_embed`` is learned for.
        patch_size: Side of a patch in pixels.
        width: C', channels.
        depth: Number of blocks.
        heads: Attention heads of a block.
        num_queries: Q.
        clip_width: C, channels of CLIP's tokens.
        fusion: side block -> CLIP tap. Tokens entering CLIP block ``tap`` are added to what leaves that side block;
            side block 0 is the embedding.
        supervised: Blocks, counted from 1, whose output is decoded and supervised; the last must be ``depth``.

    Attributes:
        taps: The CLIP taps that ``forward`` needs.

    Raises:
        OptionError: The sizes do not fit together.
    """

    def __init__(
        self,
        image_size: int = 640,
        patch_size: int = 16,
        width: int = 240,
        depth: int = 8,
        heads: int = 6,
        num_queries: int = 100,
        clip_width: int = 768,
        fusion: Mapping[int, int] = DEFAULT_FUSION,
        supervised: Sequence[int] = (7, 8),
    ) -> None:
        super().__init__()
        _check_sizes(image_size, patch_size, width, heads)
        _check_blocks(depth, fusion, supervised)
        self.native_grid = (image_size // patch_size,) * 2
        self.patch_size, self.width, self.num_queries = patch_size, width, num_queries
        self.supervised = frozenset(supervised)
        self.tap_of = dict(sorted(fusion.items()))
        self.patch_embed = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, self.native_grid[0] * self.native_grid[1], width))
        self.query_embed = nn.Parameter(torch.empty(1, num_queries, width))
        self.query_pos_embed = nn.Parameter(torch.empty(1, num_queries, width))
        norm = partial(nn.LayerNorm, eps=EPS)
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.fusion = nn.ModuleDict({str(block): ClipFusion(clip_width, width) for block in self.tap_of})
        self._reset_parameters()

    @property
    def taps(self) -> tuple[int, ...]:
        """CLIP block inputs that must be present in the features given to ``forward``."""
        return tuple(sorted(set(self.tap_of.values())))

    def _reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.query_embed, std=0.02)
        nn.init.normal_(self.query_pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, images: Tensor, features: ClipFeatures, initialise: InitialiseQueries | None = None
    ) -> list[SideTokens]:
        """Run the adapter beside CLIP's features of the same images.

        Args:
            images: (B, 3, H, W), normalised as for CLIP; H and W multiples of the patch size.
            features: CLIP's tokens of these images (at CLIP's own resolution) with the ``taps``.
            initialise: Maps the learned queries (1, Q, C') and the map (B, C', h', w') of patch tokens that enter
                block 1 (position and first fusion included) to the queries (B, Q, C'). None: the learned ones.

        Returns:
            One entry per supervised block, the final block last.

        Raises:
            OptionError: The image does not divide into patches.
        """
        patches, pos_embed, grid = self._embed(images, features)
        queries = self.query_embed
        if initialise is not None:
            queries = initialise(queries, patches.transpose(1, 2).unflatten(2, grid))
        tokens = torch.cat([(queries + self.query_pos_embed).expand(len(images), -1, -1), patches], dim=1)
        position = torch.cat([self.query_pos_embed, pos_embed], dim=1)
        outputs = []
        for index, block in enumerate(self.blocks, start=1):
            tokens = block(tokens if index == 1 else tokens + position)
            queries, patches = tokens.split([self.num_queries, grid[0] * grid[1]], dim=1)
            patches = self._fuse(index, patches, grid, features)
            tokens = torch.cat([queries, patches], dim=1)
            if index in self.supervised:
                outputs.append(SideTokens(queries, patches, grid))
        return outputs

    def embed(self, images: Tensor, features: ClipFeatures) -> Tensor:
        """The map (B, C', h', w') of patch tokens that enter block 1: position and first fusion included."""
        patches, _, grid = self._embed(images, features)
        return patches.transpose(1, 2).unflatten(2, grid)

    def _embed(self, images: Tensor, features: ClipFeatures) -> tuple[Tensor, Tensor, tuple[int, int]]:
        grid = self._grid(images)
        pos_embed = self._positions(grid)
        patches = self.patch_embed(images).flatten(2).transpose(1, 2) + pos_embed
        return self._fuse(0, patches, grid, features), pos_embed, grid

    def _fuse(self, block: int, patches: Tensor, grid: tuple[int, int], features: ClipFeatures) -> Tensor:
        if block not in self.tap_of:
            return patches
        return self.fusion[str(block)](patches, grid, features.patch_map(self.tap_of[block]))

    def _grid(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise OptionError(
                f"images of {height}x{width} pixels do not divide into patches of {self.patch_size}: "
                f"pad them to a multiple of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.native_grid:
            return self.pos_embed
        maps = self.pos_embed.transpose(1, 2).unflatten(2, self.native_grid)
        maps = F.interpolate(maps, size=grid, mode="bicubic", align_corners=False)
        return maps.flatten(2).transpose(1, 2)


def _check_sizes(image_size: int, patch_size: int, width: int, heads: int) -> None:
    if image_size % patch_size:
        raise OptionError(f"{_KEY}.IMAGE_SIZE {image_size} is no multiple of {_KEY}.PATCH_SIZE {patch_size}")
    if width % heads:
        raise OptionError(f"{_KEY}.WIDTH {width} is no multiple of {_KEY}.HEADS {heads}")


def _check_blocks(depth: int, fusion: Mapping[int, int], supervised: Sequence[int]) -> None:
    if outside := [block for block in fusion if not 0 <= block <= depth]:
        raise OptionError(
            f"{_KEY}.FUSION names blocks {outside} of the side adapter; with {_KEY}.DEPTH {depth} they go from 0 to "
            f"{depth}"
        )
    if not supervised or max(supervised) != depth or min(supervised) < 1:
        raise OptionError(
            f"{_KEY}.SUPERVISED is {tuple(supervised)}; with {_KEY}.DEPTH {depth} its blocks go from 1 to {depth}, and "
            f"{depth} is one of them"
        )
