"""What ran, and what an iteration cost: sections that reports and frontiers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from san_cliptrase.text_tables import markdown_table

_PERFECT_NAMES = (
    "perfect names: masks scored apart from their names, each pixel in the query whose mask is largest there, and each "
    "query named by the class of most of its pixels (`TEST.MASKS`)"
)


def what_ran(report: Mapping[str, Any]) -> list[str]:
    """Source, settings and machines.

    Args:
        report: what ``report.describe`` returns, or more.
    """
    where = [
        f"{m['gpu'] or m['processor']}, {m['cores']} cores, {m['threads']} threads a {_process(m)}, "
        f"{m['jobs']} runs at a time, torch {m['torch']}, Python {m['python']} ({m['runs']} runs or parts of runs)"
        for m in report["machines"]
    ]
    several = ["The runs did not all have the same machine, threads and jobs."] if len(where) > 1 else []
    base = [f"training configuration: `{report['base']}`{_overrides(report['overrides'], ' with ')}"]
    batch, data = report["images_per_batch"], ", ".join(report["training_sets"] or [])
    facts = [
        f"report of {report['date']}, from `{report['source']}`",
        *(base if report["base"] else []),
        *([f"{batch} images of {data} an iteration"] if batch else []),
        *(where or ["machine not recorded"]),
        *([_PERFECT_NAMES] if "mIoU of masks" in report["metrics"] else []),
        *several,
        *([f"**missing runs**, not in any number below: {'; '.join(report['missing'])}"] if report["missing"] else []),
    ]
    rows = [
        [
            v["title"],
            f"`{name}`",
            _overrides(v["overrides"]),
            "" if v["learning_rate"] is None else f"{v['learning_rate']:g}",
            f"{v['iterations']:.0f}",
            f"{v['evaluation_period']:.0f}",
            ", ".join(map(str, v["seeds"])),
        ]
        for name, v in report["variants"].items()
    ]
    head = ["variant", "name", "overrides", "learning rate", "iterations", "evaluated every", "seeds"]
    return ["\n".join(f"- {fact}" for fact in facts), markdown_table(head, rows)]


def cost_section(report: Mapping[str, Any]) -> list[str]:
    """The cost of an iteration.

    Args:
        report: what ``report.describe`` returns, or more.
    """
    heading, cost, variants = "## Cost of an iteration", report["cost"], report["variants"]
    if not cost:
        rows = [[v["title"], _logged(v)] for v in variants.values() if _logged(v)]
        text = "Not measured side by side; from the runs' own clocks:"
        return [heading, text, markdown_table(["", "logged seconds"], rows)] if rows else []
    rows = []
    for name, v in variants.items():
        if name not in cost["variants"]:
            continue
        c = cost["variants"][name]
        rows.append(
            [
                v["title"],
                _spread(c["seconds"], 3),
                _spread(c["seconds_ratio"], 2),
                f"{c['regions_share']:.1%}",
                f"{c['flops'] / 1e9:.2f}",
                _logged(v),
            ]
        )
    host = cost["machine"]
    text = (
        f"One training iteration without loading data, {cost['rounds']} rounds in which the variants take turns, on "
        f"{host['gpu'] or host['processor']} with {cost['threads']} threads, {cost['date']}. Median and quartiles; "
        f"the ratio is to the baseline of the same round. {cost['flops_note']}"
    )
    head = ["", "seconds", "ratio", "share of finding regions", "GFLOPs", "logged seconds"]
    return [heading, text, markdown_table(head, rows)]


def _process(machine: Mapping[str, Any]) -> str:
    count = machine["processes"] or 1  # not in what ran before runs had several
    return "run" if count == 1 else f"process, {count} processes a run"


def _logged(variant: Mapping[str, Any]) -> str:
    seconds = variant["logged_seconds_per_iteration"]
    return "" if seconds is None else f"{seconds:.3f}"


def _spread(values: Mapping[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} [{values['low']:.{digits}f}, {values['high']:.{digits}f}]"


def _overrides(values: Mapping[str, str], before: str = "") -> str:
    return before * bool(values) + ", ".join(f"`{key} {value}`" for key, value in values.items())
