import numpy as np
import pytest

from san_cliptrase.errors import CurveError
from san_cliptrase.lab.convergence.curves import Curve, area, final, first_reach, kept, late_gain, read_curve, smoothed

HEADER = "iteration,seconds,dataset,mIoU,mIoU seen,mIoU unseen\n"


def curve(*points):
    iterations, values = np.array(points, dtype=float).T
    return Curve(iterations, 2 * iterations, {"mIoU": values})


@pytest.mark.parametrize(
    ("points", "level", "first", "last"),
    [
        (((0, 10), (50, 20), (100, 40)), 25, 62.5, 62.5),
        (((0, 10), (50, 20)), 20, 50, 50),
        (((0, 10), (50, 20), (100, 20)), 20, 50, 50),
        (((0, 10), (50, 20)), 20.1, None, None),
        (((0, 30), (50, 40)), 25, 0, 0),
        (((0, 30), (50, 30)), 30, 0, 0),
        (((0, 0), (10, 30), (20, 5), (30, 40)), 15, 5, 20 + 10 * 10 / 35),
        (((0, 30), (10, 5), (20, 30)), 15, 0, 14),
        (((0, 0), (10, 30), (20, 10)), 15, 5, None),
        (((0, 30), (10, 10)), 20, 0, None),
    ],
)
def test_when_a_level_is_first_reached_and_when_for_good(points, level, first, last):
    assert first_reach(curve(*points), "mIoU", level) == (None if first is None else pytest.approx(first))
    assert kept(curve(*points), "mIoU", level) == (None if last is None else pytest.approx(last))


def test_training_time_at_a_fractional_iteration():
    assert curve((0, 1), (50, 2)).seconds_at(12.5) == 25


def test_the_end_is_the_mean_of_the_last_three_evaluations():
    assert final(curve((0, 0), (94, 100), (95, 10), (98, 20), (100, 30)), "mIoU") == 20
    assert final(curve((0, 10), (100, 30)), "mIoU") == 20


def test_one_lucky_evaluation_does_not_reach_a_level():
    made = smoothed(curve((0, 0), (10, 30), (20, 0), (30, 15), (40, 15), (50, 15)))
    assert made.metrics["mIoU"].tolist() == [0, 15, 10, 15, 10, 15]
    assert first_reach(made, "mIoU", 20) is None


def test_the_area_is_the_mean_over_the_schedule():
    assert area(curve((0, 10), (100, 30)), "mIoU") == 20
    assert area(curve((0, 0), (25, 40), (100, 40)), "mIoU") == pytest.approx(35)


def test_the_gain_in_the_last_tenth():
    assert late_gain(curve((0, 0), (80, 40), (100, 50)), "mIoU") == pytest.approx(5)
    assert late_gain(curve((0, 0), (20, 50), (40, 50), (60, 50), (80, 50), (100, 50)), "mIoU") == 0


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "evaluations.csv").write_text(text)
        return tmp_path / "evaluations.csv"

    return write


def test_a_table_is_read_by_dataset(table):
    path = table(HEADER + "0,0.0,a,1,nan,nan\n0,0.0,b,5,6,7\n20,3.5,a,2,nan,nan\n20,3.5,b,8,9,10\n")
    first, second = read_curve(path), read_curve(path, "b")
    assert list(first.metrics) == ["mIoU"]
    assert second.metrics["mIoU unseen"].tolist() == [7, 10]
    assert (second.schedule, second.period, second.seconds_at(10)) == (20, 20, 1.75)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + "0,0,a,1,1,1\n", "1 evaluations of 'a'"),
        ("", "not a table"),
        ("step,value\n0,1\n", "not a table"),
        (HEADER + "0,0,a,1,1,1\n20,1,a,2\n", "not a table"),
        (HEADER + "0,0,a,1,1,1\n0,1,a,2,2,2\n", "do not increase"),
        (HEADER + "0,0,a,1,1,1\n5,1,a,2,nan,2\n", "'a': mIoU seen is not a number at iterations 5. If"),
    ],
)
def test_what_is_no_curve_is_refused(table, text, words):
    path = table(text)
    with pytest.raises(CurveError, match=words) as caught:
        read_curve(path)
    assert str(path) in str(caught.value)


def test_a_dataset_that_was_not_evaluated_is_named(table):
    with pytest.raises(CurveError, match=r"0 evaluations of 'c' \(datasets: a\)"):
        read_curve(table(HEADER + "0,0,a,1,1,1\n5,1,a,2,2,2\n"), "c")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CurveError, match="there is no .*evaluations.csv"):
        read_curve(tmp_path / "evaluations.csv")
