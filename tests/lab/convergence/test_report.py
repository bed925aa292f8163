import json

import pytest

from san_cliptrase.lab.convergence.command import write_report
from san_cliptrase.lab.convergence.markdown import headline, render_markdown
from san_cliptrase.lab.convergence.report import build_report
from tests.lab.convergence.made_up import ramp, study

QUARTILES = {"low": 1.0, "median": 1.0, "high": 1.0}


def cost(**ratios):
    entry = {"region_seconds": 0.0, "regions_share": 0.25}
    variants = {
        name: {**entry, "seconds": {**QUARTILES, "median": r}, "seconds_ratio": {**QUARTILES, "median": r}, "flops": f}
        for name, (r, f) in ratios.items()
    }
    about = {"machine": {"gpu": None, "processor": "P"}, "threads": 1, "date": "today", "rounds": 8}
    return {**about, "flops_note": "Not counted: clustering.", "variants": variants}


@pytest.fixture
def twice_as_fast():
    """Seed 0: ramps of 80 against 40 iterations to the baseline's 40; seed 1: to its 20.

    A mean of three evaluations, 10 iterations apart, is 10 behind on a ramp, and at its top 20 after it.
    """
    return study({"san": {0: ramp(80, 40), 1: ramp(80, 20)}, "fast": {0: ramp(40, 40), 1: ramp(40, 20)}})


def level(report, name, place=-1, metric="mIoU"):
    return report["variants"][name]["metrics"][metric]["levels"][place]["first"]


def test_levels_are_shares_of_the_baseline_of_the_same_seed(twice_as_fast):
    report = build_report(twice_as_fast, None, "today")
    for place, times in ((0, (50, 30)), (1, (100, 60))):
        assert level(report, "san", place)["iterations"] == pytest.approx(times[0])
        assert level(report, "fast", place)["by_seed"] == pytest.approx({"0": times[1], "1": times[1]})
        speedup = level(report, "fast", place)["speedup"]
        assert [speedup[key] for key in ("value", "low", "high", "least")] == pytest.approx([5 / 3] * 4)
        assert speedup["bounds"] == {"exact": 2, "lower": 0, "upper": 0, "unresolved": 0}


def test_a_dearer_iteration_makes_the_speed_up_in_time_smaller(twice_as_fast):
    found = level(build_report(twice_as_fast, cost(san=(1.0, 100), fast=(1.6, 250)), "today"), "fast")
    assert found["speedup_seconds"]["value"] == pytest.approx(5 / 3 / 1.6)
    assert found["speedup_flops"]["value"] == pytest.approx(2 / 3)
    assert (found["seconds"], found["flops"]) == pytest.approx((96, 15_000))


def test_logged_seconds_are_those_of_the_runs():
    report = build_report(study({"san": {0: ramp(80, 40)}, "slow": {0: ramp(40, 40, seconds=3)}}), None, "today")
    found = level(report, "slow")
    assert found["logged_seconds"] == pytest.approx(180)
    assert found["speedup_logged_seconds"]["value"] == pytest.approx(100 / 180)
    assert found["speedup_seconds"] is None


def test_seeds_that_never_get_there_are_counted_and_said():
    made = study({"san": {s: ramp(80, 40) for s in range(3)}, "v": {0: ramp(40, 40), 1: ramp(40, 30), 2: ramp(40, 40)}})
    report = build_report(made, None, "today")
    found = level(report, "v")
    assert (found["never"], found["iterations"]) == (1, pytest.approx(60))
    assert found["speedup"]["bounds"]["upper"] == 1
    assert found["speedup"]["by_seed"] == pytest.approx([5 / 3, 1, 5 / 3])
    text = render_markdown(report)
    assert "60 (1 of 3 never)" in text
    assert "<= in 1 of 3, never in 1 of 3" in text
    assert "does not reach the san's final mIoU in 1 of 3 seeds" in headline(report, "v")


def test_a_start_above_the_level_is_a_lower_bound_and_said_so():
    made = study({"san": {s: ramp(80, 40) for s in range(2)}, "v": {s: ramp(1, 40) for s in range(2)}}, levels=(0.25,))
    report = build_report(made, None, "today")
    assert level(report, "v")["speedup"]["bounds"]["lower"] == 2
    assert "at least 3.0 [3.0, 3.0] times as fast" in headline(report, "v")
    assert ">= 3.00 [3.00, 3.00]" in render_markdown(report)


def rows(text):
    """The cells of the rows of a Markdown text's tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_pairs_that_bound_from_both_sides_give_no_factor():
    made = study({"san": {0: ramp(80, 40), 1: ramp(80, 40)}, "v": {0: ramp(1, 40), 1: ramp(80, 5)}}, levels=(0.25,))
    report = build_report(made, None, "today")
    row = next(row for row in rows(render_markdown(report)) if row[:2] == ["the v", "25%"])
    assert row[2] == ""
    assert any(">= in 1 of 2, <= in 1 of 2" in cell for cell in row)


def test_what_cannot_be_told_is_not_given_as_a_number():
    made = study({"san": {0: ramp(5, 40)}, "v": {0: ramp(5, 40)}}, levels=(0.25,))
    report = build_report(made, None, "today")
    assert "cannot be told" in headline(report, "v")


def test_differences_of_ends_and_areas_are_paired():
    made = study({"san": {0: ramp(50, 40), 1: ramp(50, 20), 5: ramp(50, 90)}, "v": {0: ramp(50, 42), 1: ramp(50, 24)}})
    scores = build_report(made, None, "today")["variants"]["v"]["metrics"]["mIoU"]
    assert scores["final_difference"]["value"] == pytest.approx(3)
    assert scores["area_difference"]["value"] == pytest.approx(0.75 * 3)
    assert scores["final"]["value"] == pytest.approx(33)


def test_only_metrics_that_all_runs_have_are_reported():
    made = study({"san": {0: ramp(50, 40)}, "v": {0: ramp(50, 40, metrics=("mIoU",))}})
    report = build_report(made, None, "today")
    assert report["metrics"] == ["mIoU"]
    assert "unseen" not in render_markdown(report)


def test_a_baseline_that_still_rises_is_told():
    report = build_report(study({"san": {0: ramp(100, 50)}}), None, "today")
    assert report["plateau"]["mIoU"]["value"] == pytest.approx(5)
    assert "+5.0 in the last tenth" in render_markdown(report)


def test_what_is_missing_and_unequal_is_told():
    made = study({"san": {0: ramp(80, 40)}}, missing=["v seed 3: failed, see its log.txt"])
    assert "v seed 3: failed" in render_markdown(build_report(made, None, "today"))


@pytest.mark.parametrize("variants", [1, 3, 9])
def test_files_are_written_and_json_is_strict(tmp_path, capsys, variants):
    curves = {f"v{i}": {s: ramp(80 - 5 * i, 40 + s) for s in range(2)} for i in range(variants)}
    write_report(study(curves), cost(v0=(1.0, 10)), tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert list(report["variants"]) == list(curves)
    text = (tmp_path / "report.md").read_text()
    pictures = ["curves.png", "speedups.png"] if variants > 1 else ["curves.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == pictures
    for name in pictures:
        assert f"({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert all(f"the v{i}" in text for i in range(variants))
    assert {len(row) for row in rows(text) if row[:2] == ["the v0", "`v0`"]} == {5}
    assert str(tmp_path / "report.md") in capsys.readouterr().out
