"""The numbers that CLIPtrase's authors published, for settings that are theirs and for no others."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
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
    values = data["sizes"].get(str(setting("TEST.SIZE")), {}).get(dataset)
    return values and {_OURS.get(name, name): value for name, value in zip(data["metrics"], values, strict=True)}


def paper_source() -> str:
    """Where the numbers are printed."""
    return _read()["source"]


@functools.cache
def _read() -> dict:
    return json.loads(_FILE.read_text(encoding="utf-8"))
