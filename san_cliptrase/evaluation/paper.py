"""The numbers that CLIPtrase's authors published: beside ours where every setting agrees, and as whole tables."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "paper_numbers.json"
# Metric of the paper -> which of ours is computed alike.
_OURS = {name: f"{name} (CLIPtrase script)" for name in ("mAcc", "fwIoU", "mIoU")}


def paper_numbers(dataset: str, setting: Callable[[str], Any]) -> dict[str, float] | None:
    """What the paper reports for a dataset where every setting that its numbers depend on agrees.

    Args:
        dataset: registered name.
        setting: configuration key with dots -> its value.

    Returns:
        Metric, by the name of ours that is computed alike -> percent; None where a setting or the size is another, or
        the paper does not have the dataset.
    """
    data = _read()
    if any(setting(key) not in values for key, values in data["settings"].items()):
        return None
    table = data["tables"].get(data["sizes"].get(str(setting("TEST.SIZE"))))
    values = table and table["rows"]["CLIPtrase"].get(dataset)
    return values and {_OURS.get(name, name): value for name, value in zip(table["metrics"], values, strict=True)}


@dataclass(frozen=True)
class PaperTable:
    """A table as it is printed.

    Attributes:
        title: what it shows.
        rows: method -> registered name of the data set -> metric, by the paper's name -> percent.
    """

    title: str
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]


def paper_table(name: str) -> PaperTable:
    """A table of the supplement.

    Args:
        name: "table1" to "table5".
    """
    table = _read()["tables"][name]
    rows = {
        method: {dataset: dict(zip(table["metrics"], values, strict=True)) for dataset, values in by_dataset.items()}
        for method, by_dataset in table["rows"].items()
    }
    return PaperTable(table["title"], rows)


def paper_source() -> str:
    """Where the numbers are printed."""
    return _read()["source"]


@functools.cache
def _read() -> dict:
    return json.loads(_FILE.read_text(encoding="utf-8"))
