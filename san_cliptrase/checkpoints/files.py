"""Checkpoint files: which of a folder to resume from, and reading one without executing or believing anything in it."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from san_cliptrase.errors import CheckpointError, DamagedCheckpoint, OutputError
from san_cliptrase.files import check_regular
from san_cliptrase.texts import reason

logger = logging.getLogger(__name__)

CHECKPOINTS = ("last_checkpoint", "model_*.pth")
RUN_FILES = (
    *CHECKPOINTS,
    *("evaluations.csv", "metrics.json", "events.out.tfevents.*", "not_finite_*.json"),
    *("metrics_*.json", "classes_*.csv", "confusions_*.csv", "results.csv", "evaluation_*.state"),
    *("eval_only", "pictures", "config.yaml"),
)
"""Patterns of what a run writes into OUTPUT_DIR, but for its log."""
MOST_PARTS, DEEPEST = 2**20, 50
"""Of what a checkpoint holds: values in all its dictionaries and lists, and how deep they lie in each other."""


def checkpoint_files(folder: Path) -> list[Path]:
    """The files to resume from, best first: the one that ``last_checkpoint`` names, then the others, newest first.

    Without ``last_checkpoint`` there are none: a run that has not finished its first checkpoint begins anew.
    """
    tag = folder / "last_checkpoint"
    if not tag.is_file():
        return []
    named = tag.read_text(encoding="utf-8", errors="replace").strip()
    found = [path for path in folder.glob("*.pth") if path.name == named or path.name.startswith("model_")]
    return sorted(found, key=lambda path: (path.name == named, path.stat().st_mtime_ns, path.name), reverse=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run in the folder has finished a checkpoint, whatever has become of it since."""
    return (folder / "last_checkpoint").exists()


def check_start(folder: Path, weights: str, resumes: bool) -> None:
    """Looks at what a run is going to begin with, before a model is built for it; what is in it is seen when it loads.

    Args:
        folder: of the run.
        weights: the file that it begins with, or "".
        resumes: whether it goes on from a checkpoint in the folder instead.

    Raises:
        CheckpointError: there is no such file, or it is no whole checkpoint; or none of the folder's is.
    """
    if resumes:
        found = checkpoint_files(folder)
        if not any(map(names_in, found)):
            raise none_readable(found, folder)
    elif weights:
        check_file(weights)
        weights_in(_read(weights, whole=False), weights)


def check_file(path: str) -> None:
    """Refuses what is no file.

    Raises:
        CheckpointError: it is an address, there is none, or it is a folder, a pipe or a device.
    """
    refuse_url(path)
    if not Path(path).exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        check_regular(path)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def none_readable(files: Sequence[Path], folder: str | Path) -> CheckpointError:
    """What to raise where a run cannot go on from any of its checkpoints."""
    return CheckpointError(f"none of the {len(files)} checkpoints in {folder} can be read")


def refuse_strange(folder: Path) -> None:
    """Refuse a folder in which a file that a run reads or appends to is a pipe, a socket or a device.

    Raises:
        OutputError: names the file.
    """
    for path in (path for pattern in (*RUN_FILES, "log.txt*") for path in folder.glob(pattern)):
        if path.exists() and not path.is_dir() and not path.is_file():
            raise OutputError(f"{path} is a pipe, a socket or a device, where a run has a file: move it away")


def holds_training(folder: Path) -> bool:
    """Whether a run has trained in the folder."""
    return any((folder / name).exists() for name in ("last_checkpoint", "evaluations.csv"))


def set_aside(folder: Path, patterns: Sequence[str] = CHECKPOINTS) -> Path | None:
    """Moves what belongs to an earlier run into ``earlier_run_N``: nothing may resume from another run's weights.

    Args:
        folder: of the run that begins.
        patterns: of the names to move, in this order.

    Returns:
        The new folder; None if there was nothing to move but a configuration.
    """
    # The tag first: without it, no checkpoint that is left here counts.
    old = list(dict.fromkeys(path for pattern in patterns for path in sorted(folder.glob(pattern))))
    if all(path.name == "config.yaml" for path in old):
        return None
    number = 1
    while (place := folder / f"earlier_run_{number}").exists():
        number += 1
    place.mkdir()
    for path in old:
        path.rename(place / path.name)
    logger.warning(
        "%s holds an earlier run; this run begins anew, what belongs to the other is now in %s", folder, place
    )
    return place


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file holds: tensors and plain values, nothing executed, in memory of about the file's size.

    Raises:
        DamagedCheckpoint: the file is cut off, altered since it was written, compressed, or holds anything else.
        CheckpointError: it holds no dictionary.
    """
    return _read(path, whole=True)


def _read(path: str | Path, whole: bool) -> dict[str, Any]:
    """See :func:`read_checkpoint`; not whole: without the tensors' values and their check sums."""
    _check_archive(path, sums=whole)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=not whole)
    except Exception as error:  # torch's reader meets damage with errors of almost any type
        raise DamagedCheckpoint(
            f"cannot read the checkpoint {path}: {reason(error)}. Is the file whole, and does it hold tensors and "
            f"plain values only?"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(loaded).__name__}, not a dictionary of weights")
    if _has_too_many_parts(loaded):
        raise DamagedCheckpoint(
            f"checkpoint {path} holds more than {MOST_PARTS} values, or values deeper than {DEEPEST} in each other, "
            "as no training writes: not read"
        )
    return loaded


def _has_too_many_parts(loaded: Any) -> bool:
    """Lists of lists that are the same one many times take no room in a file, and all time to walk through."""
    waiting, parts = [(loaded, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (Mapping, list, tuple)):
            parts += len(value)
            if parts > MOST_PARTS or depth > DEEPEST:
                return True
            waiting += [(part, depth + 1) for part in (value.values() if isinstance(value, Mapping) else value)]
    return False


def names_in(path: str | Path) -> frozenset[str]:
    """The names of a checkpoint's weights, read without its tensors; none if it cannot be read: loading will tell."""
    try:
        return frozenset(weights_in(_read(path, whole=False), path))
    except Exception:  # see read_checkpoint
        return frozenset()


def _check_archive(path: str | Path, sums: bool = True) -> None:
    """Verifies sizes and check sums, which torch does not: a damaged weight would load as a wrong number.

    The format of before torch 1.6 has no check sums, and is not read.
    """
    try:
        check_regular(path)
        if not zipfile.is_zipfile(path):
            raise DamagedCheckpoint(
                f"cannot read the checkpoint {path}: it is not an archive as torch.save has written since torch 1.6. "
                f"Is the file whole?"
            )
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > Path(path).stat().st_size:
                raise DamagedCheckpoint(f"checkpoint {path} is compressed, which torch.save never does: not read")
            broken = archive.testzip() if sums else None
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError, NotImplementedError) as error:
        if isinstance(error, CheckpointError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise DamagedCheckpoint(f"cannot read the checkpoint {path}: {why}. Is the file whole?") from error
    if broken:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: {broken} is not what was written. Is the file whole?")


def weights_in(loaded: dict[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, which are its "model" or, where it has none, all of it.

    Raises:
        CheckpointError: they are anything but tensors by name.
    """
    state = loaded.get("model", loaded)
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(state).__name__} as its model, not weights by name")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"checkpoint {path} holds a {type(value).__name__} named {name!r:.80}; expected weights by name"
            )
        if value.layout != torch.strided or value.is_meta or value.is_complex() or value.is_quantized:
            raise CheckpointError(f"checkpoint {path}: {name:.80} is not a plain tensor of real numbers")
    return state


def refuse_url(path: str) -> None:
    """Refuses an address where a checkpoint must be a file.

    Raises:
        CheckpointError: it is one, such as those in detectron2's configurations.
    """
    if "://" in path:
        raise CheckpointError(f"{path:.300} is an address: download the file first, then name it (docs/weights.md)")


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors with NaN or infinite values, or so large that their norm is infinite."""
    real = ((name, value) for name, value in tensors.items() if value.is_floating_point())
    return [name for name, value in real if not torch.linalg.vector_norm(value.detach().float()).isfinite()]


def named_tensors(data: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in dictionaries, lists and tuples, with the way to each as its name."""
    if isinstance(data, torch.Tensor):
        yield name, data
    elif isinstance(data, (Mapping, list, tuple)):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def shortened(names: Sequence[str]) -> str:
    """The first names of a list, and how many it has."""
    return f"{', '.join(names[:3])}{f', ... ({len(names)} in all)' if names[3:] else ''}"
