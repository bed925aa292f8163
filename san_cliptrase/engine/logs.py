"""The files that a run appends to, when it goes on or begins anew: what lies behind its checkpoint is dropped."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from san_cliptrase.files import write_text_atomically


def keep_rows(path: Path, done: int) -> list[dict[str, str]]:
    """Keeps the rows of evaluations after at most ``done`` iterations; -1 keeps none.

    Returns:
        The rows that stay.
    """
    rows = []
    if path.exists():
        reader = csv.DictReader(io.StringIO(_whole_lines(path), newline=""))
        rows = [row for row in reader if None not in row.values() and int(row["iteration"]) <= done]
    if not rows:
        path.unlink(missing_ok=True)
        return []
    kept = io.StringIO(newline="")
    writer = csv.DictWriter(kept, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, kept.getvalue())
    return rows


def keep_lines(path: Path, done: int) -> None:
    """Keeps the JSON lines of the first ``done`` iterations."""
    if not path.exists():
        return
    kept = "".join(f"{x}\n" for x in _whole_lines(path).splitlines() if json.loads(x)["iteration"] < done)
    # Also where nothing but half a line goes: what is written next would be appended to it.
    if kept.encode() != path.read_bytes():
        write_text_atomically(path, kept)


def _whole_lines(path: Path) -> str:
    """The content without a last line that a kill has cut off."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    return text[: text.rfind("\n") + 1]
