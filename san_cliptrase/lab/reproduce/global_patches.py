"""Section A.1 of the supplement: in which blocks a few patches take the attention of all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from yacs.config import CfgNode

from san_cliptrase.builders import clip_from_config
from san_cliptrase.clip.attention_maps import block_attention
from san_cliptrase.clip.batches import image_batch
from san_cliptrase.colors import OKABE_ITO
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.engine.launch import build
from san_cliptrase.errors import ConfigError
from san_cliptrase.lab.global_patches import FAIR_SHARES, MEASURES, REACH, measure_attention
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row, write_figure
from san_cliptrase.lab.reproduce.request import Request, evaluated_records, request_config

logger = logging.getLogger(__name__)

Measured = list[dict[str, float]]
"""A dict of :data:`MEASURES` for each block."""
RANDOM = "random weights"
# A colour and a marker each; random weights are grey.
_LOOKS = tuple(zip(OKABE_ITO, "os^DvP", strict=True))
_PANELS = {
    "global patches": "global patches, % of patches",
    "top 5 % receive": "share of attention that the 5 % most\nattended patches receive, %",
    "entropy": "entropy of received attention\n(1: even)",
    "[CLS] to top 5 %": "share of [CLS]'s attention that\ngoes to those 5 %, %",
}


def global_patches(request: Request) -> Exhibit:
    """Measures the attention of every block of one or several CLIPs on the images of a data set.

    Args:
        request: DATASETS.TEST (its first) and TEST.MAX_IMAGES say which images, FIGURES.MODELS which CLIPs.

    Raises:
        ConfigError: FIGURES.MODELS cannot be read, or names a model that does not exist.
        DataError, WeightsError: images or weights cannot be used.
    """
    base = request_config(request, cliptrase=False)
    dataset, found = base.DATASETS.TEST[0], {}
    count = len(evaluated_records(base, dataset))
    for name, (model, weights) in asked_models(base).items():
        clip = ["MODEL.CLIP.NAME", model, "MODEL.CLIP.PRETRAINED", weights]
        found[name] = measure_blocks(request_config(request, clip, cliptrase=False), dataset)
        logger.info("%s: %s", name, [round(block["top 5 % receive"], 1) for block in found[name]])
    path = request.output / "global_patches_by_block.png"
    write_figure(plot_blocks(found), path)
    return Exhibit(
        name="global_patches",
        title="Global patches (supplement, section A.1)",
        rows=[
            Row(f"{name}, block {number} of {len(blocks)}", dataset, block)
            for name, blocks in found.items()
            for number, block in enumerate(blocks, start=1)
        ],
        bars=False,
        about=[
            f"means over {count} images of {dataset}; attention is softmax(q k^T / sqrt(d)), mean over heads",
            f"a patch is global if it receives at least {FAIR_SHARES:g} times its fair share of the patches' attention "
            f"and at least {REACH:.0%} of the patches give it more than a fair share; a fair share is 1 / L",
            request.title(),
        ],
        notes=[
            "Columns: percent of patches that are global; percent of images that have any; what the strongest "
            "patch receives, in fair shares; percent of what patches give to patches that the 5 % most attended "
            "receive (even: 5); normalised entropy of that (even: 1); percent of the patches' attention that goes to "
            "[CLS]; percent of what [CLS] gives to patches that goes to those same 5 %.",
            "The paper describes the phenomenon for ViT-B/16 in words, blocks 6 to 11 of 12 and weaker in the last, "
            "and gives neither a definition nor numbers: threshold and measures are ours.",
        ],
        data={"threshold": {"fair shares": FAIR_SHARES, "reach": REACH}, "images": count, "blocks": found},
        figures=[path],
    )


def asked_models(cfg: CfgNode) -> dict[str, tuple[str, str]]:
    """Name -> (model, weights) of FIGURES.MODELS, or MODEL.CLIP beside the same tower with random weights.

    Raises:
        ConfigError: a part is not NAME=MODEL or NAME=MODEL@WEIGHTS, or a name stands twice.
    """
    clip, models = cfg.MODEL.CLIP, {}
    if not cfg.FIGURES.MODELS:
        models[f"{clip.NAME} {clip.PRETRAINED}".strip()] = (clip.NAME, clip.PRETRAINED)
        if not clip.NAME.startswith(("local-dir:", "hf-hub:")):
            models[RANDOM] = (clip.NAME, "")
        return models
    for part in cfg.FIGURES.MODELS.split(","):
        name, equals, model = (text.strip() for text in part.partition("="))
        if not (name and equals and model):
            raise ConfigError(f"FIGURES.MODELS: {part.strip()!r} is not NAME=MODEL or NAME=MODEL@WEIGHTS")
        if name in models:
            raise ConfigError(f"FIGURES.MODELS: the name {name!r} stands twice")
        model, _, weights = model.partition("@")
        models[name] = (model, weights)
    return models


@torch.no_grad()
def measure_blocks(cfg: Any, dataset: str) -> Measured:
    """Means of :data:`MEASURES` over the images of a data set, block by block."""
    torch.manual_seed(cfg.SEED)  # weights may be random
    clip = build(clip_from_config, cfg).to(cfg.MODEL.DEVICE).eval()
    visual, mapper = clip.visual, build_test_mapper(cfg, dataset)
    records = evaluated_records(cfg, dataset)
    total = [dict.fromkeys(MEASURES, 0.0) for _ in range(visual.depth)]
    for start in range(0, len(records), cfg.TEST.BATCH_SIZE):
        entries = [mapper(record) for record in records[start : start + cfg.TEST.BATCH_SIZE]]
        batch = image_batch([entry["image"] for entry in entries], clip, scale=cfg.MODEL.CLIP.RESOLUTION)
        features = visual(batch.tensor, range(visual.depth), batch.sizes)
        for index, sums in enumerate(total):
            measures = measure_attention(block_attention(visual, features, index), features.valid)
            for name, values in measures.items():
                sums[name] += values.sum().item()
    return [{name: value / len(records) for name, value in sums.items()} for sums in total]


def plot_blocks(found: Mapping[str, Measured]) -> Figure:
    """A panel for each of four measures: the blocks of every CLIP, first to last, from left to right."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    depths = {len(blocks) for blocks in found.values()}
    same = len(depths) == 1  # towers of different depths share the axis by their relative depth
    for axes, (measure, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        looks = iter(_LOOKS * len(found))
        for name, blocks in found.items():
            colour, marker = ("0.55", ".") if name.startswith("random") else next(looks)
            places = [number / (1 if same else len(blocks)) for number in range(1, len(blocks) + 1)]
            axes.plot(places, [block[measure] for block in blocks], color=colour, marker=marker, label=name)
        axes.set(title=title, xlabel="block" if same else "block / number of blocks")
        if measure != "entropy":
            axes.set_ylim(bottom=0)
        if same:
            axes.set_xticks(range(1, max(depths) + 1))
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return figure
