"""The end of a run whose numbers are no longer finite: which files its batch came from is written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm

from san_cliptrase.errors import DivergedError
from san_cliptrase.files import write_text_atomically

_FILES = ("file_name", "sem_seg_file_name", "image_id")


def diverged(output: Path, iteration: int, batch: Sequence[dict], error: FloatingPointError) -> DivergedError:
    """Writes ``not_finite_ITERATION_PROCESS.json`` and returns what to raise.

    Args:
        output: folder of the run.
        iteration: the one that failed.
        batch: this process's samples.
        error: what was not finite.

    Raises:
        OutputError: the file cannot be written.
    """
    path = output / f"not_finite_{iteration:07d}_{comm.get_rank()}.json"
    names = [{key: str(entry[key]) for key in _FILES if key in entry} for entry in batch]
    report = {"iteration": iteration, "error": str(error), "batch": names}
    write_text_atomically(path, json.dumps(report, indent=1))
    return DivergedError(
        f"not finite in iteration {iteration}: {error}. Nothing of it was saved; the batch's files are named in "
        f"{path}. Look at them, or lower SOLVER.BASE_LR, and --resume from the last checkpoint"
    )
