"""The budget frontier: what each way to train reaches with so many iterations, each budget with its own schedule.

``python -m san_cliptrase.lab.convergence.frontier --config configs/ccp/frontier.yaml`` reads the finished runs of an
experiment whose variants are called ``METHOD_ITERATIONS`` and writes ``frontier.csv`` (every run), ``frontier.md``
(means and paired differences with Student's t) and ``frontier.png`` into its output folder. With ``--csv`` it reads
such a table instead of the runs. The value of a run is its last evaluation, at the end of its schedule.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from san_cliptrase.errors import ConfigError, CurveError
from san_cliptrase.files import write_text_atomically
from san_cliptrase.lab.convergence.curves import METRICS, read_curve
from san_cliptrase.lab.convergence.experiment import Experiment
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.statistics import Estimate, bootstrap_mean, paired_difference
from san_cliptrase.lab.convergence.worker import FINISHED

Values = Mapping[tuple[str, int, str], Mapping[int, float]]
"""(method, iterations, metric) -> seed -> percent at the end of the schedule. Iterations 0: before training."""

COLUMNS = ("method", "iterations", "seed", *METRICS)


def split_name(variant: str) -> tuple[str, int]:
    """Method and budget of a variant's name.

    Raises:
        ConfigError: the name does not end in an underscore and a number.
    """
    method, _, budget = variant.rpartition("_")
    if not method or not budget.isdigit():
        raise ConfigError(f"variant {variant!r} is not called METHOD_ITERATIONS, such as san_300")
    return method, int(budget)


def rows_of_runs(experiment: Experiment) -> list[dict[str, str]]:
    """A row for each finished run, and one for each method and seed before training.

    Raises:
        ConfigError, CurveError: see :func:`split_name` and :func:`san_cliptrase.lab.convergence.curves.read_curve`.
    """
    rows = {}
    for name, seed in experiment.runs():
        method, budget = split_name(name)
        folder = experiment.folder(name, seed)
        if not (folder / FINISHED).exists():
            continue
        curve = read_curve(folder / "evaluations.csv", experiment.dataset)
        for iterations, place in ((0, 0), (budget, -1)):
            values = {metric: f"{curve.metrics[metric][place]:.4f}" for metric in METRICS if metric in curve.metrics}
            rows[method, iterations, seed] = {
                "method": method,
                "iterations": str(iterations),
                "seed": str(seed),
                **values,
            }
    return [rows[key] for key in sorted(rows)]


def read_values(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, int, str], dict[int, float]]:
    """The table as :data:`Values`."""
    values: dict[tuple[str, int, str], dict[int, float]] = {}
    for row in rows:
        for metric in METRICS:
            if row.get(metric):
                key = row["method"], int(row["iterations"]), metric
                values.setdefault(key, {})[int(row["seed"])] = float(row[metric])
    return values


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    if estimate.student_low is None:
        return f"{estimate.value:{sign}.1f}"
    return f"{estimate.value:{sign}.1f} [{estimate.student_low:{sign}.1f}, {estimate.student_high:{sign}.1f}]"


def render(values: Values, baseline: str) -> str:
    """The report in Markdown.

    Args:
        values: of all methods and budgets.
        baseline: the method that the others are compared with, at every budget of theirs and of its own.
    """
    methods = sorted({method for method, _, _ in values}, key=lambda m: (m != baseline, m))
    budgets = sorted({budget for _, budget, _ in values})
    lines = ["# Budget frontier", "", "Means over seeds with Student's 95 % intervals; 0: before training.", ""]
    for metric in METRICS:
        if not any(key[2] == metric for key in values):
            continue
        lines += [f"## {metric}", "", "| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
        for method in methods:
            found = [values.get((method, budget, metric)) for budget in budgets]
            cells = [_cell(bootstrap_mean(list(v.values()))) if v else "" for v in found]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        for other in methods[1:]:
            for against in budgets[1:]:
                reference = values.get((baseline, against, metric))
                differences = [
                    paired_difference(reference, own) if reference and own else None
                    for own in (values.get((other, budget, metric)) for budget in budgets)
                ]
                cells = [_cell(difference, "+") for difference in differences]
                lines.append(f"| {other} - {baseline} at {against} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(values: Values, path: Path) -> None:
    """Draw mIoU over budgets: a line for each method with Student's 95 % bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = [metric for metric in METRICS if any(key[2] == metric for key in values)]
    figure, axes = plt.subplots(1, len(metrics), figsize=(4 * len(metrics), 3.2), layout="constrained", squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for method in sorted({key[0] for key in values}):
            budgets = sorted(key[1] for key in values if key[0] == method and key[2] == metric)
            found = [bootstrap_mean(list(values[method, budget, metric].values())) for budget in budgets]
            bars = [0.0 if e.student_high is None else e.student_high - e.value for e in found]
            axis.errorbar(range(len(budgets)), [e.value for e in found], bars, label=method, capsize=3, marker="o")
            axis.set_xticks(range(len(budgets)), list(map(str, budgets)))
        axis.set_title(metric)
        axis.set_xlabel("iterations of the schedule")
        axis.set_ylim(0)
    axes[0][0].set_ylabel("%")
    axes[0][0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=Path, help="experiment whose runs are read")
    source.add_argument("--csv", type=Path, help="table of an earlier call")
    parser.add_argument("--baseline", default="san", help="method that the others are compared with (default: san)")
    parser.add_argument("--output", type=Path, help="folder (default: that of the experiment, or of the table)")
    args = parser.parse_args(argv)
    try:
        if args.csv:
            with open(args.csv, newline="", encoding="utf-8") as file:
                rows, output = list(csv.DictReader(file)), args.output or args.csv.parent
        else:
            experiment = read_experiment(args.config)
            rows, output = rows_of_runs(experiment), args.output or experiment.output
        values = read_values(rows)
        if not any(method == args.baseline for method, _, _ in values):
            raise ConfigError(f"there is no finished run of the baseline {args.baseline!r}")
    except (ConfigError, CurveError, OSError) as error:
        sys.exit(f"error: {error}")
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: row.get(column, "") for column in COLUMNS} for row in rows)
    write_text_atomically(output / "frontier.csv", table.getvalue())
    write_text_atomically(output / "frontier.md", render(values, args.baseline) + "\n")
    plot(values, output / "frontier.png")


if __name__ == "__main__":
    main()
