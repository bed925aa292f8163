"""The report's images: learning curves, speed-ups with their intervals, and budget frontiers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from san_cliptrase.colors import OKABE_ITO
from san_cliptrase.lab.convergence.curves import METRICS
from san_cliptrase.lab.convergence.frontier import Frontier
from san_cliptrase.lab.convergence.markdown import is_bounded_from_one_side

_BASELINE = "black"
_STYLES = ("-", "--", "-.", ":")
_DASHES = ((0, (6, 3)), (0, (3, 2)), (0, (6, 2, 1, 2)))
_TOGETHER = 6
"""Up to this many variants share a panel; of more, the best are drawn strongly, and each gets a panel of its own."""
_STRONG = 4
_COLUMNS = 5


def plot_curves(report: Mapping[str, Any], path: Path) -> None:
    """One panel for all, seen and unseen classes: mean over seeds with Student-t bands, baseline's final value dotted.

    Args:
        report: what ``report.build_report`` returns.
        path: PNG to write.
    """
    variants, metrics, looks = report["variants"], report["metrics"], _looks(report["variants"], report["baseline"])
    others = [name for name in variants if name != report["baseline"]]
    crowded = len(variants) > _TOGETHER
    ranked = sorted(others, key=lambda name: -variants[name]["metrics"]["mIoU"]["area"]["value"])
    strong = [report["baseline"], *(name for name in others if not crowded or name in ranked[:_STRONG])]
    rows = -(-len(others) // _COLUMNS) if crowded else 0
    height = _height(metrics)
    figure = Figure(figsize=(12.5, height + 2.1 * rows), layout="constrained")
    top, *rest = figure.subfigures(
        1 + bool(rows), 1, height_ratios=[height, 2.1 * rows] if rows else None, squeeze=False
    )[:, 0]
    for axes, metric in zip(_panels(top, metrics), metrics, strict=True):
        for name in others:
            if name not in strong:
                curve = variants[name]["metrics"][metric]["curve"]
                axes.plot(curve["iterations"], curve["mean"], color="0.8", linewidth=0.8, zorder=1)
        for name in strong:
            _draw(axes, variants[name]["metrics"][metric], looks[name], variants[name]["title"])
        _final_line(axes, report, metric)
        _references(axes, report["references"], metric)
        axes.set_xlabel("iterations")
    handles, labels = top.axes[0].get_legend_handles_labels()
    if crowded:
        handles, labels = [*handles, top.axes[0].plot([], [], color="0.8")[0]], [*labels, "the others (below)"]
    _legend(top, handles, labels)
    if rest:
        _small_multiples(rest[0], rows, report, others, looks)
    figure.savefig(path, dpi=110)


def plot_speedups(report: Mapping[str, Any], path: Path) -> None:
    """Speed-ups in iterations (mIoU, first reached) with Student's intervals, a panel for each level.

    Args:
        report: what ``report.build_report`` returns.
        path: PNG to write.
    """
    variants = {name: v for name, v in report["variants"].items() if name != report["baseline"]}
    levels, looks = report["levels"], _looks(report["variants"], report["baseline"])
    figure = Figure(figsize=(12.5, 1.9 + 0.34 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(levels), sharex=True, sharey=True, squeeze=False)[0]
    for place, (axes, level) in enumerate(zip(panels, levels, strict=True)):
        for row, (name, variant) in enumerate(variants.items()):
            speedup = variant["metrics"]["mIoU"]["levels"][place]["first"]["speedup"]
            if speedup is None:
                continue
            colour, bounded = looks[name][0], speedup["bounds"]["exact"] < speedup["seeds"]
            axes.scatter(speedup["by_seed"], [row] * speedup["seeds"], color=colour, s=9, alpha=0.6, linewidths=0)
            if not is_bounded_from_one_side(speedup):
                continue
            if speedup["low"] is not None:
                axes.plot([speedup["low"], speedup["high"]], [row, row], color=colour, linewidth=2.5, alpha=0.6)
            face = "white" if bounded else colour
            axes.scatter([speedup["value"]], [row], s=52, color=face, edgecolors=colour, linewidths=1.8, zorder=3)
        axes.axvline(1, color=_BASELINE, linewidth=1)
        axes.set(title=_level_title(level), xscale="log", ylim=(len(variants) - 0.4, -0.6))
        axes.grid(axis="x", which="both", alpha=0.25)
        axes.set_yticks(range(len(variants)), [v["title"] for v in variants.values()])
    low, high = panels[0].get_xlim()
    marks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if high > 6 * low else (0.5, 0.7, 1, 1.5, 2, 3, 4, 5)
    ticks = [mark for mark in marks if low <= mark <= high]
    panels[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_xticks([], minor=True)
    baseline = report["variants"][report["baseline"]]["title"]
    figure.supxlabel(
        f"times fewer iterations than {baseline} (1: equal). Small dots: seeds. Bar: Student's 95 %. "
        "Open circle: some pairs are only bounds; none: bounds of both kinds.",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """A panel for each metric: means over seeds by budget with Student-t bands, and what needs no training as dashes.

    Args:
        frontier: percent by method and budget.
        path: PNG to write.
    """
    looks = _looks(frontier.titles, frontier.baseline)
    figure = Figure(figsize=(12.5, _height(frontier.metrics)), layout="constrained")
    budgets = sorted({budget for found in frontier.budgets.values() for budget in found})
    start = budgets[0] / 2  # where the logarithmic axis has no place for 0
    for axes, metric in zip(_panels(figure, frontier.metrics), frontier.metrics, strict=True):
        for method, title in frontier.titles.items():
            (colour, style), own = looks[method], frontier.budgets[method]
            found = [frontier.mean(method, budget, metric) for budget in (0, *own)]
            mean, places = [e.value for e in found], [start, *own]
            axes.plot(places[:2], mean[:2], color=colour, linestyle=":", linewidth=1.2)
            axes.plot(places[1:], mean[1:], color=colour, linestyle=style, linewidth=1.8, label=title)
            axes.plot(places[0], mean[0], "o", color=colour, markerfacecolor="white", markersize=6)
            axes.plot(places[1:], mean[1:], "o", color=colour, markersize=5)
            low = [e.value if e.low is None else e.low for e in found]
            high = [e.value if e.high is None else e.high for e in found]
            axes.fill_between(places[1:], low[1:], high[1:], color=colour, alpha=0.15, linewidth=0)
            # Of a single budget the band is a bar.
            axes.vlines(places, low, high, color=colour, linewidth=1.2, alpha=0.6)
        _references(axes, frontier.references, metric)
        axes.set(xlabel="iterations of the schedule", xscale="log")
        axes.set_xticks([start, *budgets], ["0", *map(str, budgets)])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    _legend(figure, *figure.axes[0].get_legend_handles_labels())
    figure.savefig(path, dpi=110)


def _level_title(name: str) -> str:
    return f"{name} of the baseline's final" if name.endswith("%") else name


def _legend(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    # About 130 letters fit side by side; a handle takes the room of 7.
    columns = max(1, min(len(labels), 130 // (7 + max(map(len, labels)))))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def _panels(figure: Any, metrics: Sequence[str]) -> Sequence[Axes]:
    """A panel for each metric, up to four side by side; those of a row share their scale."""
    columns = len(metrics) if len(metrics) <= 4 else 3
    grid = figure.subplots(-(-len(metrics) // columns), columns, sharey="row", squeeze=False).flat
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(grid, metrics, strict=False):
        axes.set_title(f"mIoU, {METRICS[metric]}")
    for axes in grid[::columns]:
        axes.set_ylabel("percent")
    return grid[: len(metrics)]


def _height(metrics: Sequence[str]) -> float:
    return 4.6 if len(metrics) <= 4 else 8.2


def _looks(names: Iterable[str], baseline: str) -> dict[str, tuple[str, str]]:
    """Name -> colour and line style, by its place in the experiment, whatever the results are."""
    looks = [(colour, style) for style, colour in product(_STYLES, OKABE_ITO)]
    others = [name for name in names if name != baseline]
    return {baseline: (_BASELINE, "-")} | {name: looks[i % len(looks)] for i, name in enumerate(others)}


def _draw(axes: Axes, scores: Mapping[str, Any], look: tuple[str, str], label: str) -> None:
    curve, (colour, style) = scores["curve"], look
    iterations, mean = np.array(curve["iterations"]), np.array(curve["mean"])
    baseline = colour == _BASELINE
    axes.plot(
        iterations, mean, color=colour, linestyle=style, linewidth=2.2 if baseline else 1.7, label=label, zorder=3
    )
    if curve["half_width"] is not None:
        width = np.array(curve["half_width"])
        low, high = np.clip(mean - width, 0, 100), np.clip(mean + width, 0, 100)
        axes.fill_between(iterations, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    axes.grid(alpha=0.3)


def _final_line(axes: Axes, report: Mapping[str, Any], metric: str) -> None:
    baseline = report["variants"][report["baseline"]]
    value = baseline["metrics"][metric]["final"]["value"]
    axes.axhline(value, color=_BASELINE, linestyle=":", linewidth=1, label=f"final of {baseline['title']}")


def _references(axes: Axes, references: Mapping[str, Mapping[str, float]], metric: str) -> None:
    """What needs no training, as grey dashes."""
    for (title, scores), dashes in zip(references.items(), cycle(_DASHES), strict=False):
        if metric in scores:
            axes.axhline(scores[metric], color="0.4", linestyle=dashes, linewidth=1.2, label=title)


def _small_multiples(
    figure: Any, rows: int, report: Mapping[str, Any], names: Sequence[str], looks: Mapping[str, tuple[str, str]]
) -> None:
    figure.suptitle("mIoU of each variant (colour) and of the baseline (black)", fontsize="medium")
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        for drawn in (report["baseline"], name):
            variant = report["variants"][drawn]
            _draw(axes, variant["metrics"]["mIoU"], looks[drawn], variant["title"])
        axes.set_title(textwrap.fill(report["variants"][name]["title"], 28), fontsize="medium")
