"""What runs paired by their seeds tell: speed-ups with their bounds, intervals over seeds, bands of curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from san_cliptrase.lab.convergence.curves import Curve

Bound = Literal["exact", "lower", "upper", "unresolved"]
Reach = Callable[[Curve, str, float], "float | None"]
RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean, arithmetic or geometric.
        low, high: its bootstrap 95 % interval; None with fewer than two seeds.
        student_low, student_high: its Student-t 95 % interval: wider, and truer where seeds are few; None likewise.
        least: the smallest value of a seed.
        seeds: how many there are.
    """

    value: float
    low: float | None
    high: float | None
    student_low: float | None
    student_high: float | None
    least: float
    seeds: int


@dataclass(frozen=True)
class Pair:
    """One seed's times to a level, as they enter the speed-up.

    Attributes:
        baseline, variant: iterations, after the rules of :func:`pair_times`.
        bound: "exact"; "lower" or "upper" where the ratio only bounds the true one; "unresolved" where both rules
            apply and the ratio says nothing.
        baseline_never, variant_never: the level was not reached within the schedule.
    """

    baseline: float
    variant: float
    bound: Bound
    baseline_never: bool
    variant_never: bool

    @property
    def ratio(self) -> float:
        """T_baseline / T_variant: above 1 the variant is faster."""
        return self.baseline / self.variant


def pair_times(baseline: Curve, variant: Curve, metric: str, level: float, reach: Reach) -> Pair:
    """The times of a pair of runs to a level, finite and positive whatever the curves do.

    A time below one evaluation period is set to that period, for a run that starts above the level would be infinitely
    fast; a run that never gets there counts with its schedule's length. Early variant or never-reaching baseline make
    the ratio a lower bound; early baseline or never-reaching variant an upper one.

    Args:
        baseline, variant: runs of one seed.
        metric: which.
        level: in percent.
        reach: ``first_reach`` or ``kept`` of ``curves``.
    """
    times, early, never = [], [], []
    for curve in (baseline, variant):
        found = reach(curve, metric, level)
        never.append(found is None)
        early.append(found is not None and found < curve.period)
        times.append(curve.schedule if found is None else max(found, curve.period))
    lower, upper = early[1] or never[0], early[0] or never[1]
    bound: Bound = "unresolved" if lower and upper else "lower" if lower else "upper" if upper else "exact"
    return Pair(times[0], times[1], bound, never[0], never[1])


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """Mean with its intervals: Student's, and the percentiles of 10000 resamples of the seeds, the same every time.

    Args:
        values: one per seed, at least one.
    """
    array = np.asarray(values, dtype=float)
    low = high = student_low = student_high = None
    if len(array) > 1:
        width = _student_half_width(array)
        student_low, student_high = float(array.mean() - width), float(array.mean() + width)
        drawn = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
        tail = 50 * (1 - CONFIDENCE)
        low, high = (float(x) for x in np.percentile(array[drawn].mean(axis=1), [tail, 100 - tail]))
    return Estimate(float(array.mean()), low, high, student_low, student_high, float(array.min()), len(array))


def geometric_mean(ratios: Sequence[float]) -> Estimate:
    """exp(mean_s log r_s) with the intervals of the mean logarithm, brought back by exp.

    Args:
        ratios: one per seed, positive.
    """
    logs = bootstrap_mean(np.log(ratios))
    intervals = (
        None if x is None else float(np.exp(x)) for x in (logs.low, logs.high, logs.student_low, logs.student_high)
    )
    return Estimate(float(np.exp(logs.value)), *intervals, float(min(ratios)), logs.seeds)


def paired_difference(baseline: Mapping[int, float], variant: Mapping[int, float]) -> Estimate | None:
    """Mean of variant minus baseline over the seeds that both have; None if there are none.

    Args:
        baseline, variant: seed -> value.
    """
    common = sorted(baseline.keys() & variant.keys())
    return bootstrap_mean([variant[seed] - baseline[seed] for seed in common]) if common else None


def band(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean curve of several seeds and the half width of its pointwise Student-t 95 % band.

    Args:
        curves: (n,) each, evaluated at the same iterations.

    Returns:
        (n,) mean, and (n,) ``t(0.975, s - 1) std / sqrt(s)``, or None with fewer than two seeds.
    """
    stacked = np.stack(curves)
    return stacked.mean(0), None if len(stacked) < 2 else _student_half_width(stacked)


def _student_half_width(values: np.ndarray) -> Any:
    """Of the mean over the first axis."""
    count = len(values)
    return stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
