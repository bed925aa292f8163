"""A CLIP and a SAN small enough to test in milliseconds: CLIP on 8 px patches, side adapter on patches of half that."""

import open_clip
import torch

from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.san import MaskDecoder, SideAdapter, SideAdapterNetwork, build_query_init
from san_cliptrase.structures import Regions

CLIP_BLOCKS, CLIP_WIDTH, WIDTH, QUERIES = 2, 32, 24, 6


def tiny_clip() -> ClipVisualEncoder:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 4, "width": CLIP_WIDTH, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    return ClipVisualEncoder(open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).visual).double()


def tiny_adapter(**changes) -> SideAdapter:
    sizes = {"image_size": 32, "patch_size": 4, "width": WIDTH, "depth": 3, "heads": 2, "num_queries": QUERIES}
    return SideAdapter(
        **{**sizes, "clip_width": CLIP_WIDTH, "fusion": {0: 0, 1: 1, 2: 2}, "supervised": (2, 3), **changes}
    )


def tiny_san(name: str = "off", bias_sets: int = 1, **init) -> SideAdapterNetwork:
    torch.manual_seed(1)
    adapter, decoder = tiny_adapter(), MaskDecoder(WIDTH, 16, heads=2, bias_sets=bias_sets)
    query_init = build_query_init(name, clip_width=CLIP_WIDTH, width=WIDTH, tap=3, **init)
    return SideAdapterNetwork(adapter, decoder, query_init).double()


def images(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2), dtype=torch.double)


def encode(clip: ClipVisualEncoder, pixels: torch.Tensor, san: SideAdapterNetwork, sizes=None):
    return clip(pixels, (*san.taps, *recognition_taps(clip, CLIP_BLOCKS)), sizes)


def partition(labels: torch.Tensor) -> Regions:
    """Regions of a label map (B, h, w), in the order of the labels; -1 is in no region."""
    masks = torch.stack([labels == label for label in range(int(labels.max()) + 1)], dim=1)
    present = masks.flatten(2).any(-1)
    order = present.int().argsort(dim=1, descending=True, stable=True)
    masks = masks.gather(1, order[..., None, None].expand_as(masks))
    return Regions(masks=masks.double(), valid=present.gather(1, order))
