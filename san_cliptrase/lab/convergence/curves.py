"""A run's evaluations as a curve, and what is read off it: when a level is reached, the end, the area below.

Between two evaluations a curve is a straight line. One evaluation is noisy, and the first to touch a level is the
luckiest of many: levels and ends are read off means of :data:`WINDOW` evaluations, of all runs alike.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.integrate import trapezoid

from san_cliptrase.errors import CurveError
from san_cliptrase.files import read_bounded

METRICS = {
    "mIoU": "all",
    "mIoU seen": "seen",
    "mIoU unseen": "unseen",
    "mIoU of masks": "perfect names",
    "mIoU seen of masks": "perfect names, seen",
    "mIoU unseen of masks": "perfect names, unseen",
}
"""What curves are compared in -> its classes, as rows of tables name them. Only the first one must be there."""

WINDOW = 3
"""Evaluations that a smoothed curve averages: each with those before it, so that nothing is reached before its time."""

ABOUT = ("variant", "title", "seed", "iteration", "seconds", "dataset")
"""Columns of tables of evaluations; the others are metrics."""

MOST_BYTES = 2**26
"""Of a file of evaluations."""


@dataclass(frozen=True)
class Curve:
    """The evaluations of one finished run on one dataset.

    Attributes:
        iterations: (n,) iterations done at each evaluation, increasing; the last is the schedule's length.
        seconds: (n,) training time until then, evaluations not counted; NaN where it was not recorded.
        metrics: name -> (n,) percent.
    """

    iterations: np.ndarray
    seconds: np.ndarray
    metrics: dict[str, np.ndarray]

    @property
    def schedule(self) -> float:
        """Iterations of the whole run."""
        return float(self.iterations[-1])

    @property
    def period(self) -> float:
        """Iterations between evaluations: what the first step is; nothing finer can be told apart."""
        return float(self.iterations[1] - self.iterations[0])

    def seconds_at(self, iteration: float) -> float:
        """Training time until an iteration."""
        return float(np.interp(iteration, self.iterations, self.seconds))


def read_curve(path: str | Path, dataset: str | None = None) -> Curve:
    """Reads an ``evaluations.csv``.

    Args:
        path: the file.
        dataset: whose rows to read; None takes that of the first row.

    Raises:
        CurveError: if the file is missing or is not such a table, has fewer than two evaluations of the dataset,
            their iterations do not increase, or a metric is missing in some of them.
    """
    rows = read_rows(path, ("iteration", "seconds", "dataset"))
    dataset = dataset or rows[0]["dataset"]
    found = [row for row in rows if row["dataset"] == dataset]
    if len(found) < 2:
        names = ", ".join(sorted({row["dataset"] for row in rows}))
        raise CurveError(
            f"{path} has {len(found)} evaluations of {dataset!r} (datasets: {names}); a curve needs two: "
            "name another dataset, or train with a smaller TEST.EVAL_PERIOD"
        )
    return curve_of_rows(found, f"{path}: {dataset!r}")


def read_rows(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table of evaluations.

    Args:
        path: the file.
        columns: that it must have.

    Raises:
        CurveError: if the file is missing, is no CSV, or lacks a column or a cell.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_bounded(Path(path), MOST_BYTES).decode("utf-8"), newline="")))
    except FileNotFoundError as error:
        raise CurveError(f"there is no {path}: has this run been evaluated?") from error
    except (OSError, ValueError, csv.Error) as error:
        raise CurveError(f"{path} is not a table of evaluations: {error}") from error
    if not rows or not set(columns) <= set(rows[0]) or any(None in row or None in row.values() for row in rows):
        raise CurveError(f"{path} is not a table of evaluations, whole rows of {', '.join(columns)} and metrics")
    return rows


def curve_of_rows(rows: Sequence[Mapping[str, str]], where: str) -> Curve:
    """The curve of a run.

    Args:
        rows: its evaluations, in their order, as :func:`read_rows` returns them.
        where: they stand, for messages.

    Raises:
        CurveError: if there are fewer than two, iterations do not increase, or a metric is missing in some of them.
    """
    try:
        iterations, seconds = (np.array([float(row[name]) for row in rows]) for name in ("iteration", "seconds"))
        names = [name for name in rows[0] if name not in ABOUT]
        metrics = {name: np.array([float(row[name]) for row in rows]) for name in names}
    except ValueError as error:
        raise CurveError(f"{where} is not a table of evaluations: {error}") from error
    if len(rows) < 2 or not (np.diff(iterations) > 0).all() or not np.isfinite(iterations).all():
        raise CurveError(f"{where}: iterations do not increase from row to row, or there is one row only")
    if np.isinf(seconds).any():
        raise CurveError(f"{where}: seconds are infinite in some evaluations")
    # Evaluated beside a dataset with unseen classes, one without has empty columns for them.
    metrics = {name: values for name, values in metrics.items() if not np.isnan(values).all()}
    if "mIoU" not in metrics:
        raise CurveError(f"{where}: there is no mIoU in any evaluation")
    for name, values in sorted(metrics.items()):
        if not np.isfinite(values).all():
            missing = ", ".join(f"{iteration:.0f}" for iteration in iterations[~np.isfinite(values)])
            raise CurveError(
                f"{where}: {name} is not a number at iterations {missing}. If the key that scores it was changed "
                "before the run was resumed, take the column out of the table, or train again"
            )
    return Curve(iterations, seconds, metrics)


def first_reach(curve: Curve, metric: str, level: float) -> float | None:
    """Iterations until a metric first reaches a level; 0 if it starts there, None if it never does (censored)."""
    values = curve.metrics[metric]
    reached = np.flatnonzero(values >= level)
    if not len(reached):
        return None
    return _crossing(curve.iterations, values, int(reached[0]), level)


def kept(curve: Curve, metric: str, level: float) -> float | None:
    """The earliest iteration from which on a metric never falls below a level again; None if it ends below."""
    values = curve.metrics[metric]
    below = np.flatnonzero(values < level)
    after = int(below[-1]) + 1 if len(below) else 0
    if after == len(values):
        return None
    return _crossing(curve.iterations, values, after, level)


def _crossing(iterations: np.ndarray, values: np.ndarray, index: int, level: float) -> float:
    """Where the line that rises to evaluation ``index`` meets the level."""
    if index == 0:
        return float(iterations[0])
    share = (level - values[index - 1]) / (values[index] - values[index - 1])
    return float(iterations[index - 1] + share * (iterations[index] - iterations[index - 1]))


def smoothed(curve: Curve) -> Curve:
    """The curve of trailing means: every evaluation averaged with up to ``WINDOW - 1`` before it."""

    def trailing(values: np.ndarray) -> np.ndarray:
        starts = np.maximum(np.arange(len(values)) - WINDOW + 1, 0)
        return np.array([values[start : end + 1].mean() for end, start in enumerate(starts)])

    return Curve(curve.iterations, curve.seconds, {name: trailing(values) for name, values in curve.metrics.items()})


def start(curve: Curve, metric: str) -> float:
    """A metric before training."""
    return float(curve.metrics[metric][0])


def final(curve: Curve, metric: str) -> float:
    """Where a metric ends: the mean of its last :data:`WINDOW` evaluations."""
    return float(curve.metrics[metric][-WINDOW:].mean())


def area(curve: Curve, metric: str) -> float:
    """The mean of a metric over the schedule, in percent: its integral by trapezoids, divided by their span."""
    span = curve.schedule - curve.iterations[0]
    return float(trapezoid(curve.metrics[metric], curve.iterations) / span)


def late_gain(curve: Curve, metric: str) -> float:
    """What the smoothed metric gains in the last tenth of the schedule."""
    values = smoothed(curve).metrics[metric]
    return float(values[-1] - np.interp(0.9 * curve.schedule, curve.iterations, values))
