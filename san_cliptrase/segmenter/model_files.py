"""A trained SAN on disk: the folder of a run, or one file with weights and configuration."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from san_cliptrase.builders import san_parts_from_config
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.files import checkpoint_files, read_checkpoint, weights_in
from san_cliptrase.clip.architecture import architecture, architecture_of, build_untrained_clip
from san_cliptrase.config import model_config, plain
from san_cliptrase.errors import CheckpointError, ConfigError, DamagedCheckpoint
from san_cliptrase.files import check_regular, from_home, remove_unfinished, write_atomically
from san_cliptrase.san.model import SanModel
from san_cliptrase.texts import reason
from san_cliptrase.yaml_files import read_layers

logger = logging.getLogger(__name__)

RUN_CONFIG, MODEL_FILE = "config.yaml", "model.safetensors"
FORMAT = "san_cliptrase"
"""What the metadata of our files name as their format."""


@dataclass(frozen=True)
class LoadedSan:
    """A SAN with its weights, and how it wants to see images.

    Attributes:
        model: On the CPU.
        shorter: Shorter side of a test image in pixels.
        longest: Largest longer side.
        config: MODEL and INPUT of its configuration, as ``write_model_file`` wants it.
    """

    model: SanModel
    shorter: int
    longest: int
    config: dict[str, Any]


def load_san(path: Path) -> LoadedSan:
    """A trained SAN from the folder of a run, from a file of ``write_model_file``, or from a folder with one.

    Raises:
        ConfigError: There is none of these, or the configuration cannot be used.
        CheckpointError: No checkpoint, or one that cannot be used.
    """
    if path.is_file():
        return _load_file(path)
    if (path / MODEL_FILE).is_file():
        return _load_file(path / MODEL_FILE)
    if (path / RUN_CONFIG).is_file():
        return _load_run(path)
    if not path.exists():
        raise ConfigError(f"there is no {path}: name the folder of a run, or a file that `export` wrote")
    raise ConfigError(f"{path} is not a run: it has neither {RUN_CONFIG} nor {MODEL_FILE}")


def write_model_file(path: Path, model: SanModel, config: Mapping[str, Any]) -> Path:
    """Write weights and configuration as one safetensors file, whole or not at all.

    Args:
        path: The file; ".safetensors" is added where it has no ending.
        model: A SAN; all of its weights are written, CLIP's too.
        config: See ``LoadedSan``.

    Returns:
        The path that was written.

    Raises:
        OutputError: The file cannot be written.
    """
    path = path if path.suffix else path.with_suffix(".safetensors")
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    texts = {"format": FORMAT, "config": json.dumps(config), "clip": json.dumps(architecture_of(model.clip))}
    content = safetensors.torch.save(state, {**texts, "digest": _digest(texts, state)})
    remove_unfinished(path.parent)
    write_atomically(path, lambda file: file.write(content))
    return path


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """What ``write_model_file`` has written: configuration, architecture of the CLIP, and weights.

    Raises:
        CheckpointError: It is another file.
        DamagedCheckpoint: It is not as it was written; the format of safetensors itself has no check sum.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
        if texts.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} was not written by `san-cliptrase export`: its metadata name no configuration of a SAN"
            )
        state = safetensors.torch.load_file(path)
        digest = texts.pop("digest", None)  # earlier versions wrote none
        if digest is not None and digest != _digest(texts, state):
            raise DamagedCheckpoint(f"the model file {path} is not as it was written: export or copy it again")
        config, clip = json.loads(texts["config"]), json.loads(texts["clip"])
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read the model file {path}: {reason(error)}. Is the file whole?") from error
    return config, clip, state


def _digest(texts: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _load_file(path: Path) -> LoadedSan:
    config, clip, state = read_model_file(path)
    found = _build(config, clip, path)
    SafeCheckpointer(found.model).load_weights(state, path)
    return found


def _load_run(folder: Path) -> LoadedSan:
    config: dict[str, Any] = {}
    for layer in read_layers(folder / RUN_CONFIG):
        config.update(layer)
    files = checkpoint_files(folder)
    if not files and (weights := config.get("MODEL", {}).get("WEIGHTS")):
        files = [from_home(weights)]
    if not files:
        raise CheckpointError(f"{folder} has no finished checkpoint: train, or wait for the first one")
    for file in files:
        try:
            state, clip = _read_run(file, config)
            found = _build(config, clip, folder)
            SafeCheckpointer(found.model).load_weights(state, file)
        except DamagedCheckpoint as error:
            logger.warning("%s Trying the one before it.", error)
        else:
            return found
    raise CheckpointError(f"none of the {len(files)} checkpoints in {folder} can be read")


def _read_run(file: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a checkpoint, and the architecture of its CLIP."""
    loaded = read_checkpoint(file)
    node = config["MODEL"]["CLIP"]
    return weights_in(loaded, file), architecture(node["NAME"], node["PRETRAINED"], loaded.get("quick_gelu"))


def _build(config: Mapping[str, Any], clip: dict[str, Any], path: Path) -> LoadedSan:
    cfg = model_config(config)
    if cfg.MODEL.META_ARCHITECTURE != "SAN":
        raise ConfigError(f"{path} holds a {cfg.MODEL.META_ARCHITECTURE}, not a trained SAN")
    node = cfg.MODEL.CLIP
    built = build_untrained_clip(clip, node.NAME, node.INTERPOLATE_OFFSET, (), node.SYNONYMS)
    try:
        model = SanModel(**san_parts_from_config(cfg, built, training=False))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{path}: no SAN can be built from its configuration: {error!r:.300}") from error
    return LoadedSan(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, plain(cfg))
