"""The frozen CLIP vision tower with taps at block inputs, any image size, and batches with padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from san_cliptrase.clip.attention import AttentionRule, softmax_attention
from san_cliptrase.clip.blocks import run_block
from san_cliptrase.clip.positions import interpolate_positions
from san_cliptrase.clip.support import reject_unsupported
from san_cliptrase.errors import OptionError
from san_cliptrase.structures import ClipFeatures, Size


def resolve_layer(index: int, depth: int, asked_by: str = "") -> int:
    """Turn a tap, which may count from the end, into a block index.

    Args:
        index: -1 is the input of the last block, -2 that of the second-to-last; 0 the input of the first block and
            ``depth`` the output of the last.
        depth: Number of blocks.
        asked_by: The configuration key that names it, for the message.

    Raises:
        OptionError: The model has no such layer.
    """
    if not -depth <= index <= depth:
        raise OptionError(
            f"{asked_by}{': ' if asked_by else ''}layer {index} does not exist: with {depth} blocks, taps go from "
            f"-{depth} to {depth}"
        )
    return index + depth if index < 0 else index


class ClipVisualEncoder(nn.Module):
    """The frozen image tower of a CLIP: images in, the tokens that enter its blocks out.

    Args:
        vision: An open_clip ``VisionTransformer`` with a [CLS] token and standard blocks.
        interpolate_offset: See ``interpolate_positions``. CLIPtrase was published with 0.1, SAN with 0.
        trainable: Names of parameters of ``vision`` that stay trainable; SAN trains ``("positional_embedding",)``.

    Attributes:
        grid: (h, w), the patch grid that the positional embedding was trained at.

    Raises:
        OptionError: The tower is not such a transformer, or it has no parameter of a name in ``trainable``.
    """

    def __init__(self, vision: nn.Module, interpolate_offset: float = 0.0, trainable: Iterable[str] = ()) -> None:
        super().__init__()
        reject_unsupported(vision)
        self.vision = vision
        self.interpolate_offset = float(interpolate_offset)
        self.patch_size: Size = tuple(vision.conv1.kernel_size)
        self.grid: Size = tuple(vision.grid_size)
        self.width: int = vision.conv1.out_channels
        self.heads: int = self.blocks[0].attn.num_heads
        self.embed_dim: int = vision.proj.shape[1]
        self._freeze(tuple(trainable))

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, first to last."""
        return self.vision.transformer.resblocks

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def _freeze(self, trainable: tuple[str, ...]) -> None:
        parameters = dict(self.vision.named_parameters())
        if missing := sorted(set(trainable) - set(parameters)):
            raise OptionError(f"MODEL.CLIP.TRAINABLE: the vision tower has no parameter named {', '.join(missing)}")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trainable)
        self.train()

    def train(self, mode: bool = True) -> ClipVisualEncoder:
        """Frozen: stays in evaluation mode whatever the mode asked for."""
        return super().train(False)

    def forward(self, images: Tensor, taps: Sequence[int], sizes: Sequence[Size] | None = None) -> ClipFeatures:
        """Encode images as far as the last tap.

        A batch of mixed sizes gives, at the patches of each image, what that image gives alone: padded patches are
        hidden from attention and every image gets the positional embedding of its own grid.

        Args:
            images: (B, 3, H, W), normalised with the model's mean and std, padded at the bottom and the right.
            taps: Block indices, see ``resolve_layer``.
            sizes: True (height, width) of each image in pixels; None: all of the canvas is image. A patch that is
                partly image counts as image, its missing pixels as zero.

        Returns:
            ``ClipFeatures`` whose ``tokens`` have the resolved taps as keys.

        Raises:
            ValueError: A tap does not exist, none was asked for, or the sizes do not fit the canvas.
        """
        wanted = {resolve_layer(tap, self.depth) for tap in taps}
        if not wanted:
            raise ValueError("no taps: name at least one block whose input is wanted")
        whole = tuple(images.shape[-2:])
        sizes = [whole] * len(images) if sizes is None else [(int(h), int(w)) for h, w in sizes]
        _check_sizes(sizes, (len(images), *whole))
        tokens, valid = self._embed(images, None if all(size == whole for size in sizes) else sizes)
        grid, valid = tuple(valid.shape[-2:]), valid.flatten(1)
        bias = self.key_bias(valid)
        found = {}
        for index in range(max(wanted) + 1):
            if index:
                tokens = run_block(self.blocks[index - 1], tokens, bias=bias)
            if index in wanted:
                found[index] = tokens
        return ClipFeatures(found, grid, valid, tuple(sizes), self.patch_size)

    def run(
        self,
        tokens: Tensor,
        start: int,
        stop: int,
        attend: AttentionRule = softmax_attention,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Run blocks ``start`` to ``stop - 1`` (both through ``resolve_layer``) under one attention rule.

        Args:
            tokens: (B, T, C) entering block ``start``.
            bias: See ``key_bias``.

        Returns:
            (B, T, C) entering block ``stop``.
        """
        for block in self.blocks[resolve_layer(start, self.depth) : resolve_layer(stop, self.depth)]:
            tokens = run_block(block, tokens, attend, bias)
        return tokens

    @staticmethod
    def key_bias(valid: Tensor) -> Tensor | None:
        """Attention bias that hides padded patches: (B, 1, 1, T) with -inf at them, or None if there are none.

        Args:
            valid: (B, L) bool.
        """
        if torch.compiler.is_compiling() or bool(valid.all()):  # an exported graph takes one image, without padding
            return None
        keys = F.pad(valid, (1, 0), value=True)
        return torch.zeros(keys.shape, device=valid.device).masked_fill(~keys, -torch.inf)[:, None, None]

    def head(self, tokens: Tensor) -> Tensor:
        """Map what left the last block to the joint image-text space, ``ln_post(x) P``: (B, T, C) -> (B, T, E)."""
        return self.vision.ln_post(tokens) @ self.vision.proj

    def _embed(self, images: Tensor, sizes: Sequence[Size] | None) -> tuple[Tensor, Tensor]:
        """Patch, [CLS] and positional embedding, then ``ln_pre``: (B, T, C) and the validity of patches (B, h, w).

        Args:
            images: See :meth:`forward`.
            sizes: See :meth:`forward`; None: no image has padding.
        """
        ph, pw = self.patch_size
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % pw, 0, -height % ph)).to(self.vision.conv1.weight.dtype)
        if sizes is None:
            patches = self.vision.conv1(images)
            grid = tuple(patches.shape[-2:])
            patches = patches + self._positions(grid, grid).to(patches.dtype)
            valid = torch.ones_like(patches[:, 0], dtype=torch.bool)
        else:
            patches = self.vision.conv1(images * _rectangles(images, sizes))
            grids = [(-(-h // ph), -(-w // pw)) for h, w in sizes]
            positions = {grid: self._positions(grid, patches.shape[-2:]) for grid in set(grids)}
            patches = patches + torch.stack([positions[grid] for grid in grids]).to(patches.dtype)
            valid = _rectangles(patches, grids)[:, 0].bool()
        cls_token = (self.vision.class_embedding + self.vision.positional_embedding[0]).to(patches.dtype)
        tokens = torch.cat([cls_token.expand(len(images), 1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return self.vision.ln_pre(tokens), valid

    def _positions(self, grid: Size, canvas: Size) -> Tensor:
        """Positional embedding of one image's grid, zero in the rest of the padded canvas: (C, h, w)."""
        embedding = self.vision.positional_embedding[1:]
        maps = interpolate_positions(embedding, self.grid, grid, self.interpolate_offset)
        return F.pad(maps, (0, canvas[1] - grid[1], 0, canvas[0] - grid[0]))


def _rectangles(like: Tensor, sizes: Sequence[Size]) -> Tensor:
    """(B, 1, H, W) in the dtype of ``like``: one at the top-left rectangle of each size, zero elsewhere."""
    mask = like.new_zeros(len(like), 1, *like.shape[-2:])
    for row, (h, w) in zip(mask, sizes, strict=True):
        row[:, :h, :w] = 1
    return mask


def _check_sizes(sizes: Sequence[Size], canvas: tuple[int, int, int]) -> None:
    batch, height, width = canvas
    if len(sizes) != batch:
        raise ValueError(f"{len(sizes)} sizes were given for a batch of {batch} images")
    for size in sizes:
        if not (0 < size[0] <= height and 0 < size[1] <= width):
            raise ValueError(f"image size {size} does not fit the padded batch of {height}x{width}")
