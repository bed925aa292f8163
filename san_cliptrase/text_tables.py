"""Tables as text, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns for the terminal.

    Args:
        head: of each column.
        rows: cells as they are to be shown.
        right: places of the columns that are aligned to the right, as numbers are.
    """
    lines = _table(head, rows, right, "plain").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The same in Markdown."""
    return _table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows], right, "pipe")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], style: str) -> str:
    sides = tuple("right" if place in right else "left" for place in range(len(head)))
    return tabulate(rows, head, tablefmt=style, colalign=sides, disable_numparse=True)
