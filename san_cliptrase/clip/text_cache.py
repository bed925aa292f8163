"""Text weights on disk: 80 sentences a word take minutes for a large vocabulary, and never change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from san_cliptrase.errors import OutputError
from san_cliptrase.files import from_home, remove_unfinished, write_atomically

logger = logging.getLogger(__name__)


def cache_folder(name: str) -> Path | None:
    """The folder that MODEL.CLIP.TEXT_CACHE names: "auto" is the user's cache directory; None for ""."""
    if name == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "san_cliptrase" / "text"
    return from_home(name) if name else None


class CacheError(ValueError):
    """A file of text weights that is not as it was written; the message says what is wrong."""


class TextCache:
    """The weights of words, a file for every text tower and set of templates.

    A tower is known by the bytes of its weights and the layers it is made of, not by a name: a file that was replaced,
    or the same weights under another activation, are another tower. A file holds a matrix, its words in order, and a
    digest of both and of the file's own name, and counts only if all of it is as it was written.

    Args:
        folder: where the files are; made when something is saved.
        model: an open_clip model whose image side has been taken out.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self.folder, self.tower = folder, tower_digest(model)
        remove_unfinished(folder)

    def path(self, sentences: tuple[str, ...]) -> Path:
        """The file of a set of templates."""
        return self.folder / f"{self.tower}_{_digest(*(s.encode() for s in sentences))}.safetensors"

    def load(self, sentences: tuple[str, ...]) -> dict[str, Tensor]:
        """Word -> (E,) weight of what has been saved; nothing, with a warning, where the file is damaged."""
        path = self.path(sentences)
        try:
            return _unpack(path)
        except FileNotFoundError:
            return {}
        except (OSError, SafetensorError, CacheError) as error:
            logger.warning("the cached text weights in %s cannot be used (%s): made anew", path, error)
            return {}

    def save(self, sentences: tuple[str, ...], weights: Mapping[str, Tensor]) -> None:
        """Adds weights to those in the file; where that fails, warns: they are made again the next time.

        Of two processes that do so at once, one may lose the words of the other, which are then made again.
        """
        path = self.path(sentences)
        content = _pack({**self.load(sentences), **{word: row.cpu() for word, row in weights.items()}}, path.stem)
        try:
            write_atomically(path, lambda file: file.write(content))
        except OutputError as error:
            logger.warning("%s", error)


def _pack(weights: Mapping[str, Tensor], stem: str) -> bytes:
    """The content of a file of that name."""
    words, matrix = json.dumps(list(weights)), torch.stack(list(weights.values()))
    return safetensors.torch.save({"weights": matrix}, {"words": words, "digest": _content_digest(words, matrix, stem)})


def _unpack(path: Path) -> dict[str, Tensor]:
    """What a file was made of; nothing where an earlier version, which wrote no digest, made it.

    Raises:
        CacheError: The file is not as it was written.
        SafetensorError, OSError: It cannot be read at all.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CacheError("it is not a regular file")
    with safe_open(path, "pt") as file:
        record, names = file.metadata() or {}, list(file.keys())
        if "digest" not in record:
            return {}
        if names != ["weights"]:
            raise CacheError("it holds other tensors than the weights")
        matrix = file.get_tensor("weights").clone()
    words = record.get("words", "")
    if record["digest"] != _content_digest(words, matrix, path.stem):
        raise CacheError("its digest does not match: it was altered, or is of another tower or other templates")
    words = json.loads(words)
    if matrix.dtype != torch.float32 or matrix.ndim != 2 or len(matrix) != len(words):
        raise CacheError("it does not hold one row of float32 for each word")
    if not torch.allclose(matrix.norm(dim=1), torch.ones(len(matrix)), atol=1e-4):  # NaN is not close to anything
        raise CacheError("it holds a row that is not finite or not of length 1")
    return dict(zip(words, matrix, strict=True))


def _content_digest(words: str, matrix: Tensor, stem: str) -> str:
    """Digest of a file's name, which names tower and templates, of its words in order, and of its numbers."""
    return _digest(stem.encode(), words.encode(), f"{matrix.dtype} {tuple(matrix.shape)}".encode(), _bytes(matrix))


def tower_digest(model: nn.Module) -> str:
    """A digest of a model's layers and of its weights by name and bytes."""
    parts = [repr(model).encode()]
    for name, value in model.state_dict().items():
        parts += [name.encode(), _bytes(value)]
    return _digest(*parts)


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _digest(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()
