"""Deviations of this package's SAN from the numbers that the official implementation made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from benchmarks.parity_weights import Row, draw_weights
from san_cliptrase.checkpoints.official_keys import from_official
from san_cliptrase.clip.batches import resize_for_clip
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.san import (
    MaskClassifier,
    MaskDecoder,
    SideAdapter,
    SideAdapterNetwork,
    recognise_masks,
    semantic_map,
)

CLIP_SCALE = 0.5
DIVISIBILITY = 32
SIDE_HEADS = 6
COMPARED = ("mask_preds", "attn_bias", "mask_embs", "mask_logits", "sem_seg", "sem_seg_argmax")
# Left out by the recipe that drew the weights.
_BUFFERS = ("attn_mask", "empty_weight")

Outputs = dict[str, Tensor]


class ParitySan(nn.Module):
    """SAN at the sizes that a table of official names and shapes implies, for one image at a time.

    Args:
        shapes: Official state dict key -> shape.
        clip_config: Keyword arguments of ``open_clip.CLIP``.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], clip_config: Mapping[str, object]) -> None:
        super().__init__()
        model = open_clip.CLIP(**clip_config)
        self.clip = FrozenClip(model, open_clip.SimpleTokenizer())
        self.clip_blocks = _count(shapes, r"clip_rec_head\.resblocks\.(\d+)\.")
        side = "side_adapter_network."
        _, patches, width = shapes[f"{side}vit_model.pos_embed"]
        patch_size = shapes[f"{side}vit_model.patch_embed.proj.weight"][-1]
        depth = _count(shapes, r"side_adapter_network\.vit_model\.blocks\.(\d+)\.")
        adapter = SideAdapter(
            image_size=round(patches**0.5) * patch_size,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=SIDE_HEADS,
            num_queries=shapes[f"{side}query_embed"][1],
            clip_width=self.clip.visual.width,
            supervised=(depth,),
        )
        attn_out, embed_dim = shapes[f"{side}mask_decoder.attn_mlp.layers.2.weight"][:2]
        self.network = SideAdapterNetwork(adapter, MaskDecoder(width, embed_dim, attn_out // embed_dim))
        self.classifier = MaskClassifier(self.clip.visual.embed_dim)

    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of an official SAN of these sizes."""
        self.load_state_dict(from_official(state, self.network.adapter.native_grid))

    @torch.no_grad()
    def forward(self, image: np.ndarray, text_weights: Tensor) -> Outputs:
        """Run on one (H, W, 3) uint8 image; the keys of what is returned are those of the fixtures."""
        size = image.shape[:2]
        pixels = self.clip.normalize(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        pixels = nn.functional.pad(pixels, (0, -size[1] % DIVISIBILITY, 0, -size[0] % DIVISIBILITY))
        taps = (*self.network.taps, *recognition_taps(self.clip.visual, self.clip_blocks))
        features = self.clip.visual(resize_for_clip(pixels, CLIP_SCALE), taps)
        masks, attn_bias, _ = self.network(pixels, features)[-1]
        embeddings = recognise_masks(self.clip.visual, features, attn_bias, self.clip_blocks)
        logit_scale = self.clip.text.model.logit_scale.exp()
        logits = self.classifier(embeddings, text_weights, logit_scale)[0]
        return {
            "mask_preds": masks[0],
            "attn_bias": attn_bias[0, 0],
            "mask_embs": embeddings[0],
            "mask_logits": logits,
            "sem_seg": semantic_map(logits, masks[0], tuple(pixels.shape[-2:]), size, size),
        }


def build_parity_san(fixtures: Path, seed: int) -> ParitySan:
    """The SAN whose numbers a fixtures folder holds, with its weights."""
    shapes = json.loads((fixtures / "san_small_state_dict_keys.json").read_text())
    shapes = {key: shape for key, shape in shapes.items() if not key.endswith(_BUFFERS)}
    clip_config = json.loads((fixtures / "clip_config.json").read_text())
    model = ParitySan(shapes, clip_config).eval()
    model.load_official(draw_weights(shapes, seed))
    return model


def san_deviations(fixtures: Path) -> list[Row]:
    """Compare SAN with the official numbers.

    Args:
        fixtures: Folder with a ``meta.json`` that has an entry "san".

    Returns:
        One row per quantity, the worst image of each.
    """
    meta = json.loads((fixtures / "meta.json").read_text())
    settings = meta["san"]
    model = build_parity_san(fixtures, settings["weights_seed"])
    reference = np.load(fixtures / settings["file"])
    text_weights = model.clip.text(settings["vocabulary"], templates="vild")
    classifier = model.classifier.weights(text_weights).detach().numpy()
    rows = [Row("SAN classifier, absolute", _absolute(classifier, reference["classifier"]), 1e-4)]
    tables = []
    for index in range(settings["images"]):
        outputs = model(reference[f"image_{index}"], text_weights)
        tables.append(compare_outputs(outputs, {key: reference[f"{key}_{index}"] for key in COMPARED}))
    # np.max, because a NaN must not be lost.
    worst = [float(np.max([row.deviation for row in same])) for same in zip(*tables, strict=True)]
    return rows + [Row(row.name, value, row.tolerance) for row, value in zip(tables[0], worst, strict=True)]


def compare_outputs(outputs: Outputs, reference: Mapping[str, np.ndarray]) -> list[Row]:
    """Rows of one image: each output the reference has, relative to its maximum; the share of pixels that differ."""
    rows = [
        Row(f"SAN {key}, relative to maximum", _relative(outputs[key].numpy(), reference[key]), 1e-3)
        for key in COMPARED[:-1]
        if key in reference
    ]
    differing = outputs["sem_seg"].argmax(0).numpy() != reference["sem_seg_argmax"]
    return [*rows, Row("SAN argmax, share of pixels that differ", float(differing.mean()), 1e-3)]


def _absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs.astype(np.float32)).max())


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return _absolute(ours, theirs) / float(np.abs(theirs).max())


def _count(shapes: Mapping[str, object], pattern: str) -> int:
    return 1 + max(int(found[1]) for key in shapes if (found := re.match(pattern, key)))
