"""Weights files of a CLIP: OpenAI's own formats are read here, open_clip's left to it, others told for what they are.

OpenAI published TorchScript archives, of which others made state dictionaries.
A TorchScript archive is a program, and there is no way to load one without trusting it. So only those are opened that
OpenAI published, known by their SHA-256, which open_clip carries in OpenAI's addresses.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.pretrained import get_pretrained_cfg
from safetensors import safe_open
from torch import Tensor

from san_cliptrase.errors import WeightsError
from san_cliptrase.texts import one_line
from san_cliptrase.weights_files import describe_wrong_file, is_torchscript

# Numbers that OpenAI stores among the weights; they mark its format.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")


def read_openai_file(path: Path, model: str) -> dict[str, Tensor] | None:
    """The weights in a file of OpenAI's format, by open_clip's names; OpenAI's models run with QuickGELU.

    Args:
        path: Any weights file.
        model: Name of the open_clip model that it is meant for.

    Returns:
        The weights, or None if the file is of another format, which open_clip reads.

    Raises:
        WeightsError: It is no weights file, or of a format that neither reads, or a TorchScript archive other than the
            one that OpenAI published for this model; the message says what it is.
    """
    if wrong := describe_wrong_file(path):
        raise WeightsError(f"{str(path)!r} {wrong}")
    if is_torchscript(path):
        return _without_numbers(_read_torchscript(path, model))
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            _refuse_transformers(path, file.keys())
        return None
    # With mmap the tensors of a file in another format are not read twice.
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    _refuse_other_content(path, state)
    return _without_numbers(state) if set(_NUMBERS) & set(state) else None


def _refuse_other_content(path: Path, content: Any) -> None:
    """Raise a ``WeightsError`` that says what is in a file instead of tensors by name."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{str(path)!r} holds no weights by name, but a {type(content).__name__}")
    if _has_tensors(content):
        _refuse_transformers(path, content)
        return
    if inner := next((key for key, value in content.items() if _has_tensors(value)), None):
        raise WeightsError(
            f"{str(path)!r} has its weights under {one_line(inner, 60)!r}, where open_clip does not look: save "
            "that part alone with torch.save, or name the weights file that it was made from"
        )
    raise WeightsError(f"{str(path)!r} holds no weights: there are no tensors in it")


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(part, Tensor) for part in value.values())


def _refuse_transformers(path: Path, names: Iterable[str]) -> None:
    """Raise a ``WeightsError`` if the weights have the names that transformers gives to a CLIP's."""
    if any(f".{tower}." in f".{name}" for name in names for tower in ("text_model", "vision_model")):
        raise WeightsError(
            f"{str(path)!r} is a file of transformers (text_model., vision_model.), which open_clip does not read: "
            "take open_clip_model.safetensors of the same repository, or a tag of open_clip"
        )


def _without_numbers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in _NUMBERS}


def _read_torchscript(path: Path, model: str) -> dict[str, Tensor]:
    published = published_sha256(model)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != published:
        known = f"the one that OpenAI published for it ({published})" if published else "one that OpenAI published"
        raise WeightsError(
            f"{path} is a TorchScript archive, which can run code when it is loaded, and its SHA-256 {found} is not "
            f"that of {known}, so it is not opened for {model}. Name the model that it belongs to; or, if you trust it,"
            f" save its weights alone: python -c \"import torch; torch.save(torch.jit.load('{path.name}', "
            f"map_location='cpu').state_dict(), 'weights.pt')\""
        )
    return torch.jit.load(path, map_location="cpu").state_dict()


def published_sha256(model: str) -> str:
    """The SHA-256 of OpenAI's file for a model of open_clip, which is a part of its address; "" if there is none."""
    parts = str(get_pretrained_cfg(model, "openai").get("url", "")).split("/")
    return parts[-2] if len(parts) > 1 and len(parts[-2]) == 64 else ""
