"""What a reproduction gives: rows, words and images, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from san_cliptrase.colors import OKABE_ITO
from san_cliptrase.evaluation.paper import paper_source, paper_table
from san_cliptrase.files import write_text_atomically, write_whole
from san_cliptrase.lab.convergence.worker import now
from san_cliptrase.text_tables import markdown_table


@dataclass(frozen=True)
class Row:
    """One method on one data set.

    Attributes:
        name: of the method.
        dataset: registered name.
        metrics: metric -> value, mostly percent; rows may have different metrics.
        setting: the configuration keys that make this row, KEY VALUE ..., for the reader.
        used: "protocol" with its sizes, "words" and "thresholds" of the label decision, see ``row_setting``.
        cost: time an image takes beside plain CLIP's embedding of it, median, least and largest ratio; (): unknown.
    """

    name: str
    dataset: str
    metrics: Mapping[str, float]
    setting: str = ""
    used: Mapping[str, str] = field(default_factory=dict)
    cost: Sequence[float] = ()


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper, reproduced.

    Attributes:
        name: as on the command line; the files are called after it.
        title: what it shows.
        rows: measured here.
        paper: name of the paper's table that stands beside; "": there is none.
        about: lines on what was measured: protocol, images, weights.
        notes: how the paper was read, what differs, what the numbers say.
        data: more for the JSON file.
        figures: images and pages in the output folder.
        bars: draw the rows as bars too.
        highlight: name of a row to set off.
        more: Markdown behind the paper's numbers.
    """

    name: str
    title: str
    rows: Sequence[Row] = ()
    paper: str = ""
    about: Sequence[str] = ()
    notes: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Path] = ()
    bars: bool = True
    highlight: str = ""
    more: str = ""


def write_exhibit(exhibit: Exhibit, output: Path) -> Path:
    """Writes NAME.md, NAME.json, if there are rows and bars are wanted NAME.png, and NAME_cost.png if costs are known.

    Returns:
        The Markdown file.

    Raises:
        OutputError: a file cannot be written.
    """
    figures = list(exhibit.figures)
    if exhibit.rows and exhibit.bars:
        figures.insert(0, output / f"{exhibit.name}.png")
        write_figure(draw_bars(exhibit), figures[0])
    if any(row.cost for row in exhibit.rows):
        figures.append(output / f"{exhibit.name}_cost.png")
        write_figure(draw_costs(exhibit), figures[-1])
    date, published = now(), exhibit.paper and paper_table(exhibit.paper)
    report = {
        "exhibit": exhibit.name,
        "title": exhibit.title,
        "date": date,
        "about": list(exhibit.about),
        "measured": [vars(row) | {"metrics": dict(row.metrics), "used": dict(row.used)} for row in exhibit.rows],
        "the paper's": published and {"source": f"{paper_source()}, {published.title}", "rows": published.rows},
        "notes": list(exhibit.notes),
        **exhibit.data,
    }
    write_text_atomically(output / f"{exhibit.name}.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    path = output / f"{exhibit.name}.md"
    write_text_atomically(path, render(exhibit, figures, date))
    return path


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(path, lambda file: figure.savefig(file, dpi=100, format="png"))


def render(exhibit: Exhibit, figures: Sequence[Path], date: str) -> str:
    """The Markdown text; images are named relative to each other's folder."""
    parts = [f"# {exhibit.title}", "\n".join([*(f"- {line}" for line in exhibit.about), f"- {date}"])]
    if exhibit.rows:
        parts += ["## Measured here", _measured(exhibit)]
    parts += [
        f"![{path.stem.replace('_', ' ')}]({path.name})" if path.suffix == ".png" else f"[{path.name}]({path.name})"
        for path in figures
    ]
    if exhibit.paper:
        published = paper_table(exhibit.paper)
        cells = [
            (method, dataset, metrics)
            for method, by_dataset in published.rows.items()
            for dataset, metrics in by_dataset.items()
        ]
        protocol = "unsupervised" if exhibit.paper == "table5" else "cliptrase"
        where = f"{paper_source()}, {published.title}; ViT-B/16 of OpenAI; protocol {protocol}."
        measured = {row.dataset for row in exhibit.rows}
        both = [name for name in dict.fromkeys(dataset for _, dataset, _ in cells) if name in measured]
        parts += ["## The paper's numbers", f"{where} {_comparable(both)}", table(cells)]
    if exhibit.more:
        parts.append(exhibit.more)
    if exhibit.notes:
        parts.append("\n".join(f"- {note}" for note in exhibit.notes))
    return "\n\n".join(parts) + "\n"


def _comparable(datasets: Sequence[str]) -> str:
    """What numbers of ours and the paper's have in common, given the data sets that are in both tables."""
    if not datasets:
        return "None of its data sets is in the table above, so single numbers cannot be compared."
    return (
        f"In both tables: {', '.join(datasets)}. Their numbers can be compared as far as CLIP, protocol, size and "
        "number of images, which stand at the top, are the paper's."
    )


def table(rows: Sequence[tuple], more: Sequence[str] = (), highlight: str = "") -> str:
    """A Markdown table of rows (method, data set, metrics, ...), with headings ``more`` for the cells behind these."""
    metrics = list(dict.fromkeys(metric for _, _, values, *_ in rows for metric in values))
    lines = []
    for name, dataset, values, *others in rows:
        numbers = [f"{values[metric]:.2f}" if metric in values else "" for metric in metrics]
        shown = name.replace("<", "\\<")  # "<x_i, x_j>" is no HTML
        lines.append([f"**{shown}**" if name == highlight else shown, dataset, *numbers, *others])
    return markdown_table(["", "data set", *metrics, *more], lines, right=range(2, 2 + len(metrics)))


def _measured(exhibit: Exhibit) -> str:
    """The table of the rows, with the columns that any of them has."""
    columns = {
        "time / plain CLIP": ["{:.2f} [{:.2f}, {:.2f}]".format(*row.cost) if row.cost else "" for row in exhibit.rows],
        **{key: [row.used.get(key, "") for row in exhibit.rows] for key in ("protocol", "words", "thresholds")},
        "configuration": [f"`{row.setting}`" if row.setting else "" for row in exhibit.rows],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [
        (row.name, row.dataset, row.metrics, *others)
        for row, *others in zip(exhibit.rows, *columns.values(), strict=True)
    ]
    return table(rows, list(columns), exhibit.highlight)


def draw_bars(exhibit: Exhibit) -> Figure:
    """The mIoU of every row, or where there is none its first metric: a panel a data set, a bar a method."""
    datasets = list(dict.fromkeys(row.dataset for row in exhibit.rows))
    names = list(dict.fromkeys(row.name for row in exhibit.rows))
    metric = "mIoU" if "mIoU" in exhibit.rows[0].metrics else next(iter(exhibit.rows[0].metrics))
    columns = min(3, len(datasets))
    lines = -(-len(datasets) // columns)
    figure = Figure(figsize=(4.4 + 2.4 * columns, lines * (1.0 + 0.34 * len(names))), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, dataset in zip(panels, datasets, strict=False):
        values = {row.name: row.metrics[metric] for row in exhibit.rows if row.dataset == dataset}
        colors = [OKABE_ITO[name == exhibit.highlight] for name in values]
        bars = axes.barh([names.index(name) for name in values], list(values.values()), color=colors)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set(title=dataset, xlabel=metric)
        axes.margins(x=0.2)
        axes.set_yticks(range(len(names)), names)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    for axes in panels[len(datasets) :]:
        axes.set_visible(False)
    return figure


def draw_costs(exhibit: Exhibit) -> Figure:
    """A panel a data set: mIoU over the time that an image takes beside plain CLIP; names stand at the right."""
    rows = [row for row in exhibit.rows if row.cost]
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    figure = Figure(figsize=(8.4, 5.4 * len(datasets)), layout="constrained")
    for axes, dataset in zip(figure.subplots(len(datasets), squeeze=False).ravel(), datasets, strict=True):
        own = sorted((row for row in rows if row.dataset == dataset), key=lambda row: row.metrics["mIoU"])
        right = 1.06 * max(row.cost[2] for row in own)
        values = [row.metrics["mIoU"] for row in own]
        line = (values[-1] - values[0]) / 18  # the height of a name
        places = _apart(values, line)
        for row, place in zip(own, places, strict=True):
            median, least, most = row.cost
            marked = row.name == exhibit.highlight
            color, weight = OKABE_ITO[marked], "bold" if marked else "normal"
            spread = [[median - least], [most - median]]
            axes.errorbar(median, row.metrics["mIoU"], xerr=spread, fmt="o", color=color, elinewidth=1)
            axes.annotate(
                row.name,
                (median, row.metrics["mIoU"]),
                (right, place),
                va="center",
                color=color,
                fontweight=weight,
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.7, "shrinkB": 4},
            )
        axes.set(title=dataset, xlabel="time an image / plain CLIP's embedding of it", ylabel="mIoU")
        axes.set_xlim(0, right)
        axes.set_ylim(top=places[-1] + line)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _apart(values: Sequence[float], least: float) -> list[float]:
    """Ascending values, moved up until neighbours are ``least`` apart."""
    moved: list[float] = []
    for value in values:
        moved.append(max(value, moved[-1] + least) if moved else value)
    return moved
