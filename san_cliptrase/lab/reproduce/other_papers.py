"""Numbers that the authors of other training-free methods published, each under a protocol of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from san_cliptrase.text_tables import markdown_table

_FILE = Path(__file__).parent / "other_papers.json"


@dataclass(frozen=True)
class Published:
    """A row of somebody's table, ViT-B/16 of OpenAI.

    Attributes:
        method: with what was added to it.
        protocol: a value of TEST.PROTOCOL, or whose own it is.
        setting: the protocol in words.
        source: where the numbers are printed.
        miou: registered name of the data set -> mIoU as mmsegmentation counts it, percent.
    """

    method: str
    protocol: str
    setting: str
    source: str
    miou: Mapping[str, float]


def other_papers() -> list[Published]:
    """All rows that are known."""
    rows = json.loads(_FILE.read_text(encoding="utf-8"))
    return [Published(r["method"], r["protocol"], r["setting"], r["source"], r["mIoU"]) for r in rows]


def published_tables() -> str:
    """Markdown: a table of each protocol, since numbers of two do not belong in one."""
    rows = other_papers()
    parts = [
        "Copied from the sources named, none measured here; ViT-B/16 of OpenAI, mIoU as mmsegmentation counts it "
        "(`mIoU (detectron2 0.6)` here). A table for each protocol: numbers of two are not to be compared, nor any of "
        "these with those above, unless TEST.PROTOCOL there has that name."
    ]
    for protocol in dict.fromkeys(row.protocol for row in rows):
        own = [row for row in rows if row.protocol == protocol]
        lines = [
            [row.method, *(f"{row.miou[name]:.2f}" for name in own[0].miou), _mean(row), row.source] for row in own
        ]
        head = [f"protocol {protocol}", *own[0].miou, "mean", "source"]
        parts += [f"{own[0].setting}:", markdown_table(head, lines, right=range(1, len(head) - 1))]
    return "\n\n".join(parts)


def _mean(row: Published) -> str:
    return f"{sum(row.miou.values()) / len(row.miou):.2f}"
