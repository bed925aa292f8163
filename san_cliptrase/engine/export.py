"""``san-cliptrase export --format san``: a SAN of ours in the format of the official SAN."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.official_keys import to_official
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.launch import build
from san_cliptrase.errors import CheckpointError, ConfigError, OptionError
from san_cliptrase.files import remove_unfinished, write_atomically
from san_cliptrase.meta_arch import SAN
from san_cliptrase.san.model import DIVISIBILITY

logger = logging.getLogger(__name__)


def official_state(model: SAN) -> dict[str, Tensor]:
    """The weights of a SAN by the names and shapes of the official one, on the CPU.

    Raises:
        OptionError: the model cannot be expressed there: its queries need regions, or it has no training set.
    """
    if model.network.query_init.needs_regions:
        raise OptionError(
            "SAN's own format has no regions: a model whose MODEL.SAN.QUERY_INIT.NAME is neither off nor prototypes, "
            "and from which no ANNEAL took them, would predict something else in SAN's tools. Export it without "
            "--format san, or train one that needs no regions in the end: MODEL.SAN.QUERY_INIT.NAME prototypes, or "
            "MODEL.SAN.QUERY_INIT.ANNEAL above 0"
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
    # What an annealed model learned about regions is of no use without them.
    used = {key: value for key, value in model.state_dict().items() if not key.startswith("network.query_init.")}
    state = to_official(used, first, model.criterion.class_weights)
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
        "MODEL.SAN.SIZE_DIVISIBILITY": DIVISIBILITY,
        f"{side}.NUM_QUERIES": adapter.num_queries,
        f"{side}.IMAGE_SIZE": adapter.native_grid[0] * adapter.patch_size,
        f"{side}.FUSION_MAP": [f"{tap}->{block}" for block, tap in adapter.tap_of.items()],
        f"{side}.DEEP_SUPERVISION_IDXS": sorted(adapter.supervised),
        f"{side}.ATTN_BIAS.NUM_HEADS": model.network.decoder.heads,
        f"{side}.ATTN_BIAS.EMBED_CHANNELS": model.network.decoder.embed_dim,
        f"{side}.ATTN_BIAS.MLP_CHANNELS": model.network.decoder.embed_dim,
    }


def export_official(
    run: Path, output: Path, config: Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, object]:
    """Writes a SAN in SAN's own format, whole or not at all.

    Args:
        run: folder of a run, of which the last good checkpoint is taken, or one checkpoint.
        output: the file to write.
        config: configuration; None: ``config.yaml`` beside the checkpoint.
        overrides: KEY, VALUE, ... of the configuration.

    Returns:
        :func:`official_settings`.

    Raises:
        ConfigError: the configuration, or what it describes, cannot be exported.
        CheckpointError: the checkpoint cannot be used.
        OutputError: the file cannot be written.
        WeightsError: the CLIP cannot be loaded.
    """
    folder = run if run.is_dir() else run.parent
    config = config or folder / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"there is no configuration {config}: name the one that {run} was trained with by --config")
    cfg = load_config(config, [*overrides, "MODEL.WEIGHTS", "" if run.is_dir() else str(run)])
    if cfg.MODEL.META_ARCHITECTURE != "SAN":
        raise ConfigError(f"{config} describes {cfg.MODEL.META_ARCHITECTURE}; only SAN has a format of its own")
    model = build(build_model, cfg)
    checkpointer = SafeCheckpointer(model, str(folder))
    if run.is_dir() and not checkpointer.has_checkpoint():
        raise CheckpointError(f"the folder {run} has no checkpoint")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=run.is_dir())
    state = build(official_state, model)
    remove_unfinished(output.parent)
    write_atomically(output, lambda file: torch.save({"model": state}, file))
    return official_settings(model)
