"""What tests of regions share: regions that are given, and other models, tiny and random, as folders."""

from pathlib import Path

import timm
import torch

from san_cliptrase.regions.pixels import regions_from_pixels
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 2, "num_classes": 0}


class GivenRegions(RegionSource):
    """A source that always finds the same regions of pixels."""

    def __init__(self, partitions):
        self.partitions = partitions

    def __call__(self, images, features, labels=()):
        return regions_from_pixels(self.partitions, features)


def empty_features(*sizes, patch=16):
    """Features without tokens of images of these pixel sizes, padded together."""
    grids = [(-(-h // patch), -(-w // patch)) for h, w in sizes]
    h, w = (max(sides) for sides in zip(*grids, strict=True))
    valid = torch.zeros(len(sizes), h, w, dtype=torch.bool)
    for flags, (rows, columns) in zip(valid, grids, strict=True):
        flags[:rows, :columns] = True
    return ClipFeatures({}, (h, w), valid.flatten(1), sizes, (patch, patch))


def save_vit(folder: Path, **shape) -> str:
    """A random ViT of timm as ``lab.pretrain`` writes it; the name of its regions."""
    torch.manual_seed(0)
    shape = {**VIT, **shape}
    model = timm.create_model("vit_tiny_patch16_224", **shape)
    timm.models.save_for_hf(model, str(folder), model_args=shape, safe_serialization=True)
    return f"timm:local-dir:{folder}"


def save_sam(folder: Path) -> str:
    """A random SAM of 64 pixels with 8x8 patches of 8, where transformers is installed."""
    import transformers

    torch.manual_seed(0)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    config = transformers.SamConfig(
        vision_config={
            **vision, "output_channels": 16, "mlp_dim": 16, "window_size": 4, "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    transformers.SamModel(config).save_pretrained(folder)
    processor = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    transformers.SamProcessor(processor).save_pretrained(folder)
    return str(folder)
