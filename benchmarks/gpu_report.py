"""How ``benchmarks/gpu.py`` reports: rows, each written as soon as it is measured. Needs nothing but Python."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        section: What it belongs to.
        name: What was measured.
        values: One for each round.
        unit: Of the values; "" for ratios and shares.
        at_most: The bound on the median, if it has one.
        note: What else there is to know; of a section that failed, the error.
        failed: Whether the section broke off here.
    """

    section: str
    name: str
    values: tuple[float, ...] = ()
    unit: str = ""
    at_most: float | None = None
    note: str = ""
    failed: bool = False

    @property
    def passed(self) -> bool:
        """Whether it was measured and its median is a number within the bound."""
        return not self.failed and (self.at_most is None or statistics.median(self.values) <= self.at_most)

    def __str__(self) -> str:
        if self.failed:
            return f"| {self.name} | FAILED |  | {self.note} |"
        shown = f"{statistics.median(self.values):.3g}"
        if len(self.values) > 1:
            shown += f" [{min(self.values):.3g}, {max(self.values):.3g}]"
        bound = "" if self.at_most is None else f"{self.at_most:g}" + ("" if self.passed else " EXCEEDED")
        return f"| {self.name} | {shown} {self.unit} | {bound} | {self.note} |"


class Report:
    """Writes rows to ``rows.jsonl`` and ``report.md``, each at once.

    Args:
        folder: Made where it is missing; an older report in it is replaced.
        machine: What the rows were measured on.
    """

    def __init__(self, folder: Path, machine: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self._lines, self._table = folder / "rows.jsonl", folder / "report.md"
        self._section = ""
        self._lines.write_text("")
        self._table.write_text(f"# benchmarks/gpu.py\n\n{machine}. Medians of the rounds [least, most].\n")

    def add(self, row: Row) -> None:
        """Writes a row and prints it."""
        self.rows.append(row)
        with self._lines.open("a") as file:
            file.write(json.dumps({**asdict(row), "passed": row.passed}) + "\n")
        if row.section != self._section:
            self._section = row.section
            self.say(f"\n## {row.section}\n\n| | median | at most | |\n|---|---|---|---|")
        self.say(str(row))

    def say(self, text: str) -> None:
        """Adds a line to the table and prints it."""
        with self._table.open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)
