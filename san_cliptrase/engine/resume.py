"""What may differ between a run and its continuation: every key takes effect, or is refused by its name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import get_cfg

from san_cliptrase.config import add_san_cliptrase_config, with_names_of_today
from san_cliptrase.errors import ConfigError
from san_cliptrase.evaluation.resume import leaves
from san_cliptrase.yaml_files import read_layers

logger = logging.getLogger(__name__)

# Keys, and groups of keys with a dot at the end, that take effect from the checkpoint on. All others say what the
# checkpoint is: its model, its data and their order.
_TAKE_EFFECT = (
    *("SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_EMBED"),
    *("SOLVER.CLIP_MULTIPLIER", "SOLVER.STRENGTH_MULTIPLIER", "SOLVER.POLY_POWER", "SOLVER.MAX_ITER"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.ACCUMULATE", "SOLVER.AMP.", "SOLVER.CLIP_GRADIENTS."),
    *("DATASETS.TEST", "DATALOADER.", "FIGURES.", "INPUT.", "TEST.", "LOG_PERIOD", "VIS_IMAGES", "OUTPUT_DIR"),
    # Where it runs, and what is kept; a CLIP's weights may lie elsewhere and are compared with the checkpoint's.
    *("MODEL.DEVICE", "MODEL.CLIP.CACHE_GB", "MODEL.CLIP.TEXT_CACHE", "MODEL.CLIP.PRETRAINED"),
)
_WEIGHTS = "MODEL.WEIGHTS"


def check_resumed(cfg: Any, saved: Path) -> None:
    """Compares a configuration with that of the run that it goes on with.

    Where the run began with weights and the configuration names none, it takes over their name.

    Args:
        cfg: not frozen.
        saved: ``config.yaml`` of the run.

    Raises:
        ConfigError: a key differs that cannot take effect, or the file cannot be read.
    """
    if not saved.is_file():
        logger.warning("there is no %s: what the checkpoint was trained with cannot be compared", saved)
        return
    defaults = get_cfg()
    add_san_cliptrase_config(defaults)
    there: dict[str, Any] = {}
    for layer in read_layers(saved):
        there |= with_names_of_today(_plain_leaves(layer))
    here = dict(_plain_leaves(yaml.safe_load(cfg.dump())))
    # A key that came later stands for its default.
    there = dict(_plain_leaves(yaml.safe_load(defaults.dump()))) | there
    if not here[_WEIGHTS] and isinstance(there[_WEIGHTS], str):
        cfg.MODEL.WEIGHTS = here[_WEIGHTS] = there[_WEIGHTS]
    differing = [
        key
        for key in sorted(here.keys() & there.keys())
        if here[key] != there[key]
        and not any(key == may or may[-1] == "." and key.startswith(may) for may in _TAKE_EFFECT)
    ]
    if differing:
        shown = "; ".join(f"{key} was {there[key]!r:.80}, is {here[key]!r:.80}" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ConfigError(
            f"--resume: {saved.parent} holds a run with another configuration: {shown}{more}. These cannot change in "
            "the middle of a run: undo the change, or begin another one, from this one's weights by MODEL.WEIGHTS, in "
            "another OUTPUT_DIR"
        )


def _plain_leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Key with dots -> value; numbers as such, however they are written (1e-4 in YAML is a text)."""
    found = {}
    for group, content in tree.items():
        for key, value in leaves(content, group) if isinstance(content, Mapping) else ((group, content),):
            found[key] = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return found
