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
    """

    name: str
    dataset: str
    metrics: Mapping[str, float]
    setting: str = ""


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


def write_exhibit(exhibit: Exhibit, output: Path) -> Path:
    """Writes NAME.md, NAME.json and, if there are rows and bars are wanted, NAME.png with them.

    Returns:
        The Markdown file.

    Raises:
        OutputError: a file cannot be written.
    """
    figures = list(exhibit.figures)
    if exhibit.rows and exhibit.bars:
        figures.insert(0, output / f"{exhibit.name}.png")
        write_figure(draw_bars(exhibit), figures[0])
    date, published = now(), exhibit.paper and paper_table(exhibit.paper)
    report = {
        "exhibit": exhibit.name,
        "title": exhibit.title,
        "date": date,
        "about": list(exhibit.about),
        "measured": [vars(row) | {"metrics": dict(row.metrics)} for row in exhibit.rows],
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
        settings = any(row.setting for row in exhibit.rows)
        cells = [(row.name, row.dataset, row.metrics, row.setting) for row in exhibit.rows]
        parts += ["## Measured here", table(cells, ["configuration"] if settings else [])]
    parts += [
        f"![{path.stem.replace('_', ' ')}]({path.name})" if path.suffix == ".png" else f"[{path.name}]({path.name})"
        for path in figures
    ]
    if exhibit.paper:
        published = paper_table(exhibit.paper)
        cells = [
            (method, dataset, metrics, "")
            for method, by_dataset in published.rows.items()
            for dataset, metrics in by_dataset.items()
        ]
        protocol = "unsupervised" if exhibit.paper == "table5" else "cliptrase"
        where = f"{paper_source()}, {published.title}; ViT-B/16 of OpenAI; protocol {protocol}."
        measured = {row.dataset for row in exhibit.rows}
        both = [name for name in dict.fromkeys(dataset for _, dataset, _, _ in cells) if name in measured]
        parts += ["## The paper's numbers", f"{where} {_comparable(both)}", table(cells)]
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


def table(rows: Sequence[tuple[str, str, Mapping[str, float], str]], more: Sequence[str] = ()) -> str:
    """A Markdown table of method, data set and metrics, with the last cell of a row under the heading ``more``."""
    metrics = list(dict.fromkeys(metric for _, _, values, _ in rows for metric in values))
    lines = []
    for name, dataset, values, setting in rows:
        numbers = [f"{values[metric]:.2f}" if metric in values else "" for metric in metrics]
        shown = name.replace("<", "\\<")  # "<x_i, x_j>" is no HTML
        lines.append([shown, dataset, *numbers, *([f"`{setting}`" if setting else ""] if more else [])])
    return markdown_table(["", "data set", *metrics, *more], lines, right=range(2, 2 + len(metrics)))


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
        bars = axes.barh([names.index(name) for name in values], list(values.values()), color=OKABE_ITO[0])
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set(title=dataset, xlabel=metric)
        axes.margins(x=0.2)
        axes.set_yticks(range(len(names)), names)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    for axes in panels[len(datasets) :]:
        axes.set_visible(False)
    return figure
