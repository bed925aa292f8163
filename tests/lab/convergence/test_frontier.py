import csv

import numpy as np
import pytest
from scipy import stats

from san_cliptrase.errors import ConfigError
from san_cliptrase.lab.convergence import frontier
from tests.conftest import ROOT

CCP = ROOT / "docs" / "convergence" / "ccp"


def _rows():
    with open(CCP / "frontier.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_of_ccp_follows_from_its_runs(tmp_path):
    frontier.main(["--csv", str(CCP / "frontier.csv"), "--output", str(tmp_path)])
    assert (tmp_path / "frontier.md").read_text() == (CCP / "frontier.md").read_text()
    assert (tmp_path / "frontier.csv").read_text() == (CCP / "frontier.csv").read_text()
    assert (tmp_path / "frontier.png").stat().st_size > 1000


def test_differences_are_paired_and_students():
    rows = {(r["method"], r["iterations"], r["seed"]): float(r["mIoU"]) for r in _rows()}
    paired = np.array([rows["regions", "75", str(s)] - rows["san", "300", str(s)] for s in range(5)])
    low, high = stats.t.interval(0.95, 4, paired.mean(), stats.sem(paired))
    line = next(x for x in (CCP / "frontier.md").read_text().splitlines() if x.startswith("| regions - san at 300"))
    assert f"{paired.mean():+.1f} [{low:+.1f}, {high:+.1f}]" in line


@pytest.mark.parametrize("name", ["san", "san_", "_75", "san_x"])
def test_a_variant_without_a_budget_is_refused(name):
    with pytest.raises(ConfigError, match="not called METHOD_ITERATIONS"):
        frontier.split_name(name)
