"""What ``python -m san_cliptrase.export`` does: a SAN of ours in the format of the official SAN."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.official_keys import to_official
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.launch import build
from san_cliptrase.errors import ConfigError, OptionError, SanCliptraseError
from san_cliptrase.files import write_atomically
from san_cliptrase.meta_arch import SAN

logger = logging.getLogger(__name__)


def official_state(model: SAN) -> dict[str, Tensor]:
    """The weights of a SAN by the names and shapes of the official one, on the CPU.

    Raises:
        OptionError: the model cannot be expressed there: its queries need regions, or it has no training set.
    """
    if model.network.query_init.needs_regions:
        raise OptionError(
            "SAN's own format has no regions: a model whose MODEL.SAN.QUERY_INIT.NAME is neither off nor prototypes "
            "would predict something else in SAN's tools, so it is not written"
        )
    if model.criterion is None:
        raise OptionError("SAN's own format holds the weights of the classes trained on: name DATASETS.TRAIN")
    first = model.clip.visual.depth - model.recognition_blocks
    if late := [tap for tap in model.network.adapter.taps if tap > first]:
        logger.warning(
            "SAN's own code cannot build this model: its side adapter takes tokens that enter CLIP's blocks %s, and "
            "there only those up to block %d, the first that recognises, can be taken",
            late,
            first,
        )
    state = to_official(model.state_dict(), first, model.criterion.class_weights)
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def official_settings(model: SAN) -> dict[str, object]:
    """The keys of SAN's configuration that a file of this model needs there, where they are not SAN's defaults."""
    adapter, first = model.network.adapter, model.clip.visual.depth - model.recognition_blocks
    side = "MODEL.SIDE_ADAPTER"
    return {
        "MODEL.SAN.CLIP_MODEL_NAME": model.clip.name,
        "MODEL.SAN.CLIP_RESOLUTION": model.resolution,
        "MODEL.SAN.CLIP_TEMPLATE_SET": model.templates,
        "MODEL.SAN.FEATURE_LAST_LAYER_IDX": first,
        "MODEL.SAN.NUM_CLASSES": model.criterion.num_classes,
        "MODEL.SAN.SIZE_DIVISIBILITY": model.divisibility,
        f"{side}.NUM_QUERIES": adapter.num_queries,
        f"{side}.IMAGE_SIZE": adapter.native_grid[0] * adapter.patch_size,
        f"{side}.FUSION_MAP": [f"{tap}->{block}" for block, tap in adapter.tap_of.items()],
        f"{side}.DEEP_SUPERVISION_IDXS": sorted(adapter.supervised),
        f"{side}.ATTN_BIAS.NUM_HEADS": model.network.decoder.heads,
        f"{side}.ATTN_BIAS.EMBED_CHANNELS": model.network.decoder.embed_dim,
        f"{side}.ATTN_BIAS.MLP_CHANNELS": model.network.decoder.embed_dim,
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m san_cliptrase.export",
        description="Write the weights of a SAN in SAN's own format, for other SAN tools.",
        epilog="example: python -m san_cliptrase.export --config configs/san_vit_b16.yaml --output san.pth "
        "MODEL.WEIGHTS output/san/model_final.pth",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the configuration it was trained with")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="what to write; replaced if there")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="MODEL.WEIGHTS and other keys")
    return parser.parse_args(arguments)


def export(options: argparse.Namespace) -> dict[str, object]:
    """Writes the file, whole or not at all; returns :func:`official_settings`.

    Raises:
        ConfigError: the configuration, or what it describes, cannot be exported.
        CheckpointError: the checkpoint cannot be used.
        OutputError: the file cannot be written.
        WeightsError: the CLIP cannot be loaded.
    """
    cfg = load_config(options.config, options.opts)
    weights = Path(cfg.MODEL.WEIGHTS)
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("nothing to export: name the checkpoint with MODEL.WEIGHTS FILE")
    if options.output.exists() and weights.exists() and options.output.samefile(weights):
        raise ConfigError(f"--output {options.output} is the checkpoint itself: choose another name")
    if cfg.MODEL.META_ARCHITECTURE != "SAN":
        raise ConfigError(f"{options.config} describes {cfg.MODEL.META_ARCHITECTURE}; only SAN has a format of its own")
    model = build(build_model, cfg)
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    state = build(official_state, model)
    write_atomically(options.output, lambda file: torch.save({"model": state}, file))
    return official_settings(model)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        settings = export(options)
    except SanCliptraseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"wrote {options.output}; in SAN's configuration set, where its own differs:\n")
    sys.stdout.writelines(f"    {key} {json.dumps(value)}\n" for key, value in settings.items())
    return 0
