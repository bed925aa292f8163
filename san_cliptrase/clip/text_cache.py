"""Text weights on disk: 80 sentences a word take minutes for a large vocabulary, and never change."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from san_cliptrase.errors import OutputError
from san_cliptrase.files import write_atomically

logger = logging.getLogger(__name__)


def cache_folder(name: str) -> Path | None:
    """The folder that MODEL.CLIP.TEXT_CACHE names: "auto" is the user's cache directory; None for ""."""
    if name == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "san_cliptrase" / "text"
    return Path(name).expanduser() if name else None


class TextCache:
    """The weights of words, a file for every text tower and set of templates.

    A tower is known by the bytes of its weights and the layers it is made of, not by a name: a file that was replaced,
    or the same weights under another activation, are another tower.

    Args:
        folder: where the files are; made when something is saved.
        model: an open_clip model whose image side has been taken out.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self.folder, self.tower = folder, tower_digest(model)

    def path(self, sentences: tuple[str, ...]) -> Path:
        """The file of a set of templates."""
        return self.folder / f"{self.tower}_{_digest(*(s.encode() for s in sentences))}.safetensors"

    def load(self, sentences: tuple[str, ...]) -> dict[str, Tensor]:
        """Word -> (E,) weight of what has been saved; nothing, with a warning, where the file is damaged."""
        path = self.path(sentences)
        try:
            return safetensors.torch.load(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, SafetensorError, ValueError) as error:
            logger.warning("the cached text weights in %s cannot be read (%s): made anew", path, error)
            return {}

    def save(self, sentences: tuple[str, ...], weights: Mapping[str, Tensor]) -> None:
        """Adds weights to those in the file; where that fails, warns: they are made again the next time."""
        merged = {**self.load(sentences), **{word: row.cpu().contiguous().clone() for word, row in weights.items()}}
        content = safetensors.torch.save(merged)
        try:
            write_atomically(self.path(sentences), lambda file: file.write(content))
        except OutputError as error:
            logger.warning("%s", error)


def tower_digest(model: nn.Module) -> str:
    """A digest of a model's layers and of its weights by name and bytes."""
    parts = [repr(model).encode()]
    for name, value in model.state_dict().items():
        parts += [name.encode(), value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()]
    return _digest(*parts)


def _digest(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()
