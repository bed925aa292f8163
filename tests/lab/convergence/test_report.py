import json

import numpy as np
import pytest
from scipy import stats
from scipy.stats import gmean

from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.lab.convergence.command import write_report
from san_cliptrase.lab.convergence.curves_file import study_of_table
from san_cliptrase.lab.convergence.markdown import headline, render_markdown
from san_cliptrase.lab.convergence.report import build_report
from tests.lab.convergence.made_up import ramp, study

HEADER = "variant,title,seed,iteration,seconds,dataset,mIoU\n"
ROWS = "san,SAN,0,0,0,a,1\nsan,SAN,0,9,1,a,2\n"
QUARTILES = {"low": 1.0, "median": 1.0, "high": 1.0}


def cost(**ratios):
    entry = {"region_seconds": 0.0, "regions_share": 0.25}
    variants = {
        name: {**entry, "seconds": {**QUARTILES, "median": r}, "seconds_ratio": {**QUARTILES, "median": r}, "flops": f}
        for name, (r, f) in ratios.items()
    }
    about = {"machine": {"gpu": None, "processor": "P"}, "threads": 1, "date": "today", "rounds": 8}
    return {**about, "flops_note": "Not counted: clustering.", "variants": variants}


def level(report, name, place=-1, metric="mIoU"):
    return report["variants"][name]["metrics"][metric]["levels"][place]


@pytest.fixture
def twice_as_fast():
    """Ramps of 80 against 40 iterations; the baseline's end is 40 with seed 0, 20 with seed 1, so 30 in the mean.

    A mean of three evaluations, 10 iterations apart, is 10 behind on a ramp, and at its top 20 after it.
    """
    curves = {"san": {0: ramp(80, 40), 1: ramp(80, 20)}, "fast": {0: ramp(40, 40), 1: ramp(40, 20)}}
    return study(curves, levels=(0.5, 1.0, 18.0))


def test_levels_are_the_same_for_all_seeds(twice_as_fast):
    report = build_report(twice_as_fast, None, "today")
    assert report["levels"] == ["50%", "100%", "18 mIoU"]
    for place, value, times, factors in (
        (0, 15, {"0": 25, "1": 40}, (40 / 25, 70 / 40)),
        (1, 30, {"0": 40, "1": None}, (70 / 40, 1)),
        (2, 18, {"0": 28, "1": 49}, (46 / 28, 83 / 49)),
    ):
        found = level(report, "fast", place)
        assert found["value"] == pytest.approx(value)
        assert found["first"]["by_seed"] == pytest.approx(times)
        speedup = found["first"]["speedup"]
        assert speedup["by_seed"] == pytest.approx(factors)
        low, high = np.exp(stats.t.interval(0.95, 1, np.log(factors).mean(), stats.sem(np.log(factors))))
        assert [speedup[key] for key in ("value", "low", "high")] == pytest.approx([gmean(factors), low, high])
    assert level(report, "fast", 1)["first"]["speedup"]["bounds"]["unresolved"] == 1  # seed 1 of both ends below
    assert level(report, "san", 1)["first"]["never"] == 1


def test_a_dearer_iteration_makes_the_speed_up_in_time_smaller(twice_as_fast):
    report = build_report(twice_as_fast, cost(san=(1.0, 100), fast=(1.6, 250)), "today")
    found = level(report, "fast", 0)["first"]
    assert found["speedup_seconds"]["value"] == pytest.approx(found["speedup"]["value"] / 1.6)
    assert found["speedup_flops"]["value"] == pytest.approx(found["speedup"]["value"] / 2.5)


def test_logged_seconds_are_those_of_the_runs():
    report = build_report(study({"san": {0: ramp(80, 40)}, "slow": {0: ramp(40, 40, seconds=3)}}), None, "today")
    found = level(report, "slow")["first"]
    assert found["speedup_logged_seconds"]["value"] == pytest.approx(100 / 180)
    assert found["speedup_seconds"] is None


def test_seeds_that_never_get_there_are_counted_and_said():
    made = study({"san": {s: ramp(80, 40) for s in range(3)}, "v": {0: ramp(40, 40), 1: ramp(40, 30), 2: ramp(40, 40)}})
    report = build_report(made, None, "today")
    found = level(report, "v")["first"]
    assert (found["never"], found["iterations"]) == (1, pytest.approx(60))
    assert found["speedup"]["bounds"]["upper"] == 1
    assert found["speedup"]["by_seed"] == pytest.approx([5 / 3, 1, 5 / 3])
    text = render_markdown(report)
    assert "60 (1 of 3 never)" in text
    assert "<= in 1 of 3, never in 1 of 3" in text
    assert "it reaches 100% of the san's mean final mIoU in 2 of 3 seeds, the san in 3" in headline(report, "v")


def test_a_start_above_the_level_is_a_lower_bound_and_said_so():
    made = study({"san": {s: ramp(80, 40) for s in range(2)}, "v": {s: ramp(1, 40) for s in range(2)}}, levels=(0.25,))
    report = build_report(made, None, "today")
    assert level(report, "v")["first"]["speedup"]["bounds"]["lower"] == 2
    assert "at least 3.0 [3.0, 3.0] times as fast" in headline(report, "v")
    assert ">= 3.00 [3.00, 3.00]" in render_markdown(report)


def rows(text):
    """The cells of the rows of a Markdown text's tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_pairs_that_bound_from_both_sides_give_no_factor():
    made = study({"san": {0: ramp(80, 40), 1: ramp(80, 40)}, "v": {0: ramp(1, 40), 1: ramp(80, 5)}}, levels=(0.25,))
    report = build_report(made, None, "today")
    assert ["the v", "all", "(>= in 1 of 2, <= in 1 of 2, never in 1 of 2)"] in rows(render_markdown(report))


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


def test_a_report_can_be_made_again_from_its_table(tmp_path):
    curves = {"san": {0: ramp(80, 40), 3: ramp(70, 41)}, "v": {0: ramp(30, 41.7), 3: ramp(50, 40)}}
    reference = {"a, b": {"mIoU": 2.5}}
    report = write_report(study(curves, references=reference), None, tmp_path)
    again = build_report(study_of_table(tmp_path / "curves.csv", (0.5, 1.0)), None, "today")
    for key in ("dataset", "baseline", "metrics", "references", "levels", "plateau"):
        assert again[key] == report[key]
    for name, variant in report["variants"].items():
        assert again["variants"][name]["title"] == variant["title"]
        assert again["variants"][name]["metrics"] == variant["metrics"]
    assert "machine not recorded" in render_markdown(again)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iteration,seconds,dataset,mIoU\n0,0,a,1\n", "whole rows of variant, title"),
        (f"{HEADER}san,SAN,x,0,0,a,1\n", "invalid literal"),
        (f"{HEADER}san,SAN,0,0,0,a,1\n", "san seed 0: iterations do not increase"),
        (f"{HEADER}san,SAN,0,0,0,a,1\nsan,SAN,0,9,1,b,2\n", "of several data sets"),
        (f"{HEADER}{ROWS}san,SAN,1,0,0,a,1\nsan,SAN,1,8,1,a,2\n", "seeds of san were evaluated at different"),
        (f"{HEADER}{ROWS}san,SAN,1,0,0,a,1\nsan,SAN,1,9,inf,a,2\n", "seconds are infinite"),
        (f"{HEADER}{ROWS},CLIP,,,,a,nan\n", "CLIP: mIoU is nan, which is not percent"),
    ],
)
def test_what_is_no_table_of_runs_is_refused(tmp_path, text, words):
    (tmp_path / "curves.csv").write_text(text)
    with pytest.raises(SanCliptraseError, match=words):
        study_of_table(tmp_path / "curves.csv")


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
    assert {len(row) for row in rows(text) if row[:2] == ["the v0", "`v0`"]} == {7}
    assert str(tmp_path / "report.md") in capsys.readouterr().out
