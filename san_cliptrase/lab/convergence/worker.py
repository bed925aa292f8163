"""One training run in a process of its own: begun, continued, or found finished."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from argparse import Namespace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.utils import comm

from san_cliptrase.config import add_san_cliptrase_config
from san_cliptrase.data.own import register_own
from san_cliptrase.engine.logs import setup_logging
from san_cliptrase.engine.processes import run_processes
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import ConfigError
from san_cliptrase.files import read_bounded, write_text_atomically
from san_cliptrase.lab.convergence.experiment import flatten
from san_cliptrase.locks import only_run_in
from san_cliptrase.pools import end_with_parent
from san_cliptrase.yaml_files import read_yaml

FINISHED = "finished.json"
_PARTS = "parts.json"
_REMOVE = "Remove it to do what it stands for again"
MOST_BYTES = 2**26
"""Of a JSON file."""


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, cores this process may use, GPU, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_finished(cfg: Any) -> bool:
    """Whether the run of a configuration has been done, in its OUTPUT_DIR.

    Raises:
        ConfigError: if the folder holds a run of another configuration.
    """
    folder = Path(cfg.OUTPUT_DIR)
    finished = (folder / FINISHED).exists()
    _check_same(cfg, folder, finished)
    return finished


def train_run(cfg: Any, threads: int, jobs: int, keep_checkpoints: bool, gpus: int = 1) -> None:
    """Trains a run from where it is to its end, and marks it finished.

    Args:
        cfg: its frozen configuration.
        threads: of torch in each process; the order of sums, and so the last digits, depend on them.
        jobs: runs beside each other, kept with the run because times depend on them.
        keep_checkpoints: or remove them at the end.
        gpus: processes that share its batches, one a GPU; they share the CPU where MODEL.DEVICE is that.

    Raises:
        ConfigError: if the folder holds a run of another configuration, or another process works in it.
        LaunchError: if there are not so many GPUs.
    """
    folder, started = Path(cfg.OUTPUT_DIR), time.monotonic()
    with only_run_in(folder):
        if is_finished(cfg):
            return
        write_text(folder / "config.yaml", cfg.dump())
        here = {"num_gpus": gpus, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
        device = ["MODEL.DEVICE", cfg.MODEL.DEVICE]
        run_processes(_train, Namespace(cfg=cfg, threads=threads, jobs=jobs, opts=device, **here))
        wall = round(time.monotonic() - started, 1)
        parts = read_json(folder / _PARTS)
        write_json(folder / FINISHED, {"date": now(), "wall_seconds_of_last_part": wall, "parts": parts})
    if not keep_checkpoints:
        remove_checkpoints(folder)


def _train(args: Namespace) -> None:
    """What each process of a run does."""
    cfg, folder = args.cfg, Path(args.cfg.OUTPUT_DIR)
    if args.num_gpus > 1:  # a process of its own, which knows nothing of what the run's has set up
        _set_up(folder)
    torch.set_num_threads(args.threads)
    # Before anything is drawn: variants of a seed start from the same weights where they have the same parts.
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg, resume=True)
    if comm.is_main_process():
        how = {"threads": args.threads, "jobs": args.jobs, "processes": args.num_gpus}
        part = {"date": now(), "from_iteration": trainer.start_iter, **how, **machine()}
        # Of an interrupted run, only the parts that it was continued from count.
        before = checked_parts(read_json(folder / _PARTS) or [], folder / _PARTS) if trainer.start_iter else []
        write_json(folder / _PARTS, [*before, part])
    trainer.train()


def _set_up(folder: Path) -> None:
    end_with_parent()
    setup_logging(folder)
    register_own()


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a finished run."""
    for path in [*folder.glob("model_*.pth"), *folder.glob(".unfinished-*-model_*.pth"), folder / "last_checkpoint"]:
        path.unlink(missing_ok=True)


def process_main(cfg: Any, threads: int, jobs: int, keep_checkpoints: bool, gpus: int) -> None:
    """What a run's process does: :func:`train_run`, with all that is printed in the run's ``log.txt``."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "ab", buffering=0) as log, open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        _set_up(folder)
        train_run(cfg, threads, jobs, keep_checkpoints, gpus)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        logging.getLogger(__name__).exception("this run failed")
        sys.exit(1)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_text_atomically(path, text.rstrip("\n") + "\n")


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON, in which there is no NaN, whole or not at all."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False))


def read_json(path: Path) -> Any:
    """What a JSON file holds; None if there is none.

    Raises:
        ConfigError: if it is no JSON.
    """
    try:
        return json.loads(read_bounded(path, MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}. {_REMOVE}") from error


def finished_parts(folder: Path) -> list[dict[str, Any]]:
    """Where and when a finished run ran, one entry for each time it was continued; none if that is not known.

    Raises:
        ConfigError: if ``finished.json`` is not what :func:`train_run` writes.
    """
    path = folder / FINISHED
    found = read_json(path)
    return [] if found is None else checked_parts(found.get("parts") if isinstance(found, dict) else None, path)


def checked_parts(parts: Any, path: Path) -> list[dict[str, Any]]:
    """The parts of a run that a JSON file holds.

    Raises:
        ConfigError: if they are no such parts.
    """
    plain = (str, int, float, type(None))
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and all(isinstance(value, plain) for value in part.values()) for part in parts
    ):
        raise ConfigError(f"{path} does not hold the parts of a run. {_REMOVE}")
    return parts


def now() -> str:
    """Date and time with its zone, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _check_same(cfg: Any, folder: Path, finished: bool) -> None:
    path = folder / "config.yaml"
    if not path.is_file():
        if finished or (folder / "evaluations.csv").exists():
            raise ConfigError(f"{folder} holds a run without its config.yaml: move it away")
        return
    try:
        # A key that came later stands for its default, which is what the run was made with.
        there = flat_defaults() | flatten(read_yaml(path))
    except (ConfigError, AttributeError) as error:
        raise ConfigError(f"{path} is not a configuration: {error}. Move {folder} away") from error
    here = flatten(cfg)
    # Nor where it runs: a report can be made, and a run continued, on another machine; the report names them.
    own = {"OUTPUT_DIR", "MODEL.DEVICE"}
    keys = sorted(k for k in here.keys() | there.keys() if k not in own and here.get(k) != there.get(k))
    if keys:
        shown = "; ".join(f"{key} was {there.get(key)!r}, is {here.get(key)!r}" for key in keys[:5])
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise ConfigError(
            f"{folder} holds a run of another configuration: {shown}{more}. Undo the change, move the folder away, "
            "or name another --output"
        )


def flat_defaults() -> dict[str, Any]:
    """Dotted key -> value of a configuration that says nothing."""
    cfg = get_cfg()
    add_san_cliptrase_config(cfg)
    return flatten(cfg)
