import numpy as np
import pytest

from san_cliptrase.lab.convergence.curves import Curve, first_reach, kept
from san_cliptrase.lab.convergence.statistics import (
    band,
    geometric_mean,
    mean_over_seeds,
    pair_times,
    paired_difference,
)


def ramp(end, start=0.0, top=100.0, length=100, period=10):
    """A curve that rises from ``start`` to ``top`` until iteration ``end`` and stays there."""
    iterations = np.arange(0, length + 1, period, dtype=float)
    return Curve(iterations, iterations, {"mIoU": start + (top - start) * np.minimum(iterations / end, 1)})


@pytest.mark.parametrize(
    ("baseline", "variant", "ratio", "bound"),
    [
        (ramp(80), ramp(40), 2, "exact"),
        (ramp(40), ramp(80), 0.5, "exact"),
        # 50 is reached before the first evaluation, or at the start: counted as one period.
        (ramp(80), ramp(10), 4, "lower"),
        (ramp(80), ramp(80, start=60), 4, "lower"),
        (ramp(80), ramp(80, top=49), 0.4, "upper"),
        (ramp(80, top=49), ramp(40), 5, "lower"),
        (ramp(80, start=60), ramp(40), 0.5, "upper"),
        (ramp(80, top=49), ramp(80, top=49), 1, "unresolved"),
        (ramp(80, start=60), ramp(80, start=60), 1, "unresolved"),
        (ramp(80, top=49), ramp(80, start=60), 10, "lower"),
        (ramp(80, start=60), ramp(80, top=49), 0.1, "upper"),
    ],
)
def test_the_ratio_of_a_pair_and_what_it_bounds(baseline, variant, ratio, bound):
    pair = pair_times(baseline, variant, "mIoU", 50, first_reach)
    assert pair.ratio == pytest.approx(ratio)
    assert pair.bound == bound
    assert pair.baseline_never == (baseline.metrics["mIoU"].max() < 50)
    assert pair.variant_never == (variant.metrics["mIoU"].max() < 50)


def test_a_level_that_is_lost_again_is_not_kept():
    falling = Curve(np.array([0.0, 10, 20]), np.zeros(3), {"mIoU": np.array([0.0, 60, 40])})
    assert not pair_times(falling, falling, "mIoU", 50, first_reach).variant_never
    assert pair_times(falling, falling, "mIoU", 50, kept).variant_never


def test_opposite_ratios_cancel():
    assert geometric_mean([4.0, 0.25]).value == pytest.approx(1)
    assert geometric_mean([4.0, 0.25]).least == 0.25


def test_students_interval_is_that_of_the_t_distribution():
    found = mean_over_seeds([1.0, 2.0, 4.0])
    half = 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((7 / 3 - half, 7 / 3 + half))
    logs = geometric_mean(np.exp([1.0, 2.0, 4.0]))
    assert (logs.value, logs.low) == pytest.approx((np.exp(7 / 3), np.exp(7 / 3 - half)))
    same = mean_over_seeds([3.0, 3.0, 3.0])
    assert (same.value, same.low, same.high, same.least, same.seeds) == (3, 3, 3, 3, 3)


def test_the_interval_of_five_seeds_holds_the_truth_in_95_of_100():
    draws = np.random.default_rng(1).normal(size=(1000, 5))  # of mean 0
    found = [mean_over_seeds(values) for values in draws]
    assert np.mean([e.low <= 0 <= e.high for e in found]) == pytest.approx(0.95, abs=0.02)


def test_one_seed_has_no_interval():
    found = geometric_mean([2.0])
    assert (found.value, found.low, found.high) == (pytest.approx(2), None, None)


def test_differences_are_taken_within_seeds():
    found = paired_difference({0: 10.0, 1: 50.0, 2: 99.0}, {0: 11.0, 1: 53.0, 7: 0.0})
    assert (found.value, found.least, found.seeds) == (2, 1, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_the_band_is_students():
    mean, width = band([np.array([1.0, 5.0]), np.array([3.0, 5.0])])
    assert mean.tolist() == [2, 5]
    # t(0.975, 1) = 12.706; the standard error of 1 and 3 is 1.
    assert width == pytest.approx([12.7062, 0], abs=1e-4)
    assert band([np.array([1.0])])[1] is None
