"""A CLIP without its weights: what open_clip needs to build it, where a checkpoint brings the weights."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from san_cliptrase.clip.build import SHIPPED_WEIGHTS, FrozenClip, register_shipped_models
from san_cliptrase.clip.openai_files import read_openai_file
from san_cliptrase.errors import WeightsError
from san_cliptrase.files import check_regular
from san_cliptrase.texts import reason

CONFIG_FILE = "open_clip_config.json"
"""Where open_clip looks for an architecture in a folder."""
_LOCAL, _HUB = "local-dir:", "hf-hub:"


def architecture(name: str, pretrained: str = "", quick_gelu: bool | None = None) -> dict[str, Any]:
    """The architecture of a CLIP, in the form of open_clip's configuration files.

    Args:
        name: A model name, see ``build_clip``.
        pretrained: Its weights, which may ask for QuickGELU; nothing is fetched.
        quick_gelu: Whether they do, if that is known.

    Raises:
        WeightsError: The model's folder, or the weights file that would tell its activation, is not there.
    """
    register_shipped_models()
    if name.startswith(_LOCAL):
        file = Path(name.removeprefix(_LOCAL)) / CONFIG_FILE
        try:
            check_regular(file)
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"the architecture of CLIP {name} cannot be read from {file}: {reason(error)}"
            ) from error
    if name.startswith(_HUB):
        file = open_clip.factory.download_pretrained_from_hf(name.removeprefix(_HUB), CONFIG_FILE)
        return json.loads(Path(file).read_text(encoding="utf-8"))
    model = open_clip.get_model_config(name)
    if model is None:
        raise WeightsError(f"open_clip has no model {name!r}")
    if quick_gelu is None:
        quick_gelu = _asks_for_quick_gelu(name, pretrained) or bool(model.get("quick_gelu"))
    return {"model_cfg": {**model, "quick_gelu": quick_gelu}, "preprocess_cfg": {}}


def architecture_of(clip: FrozenClip) -> dict[str, Any]:
    """The architecture of a CLIP that was built."""
    found = architecture(clip.name, quick_gelu=clip.quick_gelu)
    return {**found, "preprocess_cfg": {"mean": list(clip.mean), "std": list(clip.std)}}


def build_untrained_clip(
    found: dict[str, Any],
    name: str,
    interpolate_offset: float = 0.0,
    trainable: Iterable[str] = (),
    synonyms: bool = False,
) -> FrozenClip:
    """A CLIP with random weights, which a checkpoint replaces.

    Args:
        found: See ``architecture``.
        name: See ``FrozenClip``, and all others.

    Raises:
        WeightsError: open_clip cannot build it.
    """
    # open_clip warns by the root logger that weights are random, which is what is wanted here.
    root = logging.getLogger()
    level = root.level
    try:
        root.setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CONFIG_FILE).write_text(json.dumps(found), encoding="utf-8")
            local = f"{_LOCAL}{folder}"
            model = open_clip.create_model(local, load_weights=False)
            own_files = "hf_tokenizer_name" in found["model_cfg"].get("text_cfg", {})
            tokenizer = open_clip.get_tokenizer(name if own_files else local)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise WeightsError(f"open_clip cannot build the CLIP {name} of this file: {reason(error)}") from error
    finally:
        root.setLevel(level)
    return FrozenClip(model, tokenizer, interpolate_offset, trainable, synonyms, name)


def _asks_for_quick_gelu(name: str, pretrained: str) -> bool:
    if (name, pretrained) in SHIPPED_WEIGHTS or not pretrained:
        return False
    tag = get_pretrained_cfg(name, pretrained)
    if tag:
        return bool(tag.get("quick_gelu"))
    if not Path(pretrained).is_file():
        raise WeightsError(
            f"whether CLIP {name} has QuickGELU is told by its weights file, and {pretrained} is not there: put it back"
        )
    return read_openai_file(Path(pretrained), name) is not None
