"""The files that a run appends to, when it goes on or begins anew: what lies behind its checkpoint is dropped."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from san_cliptrase.checkpoints.files import refuse_strange
from san_cliptrase.errors import DataError, OutputError
from san_cliptrase.files import write_text_atomically

logger = logging.getLogger(__name__)

_LOG_BEGINS: dict[Path, int] = {}
_FIRST_COLUMNS = ("iteration", "seconds", "dataset")


def keep_rows(path: Path, done: int) -> list[dict[str, str]]:
    """Keeps the rows of evaluations after at most ``done`` iterations; -1 keeps none.

    Returns:
        The rows that stay.

    Raises:
        DataError: the file is not a table of evaluations.
    """
    found = _read_rows(path) if path.exists() else []
    whole = [row for row in found if _is_evaluation(row)]
    if len(whole) < len(found):
        logger.warning("%s: %d damaged row(s) are left out", path, len(found) - len(whole))
    rows = [row for row in whole if int(row["iteration"]) <= done]
    if not rows:
        path.unlink(missing_ok=True)
        return []
    _write_rows(path, rows)
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Appends a row to the evaluations; where it has other columns, the table gets them all."""
    if path.exists():
        rows = _read_rows(path)
        if rows and list(rows[0]) != list(row):
            _write_rows(path, [*rows, row])
            return
    fresh = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def keep_lines(path: Path, done: int) -> None:
    """Keeps the JSON lines of the first ``done`` iterations; those that a power cut has damaged are left out."""
    if not path.exists():
        return
    kept, damaged = [], 0
    for line in _whole_lines(path).splitlines():
        try:
            content = json.loads(line)
            kept += [line] if content["iteration"] < done else []
        except (ValueError, TypeError, LookupError, RecursionError):
            damaged += 1
    if damaged:
        logger.warning("%s: %d damaged line(s) are left out", path, damaged)
    text = "".join(f"{line}\n" for line in kept)
    # Also where nothing but half a line goes: what is written next would be appended to it.
    if text.encode() != path.read_bytes():
        write_text_atomically(path, text)


def setup_logging(output: Path) -> None:
    """Log lines of detectron2 and of this project to the screen and to ``output/log.txt``.

    Raises:
        OutputError: the folder or the file cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        refuse_strange(output)
        note_log(output)
        for name in ("fvcore", "detectron2", "san_cliptrase"):
            setup_logger(str(output), distributed_rank=comm.get_rank(), name=name)
    except OSError as error:
        raise OutputError(
            f"cannot write to OUTPUT_DIR {output}: {error.strerror or error}. Check free disk space and write "
            "permission"
        ) from error


@contextlib.contextmanager
def writer_failures() -> Iterator[list[OSError]]:
    """Inside, TensorBoard's own thread tells what it cannot write by this list, and not by a traceback."""
    usual, failures = threading.excepthook, []

    def keep(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard."):
            failures.append(args.exc_value)
        else:
            usual(args)

    threading.excepthook = keep
    try:
        yield failures
    finally:
        threading.excepthook = usual


def note_log(folder: Path) -> None:
    """Takes down where this run's lines begin in ``log.txt``, before it is opened."""
    path = _log(folder)
    _LOG_BEGINS[path] = path.stat().st_size if path.exists() else 0


def forget_log(folder: Path) -> None:
    """Takes this process's lines out of ``log.txt``; where there were no others, the file."""
    path = _log(folder)
    begins = _LOG_BEGINS.pop(path, None)
    with contextlib.suppress(OSError):  # what ended the run may be the disk
        if begins:
            os.truncate(path, begins)
        elif begins is not None:
            path.unlink()


def move_earlier_log(folder: Path, place: Path) -> None:
    """Moves the lines of earlier runs in this process's log to another folder; it stays open for this run's."""
    path = _log(folder)
    if not path.exists():
        return
    content = path.read_bytes()
    begins = _LOG_BEGINS.get(path, len(content))
    (place / path.name).write_bytes(content[:begins])
    # In place: the open file appends, wherever its end is now.
    with open(path, "r+b") as file:
        file.write(content[begins:])
        file.truncate()
    _LOG_BEGINS[path] = 0


def _log(folder: Path) -> Path:
    """The file that detectron2's logger of this process appends to."""
    rank = comm.get_rank()
    return Path(os.path.abspath(folder)) / (f"log.txt.rank{rank}" if rank else "log.txt")


def _whole_lines(path: Path) -> str:
    """The content without a last line that a kill has cut off, and without the NULs that a power cut leaves."""
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\0", "")
    return text[: text.rfind("\n") + 1]


def _read_rows(path: Path) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(_whole_lines(path), newline=""))
    try:
        columns, rows = tuple(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise DataError(f"{path} is not a table of evaluations: {error}. Move it away") from error
    if columns and columns[:3] != _FIRST_COLUMNS:
        raise DataError(
            f"{path} is not a table of evaluations: its columns are {', '.join(columns)[:200]!r}, and not "
            f"{', '.join(_FIRST_COLUMNS)} and metrics. Move it away"
        )
    return rows


def _is_evaluation(row: Mapping[str | None, Any]) -> bool:
    """Whether a row is whole: as many cells as columns, and numbers where numbers belong."""
    if None in row or None in row.values():
        return False
    try:
        int(row["iteration"])
        [float(value) for name, value in row.items() if name != "dataset"]
    except ValueError:
        return False
    return True


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    kept = io.StringIO(newline="")
    writer = csv.DictWriter(kept, list(dict.fromkeys(name for row in rows for name in row)), restval="nan")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, kept.getvalue())
