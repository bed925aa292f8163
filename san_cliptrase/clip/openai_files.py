"""OpenAI's own CLIP files: TorchScript archives, as published, and the state dictionaries that others made of them.

A TorchScript archive is a program, and there is no way to load one without trusting it. So only those are opened that
OpenAI published, known by their SHA-256, which open_clip carries in OpenAI's addresses.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import torch
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor

from san_cliptrase.errors import WeightsError

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
        WeightsError: It is a TorchScript archive other than the one that OpenAI published for this model.
    """
    if _is_torchscript(path):
        return _without_numbers(_read_torchscript(path, model))
    try:
        # With mmap the tensors of a file in another format are not read twice.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch's reader meets damage with errors of any type
        return None  # open_clip says what is wrong, or reads it
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not set(_NUMBERS) & set(state):
        return None
    return _without_numbers(state)


def _without_numbers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in _NUMBERS}


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive with TorchScript code; torch.save's archives have none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


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
