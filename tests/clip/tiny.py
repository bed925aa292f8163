"""A random CLIP small enough to test in milliseconds: 4x4 patches of 8 px, 4 blocks."""

import open_clip
import torch

from san_cliptrase.clip.build import FrozenClip

VISION = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def tiny_open_clip(**vision) -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(embed_dim=16, vision_cfg={**VISION, **vision}, text_cfg=TEXT, quick_gelu=True).eval()


def tiny_clip(**options) -> FrozenClip:
    return FrozenClip(tiny_open_clip(), open_clip.SimpleTokenizer(context_length=TEXT["context_length"]), **options)


def images(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def pad_together(pictures: list[torch.Tensor]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """A batch of (3, H, W) pictures with rubbish in the padding, and their true sizes."""
    sizes = [tuple(p.shape[-2:]) for p in pictures]
    canvas = torch.full((len(pictures), 3, max(h for h, _ in sizes), max(w for _, w in sizes)), 7.0)
    for row, picture, (h, w) in zip(canvas, pictures, sizes, strict=True):
        row[:, :h, :w] = picture
    return canvas, sizes
