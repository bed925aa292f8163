"""The budget frontier: what each way to train reaches with so many iterations, each budget with its own schedule.

A study is one of budgets if all its variants are called ``METHOD_ITERATIONS``, after their schedules. The value of a
run is its last evaluation, where its learning rate has fallen to 0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from san_cliptrase.lab.convergence.curves import METRICS
from san_cliptrase.lab.convergence.experiment import method_of
from san_cliptrase.lab.convergence.runs_and_costs import cost_section, what_ran
from san_cliptrase.lab.convergence.statistics import Estimate, mean_over_seeds, paired_difference
from san_cliptrase.lab.convergence.study import Study
from san_cliptrase.text_tables import markdown_table

_ABOUT = """\
Each budget has its own schedule, which ends at learning rate 0; the value of a run is its last evaluation. Brackets
are Student's 95 % intervals over seeds, `mean +- t(0.975, n - 1) sd / sqrt(n)`; differences are taken within seeds,
those to what needs no training from one number. **higher**, **lower**: the interval lies above, below 0; **open**: it
includes 0.
All but costs can be made again from `curves.csv`: `san-cliptrase convergence --csv curves.csv`."""


@dataclass(frozen=True)
class Frontier:
    """Percent by method and budget.

    Attributes:
        titles: method -> title, the baseline first.
        budgets: method -> iterations of its schedules, increasing.
        values: (method, iterations) -> metric -> seed -> percent; 0 iterations: before training.
        metrics: names.
        references: what needs no training: title -> metric -> percent.
    """

    titles: Mapping[str, str]
    budgets: Mapping[str, Sequence[int]]
    values: Mapping[tuple[str, int], Mapping[str, Mapping[int, float]]]
    metrics: Sequence[str]
    references: Mapping[str, Mapping[str, float]]

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return next(iter(self.titles))

    def mean(self, method: str, budget: int, metric: str) -> Estimate:
        """Over seeds."""
        return mean_over_seeds(list(self.values[method, budget][metric].values()))


def frontier_of(study: Study) -> Frontier | None:
    """The frontier of a study; None if it is not one of budgets."""
    methods = {name: method_of(name) for name in study.runs}
    schedules = {name: next(iter(runs.values())).curve.schedule for name, runs in study.runs.items()}
    if any(name != f"{methods[name]}_{schedule:.0f}" for name, schedule in schedules.items()):
        return None
    titles: dict[str, str] = {}
    budgets: dict[str, list[int]] = {}
    values: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for name, runs in study.runs.items():
        method, budget = methods[name], int(schedules[name])
        titles.setdefault(method, re.sub(rf"[,_ ]*{budget}( iterations)?$", "", study.variants[name].title) or method)
        budgets.setdefault(method, []).append(budget)
        for iterations, place in ((0, 0), (budget, -1)):
            for metric in study.metrics:
                scores = values.setdefault((method, iterations), {}).setdefault(metric, {})
                scores |= {seed: float(run.curve.metrics[metric][place]) for seed, run in runs.items()}
    budgets = {method: sorted(found) for method, found in budgets.items()}
    return Frontier(titles, budgets, values, study.metrics, study.references)


def render_frontier(frontier: Frontier, report: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The frontier as Markdown.

    Args:
        frontier: percent.
        report: what ``report.describe`` returns.
        pictures: files to show, relative to the text.
    """
    sections = {
        "A quarter of the iterations": savings(frontier),
        "An eighth of the iterations": _against_baseline(frontier, 8),
        "A sixteenth of the iterations": _against_baseline(frontier, 16),
        "The same iterations": _equal(frontier),
        "Against what needs no training": _untrained(frontier),
    }
    head = ["difference in mIoU", *(METRICS[metric] for metric in frontier.metrics)]
    parts = [
        f"# Budget frontier on {report['dataset']}",
        _ABOUT,
        *(f"![mIoU by iterations]({name})" for name in pictures),
    ]
    for title, rows in sections.items():
        if rows:
            parts += [f"## {title}", markdown_table(head, [[label, *map(_verdict, cells)] for label, cells in rows])]
    parts += ["## mIoU by iterations", _means(frontier), "## What ran", *what_ran(report), *cost_section(report)]
    return "\n\n".join(parts) + "\n"


Row = tuple[str, list["Estimate | None"]]
"""What is compared, and the difference in each metric."""


def savings(frontier: Frontier) -> list[Row]:
    """The line to decide by: each way with a quarter of the baseline's iterations against the baseline with all."""
    return _against_baseline(frontier, 4)


def savings_in_words(frontier: Frontier) -> list[str]:
    """:func:`savings`, a sentence each."""
    return [in_words(frontier, row) for row in savings(frontier)]


def in_words(frontier: Frontier, row: Row, metrics: Collection[str] = tuple(METRICS)) -> str:
    """A comparison as a sentence, with those of ``metrics`` that the frontier has."""
    label, cells = row
    found = zip(frontier.metrics, cells, strict=True)
    return f"{label}: mIoU of {', '.join(f'{METRICS[m]} {_verdict(cell)}' for m, cell in found if m in metrics)}"


def comparison(frontier: Frontier, method: str, budget: int, baseline_budget: int) -> Row:
    """A method at a budget minus the baseline at another, within seeds.

    Raises:
        KeyError: one of the two was not run.
    """
    base, titles = frontier.baseline, frontier.titles
    label = f"{titles[method]}, {budget} iterations, against {titles[base]}, {baseline_budget}"
    return label, _difference(frontier, (base, baseline_budget), (method, budget))


def _equal(frontier: Frontier) -> list[Row]:
    return _against_baseline(frontier, 1)


def _against_baseline(frontier: Frontier, times: int) -> list[Row]:
    """Each budget of each way against the baseline with so many times the iterations, where there is that."""
    return [
        comparison(frontier, method, budget, times * budget)
        for method in list(frontier.titles)[1:]
        for budget in frontier.budgets[method]
        if times * budget in frontier.budgets[frontier.baseline]
    ]


def _untrained(frontier: Frontier) -> list[Row]:
    """Each way at its longest schedule against its own start and against the references."""
    rows = []
    for method, title in frontier.titles.items():
        budget = frontier.budgets[method][-1]
        own = f"{title}, {budget} iterations, against"
        rows.append((f"{own} itself before training", _difference(frontier, (method, 0), (method, budget))))
        for name, scores in frontier.references.items():
            cells = []
            for metric in frontier.metrics:
                seeds = frontier.values[method, budget][metric]
                known = dict.fromkeys(seeds, scores[metric]) if metric in scores else {}
                cells.append(paired_difference(known, seeds))
            rows.append((f"{own} {name}", cells))
    return rows


def _difference(frontier: Frontier, first: tuple[str, int], second: tuple[str, int]) -> list[Estimate | None]:
    return [
        paired_difference(frontier.values[first][metric], frontier.values[second][metric])
        for metric in frontier.metrics
    ]


def _means(frontier: Frontier) -> str:
    budgets = sorted({budget for found in frontier.budgets.values() for budget in found})
    rows = []
    for metric in frontier.metrics:
        for method, title in frontier.titles.items():
            cells = [
                _interval(frontier.mean(method, budget, metric)) if (method, budget) in frontier.values else ""
                for budget in (0, *budgets)
            ]
            rows.append([title, METRICS[metric], *cells])
        for title, scores in frontier.references.items():
            if metric in scores:
                rows.append(
                    [f"{title} (needs no training)", METRICS[metric], f"{scores[metric]:.1f}", *[""] * len(budgets)]
                )
    return markdown_table(["mIoU", "classes", "before training", *map(str, budgets)], rows)


def _interval(estimate: Estimate, sign: str = "") -> str:
    if estimate.low is None:
        return f"{estimate.value:{sign}.1f}"
    return f"{estimate.value:{sign}.1f} [{estimate.low:{sign}.1f}, {estimate.high:{sign}.1f}]"


def _verdict(difference: Estimate | None) -> str:
    if difference is None:
        return ""
    if difference.low is None:
        return _interval(difference, "+")
    word = "higher" if difference.low > 0 else "lower" if difference.high < 0 else "open"
    return f"{_interval(difference, '+')} {word}"
