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
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean, arithmetic or geometric.
        low, high: its Student-t 95 % interval; None with fewer than two seeds.
        least: the smallest value of a seed.
        seeds: how many there are.
    """

    value: float
    low: float | None
    high: float | None
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


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean with Student's interval, ``mean +- t(0.975, n - 1) std / sqrt(n)``.

    Args:
        values: one per seed, at least one.
    """
    array = np.asarray(values, dtype=float)
    low = high = None
    if len(array) > 1:
        width = _student_half_width(array)
        low, high = float(array.mean() - width), float(array.mean() + width)
    return Estimate(float(array.mean()), low, high, float(array.min()), len(array))


def geometric_mean(ratios: Sequence[float]) -> Estimate:
    """exp(mean_s log r_s) with Student's interval of the mean logarithm, brought back by exp.

    Args:
        ratios: one per seed, positive.
    """
    logs = mean_over_seeds(np.log(ratios))
    value, low, high = (None if x is None else float(np.exp(x)) for x in (logs.value, logs.low, logs.high))
    return Estimate(value, low, high, float(min(ratios)), logs.seeds)


def paired_difference(baseline: Mapping[int, float], variant: Mapping[int, float]) -> Estimate | None:
    """Mean of variant minus baseline over the seeds that both have; None if there are none.

    Args:
        baseline, variant: seed -> value.
    """
    common = sorted(baseline.keys() & variant.keys())
    return mean_over_seeds([variant[seed] - baseline[seed] for seed in common]) if common else None


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
