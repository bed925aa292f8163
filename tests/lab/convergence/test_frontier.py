import csv

import numpy as np
import pytest
from scipy import stats

from san_cliptrase.commands.main import main
from san_cliptrase.lab.convergence.curves import METRICS, Curve
from san_cliptrase.lab.convergence.frontier import frontier_of, savings
from tests.conftest import ROOT
from tests.lab.convergence.made_up import study

TABLE = ROOT / "docs" / "convergence" / "ccp" / "curves.csv"


def run(budget, end, start=10.0):
    points = np.array([0.0, budget])
    return Curve(points, points, dict.fromkeys(list(METRICS)[:3], np.array([start, end])))


@pytest.fixture
def made():
    """One seed pair is 2 apart, the other 6, at a quarter of the iterations."""
    return study(
        {
            "san_400": {0: run(400, 50), 1: run(400, 60)},
            "regions_100": {0: run(100, 52), 1: run(100, 66)},
            "san_100": {0: run(100, 30), 1: run(100, 30)},
        }
    )


def test_a_quarter_of_the_iterations_is_compared_within_seeds(made):
    ((label, cells),) = savings(frontier_of(made))
    assert "the regions, 100 iterations, against the san, 400" in label
    low, high = stats.t.interval(0.95, 1, 4, stats.sem([2, 6]))
    assert [(c.value, c.low, c.high) for c in cells] == [pytest.approx((4, low, high))] * 3


def test_only_variants_called_after_their_budgets_are_a_frontier(made):
    assert frontier_of(study({"san_400": {0: run(300, 50)}})) is None
    assert frontier_of(study({"san_400": {0: run(400, 50)}, "regions": {0: run(100, 50)}})) is None
    assert frontier_of(made).budgets == {"san": [100, 400], "regions": [100]}


def test_the_table_in_the_documentation_gives_its_report(tmp_path, capsys):
    assert main(["convergence", "--csv", str(TABLE), "--output", str(tmp_path)]) == 0
    text, shown = ((folder / "frontier.md").read_text() for folder in (tmp_path, TABLE.parent))
    assert text.split("## What ran")[0] == shown.split("## What ran")[0]
    assert (tmp_path / "curves.csv").read_text().count("\n") == TABLE.read_text().count("\n")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    with open(TABLE, newline="") as file:
        ends = {(r["variant"], r["seed"], r["iteration"]): float(r["mIoU"]) for r in csv.DictReader(file)}
    paired = np.array([ends["regions_75", str(s), "75"] - ends["san_300", str(s), "300"] for s in range(5)])
    low, high = stats.t.interval(0.95, 4, paired.mean(), stats.sem(paired))
    said = f"75 iterations, against plain SAN, 300: mIoU of all {paired.mean():+.1f} [{low:+.1f}, {high:+.1f}] open"
    assert said in capsys.readouterr().out
    assert "against place prior" in text
