"""Where a killed evaluation goes on: one state file per dataset and process, and what must be the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn

from san_cliptrase.data.vocabularies import class_words, replacement_words
from san_cliptrase.evaluation.state import StateFile
from san_cliptrase.files import named_file
from san_cliptrase.protocols import WINDOW_PROTOCOLS, window_rules

_SECTIONS = ("MODEL", "INPUT", "TEST")
# What changes no count, or is compared by its content: the weights are.
_FREE = (
    "MODEL.CLIP.TEXT_CACHE",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "TEST.PICTURES",
    "TEST.SAVE_SECONDS",
    "TEST.SKIP_BAD",
    "TEST.EVAL_PERIOD",
)


def evaluation_states(cfg: Any, model: nn.Module, records: Mapping[str, Sequence[dict]]) -> dict[str, StateFile]:
    """The state file of this process for every dataset of ``records``, in OUTPUT_DIR."""
    rank, world = comm.get_rank(), comm.get_world_size()
    settings = {key: str(value) for section in _SECTIONS for key, value in leaves(cfg[section], section)}
    settings = {key: value for key, value in settings.items() if key not in _FREE}
    settings |= {"SEED": str(cfg.SEED), "number of processes": str(world), "weights": weights_digest(model)}
    return {
        name: StateFile(
            named_file(Path(cfg.OUTPUT_DIR), "evaluation", name, f"_{rank}.state"),
            {
                **settings,
                "dataset": name,
                "images": _digest(Path(record["file_name"]).name.encode() for record in listed),
                "classes and words": _digest(_names(cfg, name)),
            },
            cfg.TEST.SAVE_SECONDS,
        )
        for name, listed in records.items()
    }


def weights_digest(model: nn.Module) -> str:
    """A digest of all weights and buffers, by name and bytes."""
    return _digest(_weight_bytes(model))


def _names(cfg: Any, name: str) -> Iterator[bytes]:
    """What the counts' rows and columns mean: a class file may change under the name of a data set."""
    metadata = MetadataCatalog.get(name)
    words = replacement_words(cfg.TEST.VOCABULARY, name, metadata.stuff_classes)
    groups = [metadata.stuff_classes, metadata.get("background_words", ()), words]
    if cfg.TEST.PROTOCOL in WINDOW_PROTOCOLS:
        rules = window_rules(cfg.TEST.PROTOCOL, name)
        published = class_words(rules.words, name, *groups[:2])
        groups += [published.words, map(str, published.classes), [str(rules)]]
    for group in groups:
        yield from (word.encode() for word in group)
        yield b"end of a list"


def _weight_bytes(model: nn.Module) -> Iterator[bytes]:
    for name, value in model.state_dict().items():
        yield name.encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _digest(parts: Iterator[Any]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Key with dots and value of everything below a node of a configuration."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value
