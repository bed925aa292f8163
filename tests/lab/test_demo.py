import json
import subprocess
import sys

import numpy as np
import pytest

from san_cliptrase.lab.convergence.curves import Curve, first_reach, read_curve
from san_cliptrase.lab.demo.run import evidence, plot_convergence, summarise
from tests.conftest import ROOT

METRICS = ("pAcc", "mAcc", "fwIoU", "mIoU", "mIoU seen", "mIoU unseen")


def curve(*points):
    iterations, values = (np.array(column, float) for column in zip(*points, strict=True))
    return Curve(iterations, 0 * iterations, dict.fromkeys(METRICS, values))


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (
            curve((0, 20.0), (300, 60.0)),
            "100% of plain SAN's last mIoU: plain after 300 iterations, from regions after 150.",
        ),
        (
            curve((0, 20.0), (300, 30.0)),
            "100% of plain SAN's last mIoU: plain after 300 iterations, from regions after more than all.",
        ),
        (
            curve((0, 35.0), (300, 60.0)),
            "80% of plain SAN's last mIoU: plain after 238 iterations, from regions after 0.",
        ),
    ],
)
def test_the_summary_says_how_fast(tmp_path, ours, words):
    curves = {"san": curve((0, 1.0), (300, 40.0)), "san_cliptrase": ours}
    rules = {"clip": dict.fromkeys(METRICS, 12.5), "cliptrase": dict.fromkeys(METRICS, 34.25)}
    text = summarise(tmp_path, rules, curves, 3.21, [tmp_path / "convergence.png"])
    assert "mIoU 40.0 after 300 iterations" in text
    assert words in text
    assert evidence() in text
    assert "34.25" in text
    assert str(tmp_path / "convergence.png") in text
    assert f"--logdir {tmp_path}" in text
    report = json.loads((tmp_path / "summary.json").read_text())
    levels = report["iterations_to_share_of_final_miou_of_plain_san"]
    assert levels["90%"]["san_cliptrase"] == first_reach(ours, "mIoU", 36.0)
    assert [row["mIoU"] for row in report["curves"]["san_cliptrase"]] == ours.metrics["mIoU"].tolist()
    assert report["training_free"] == rules


def test_a_runs_evaluations_are_plotted(tmp_path):
    names = ",".join(METRICS)
    (tmp_path / "san").mkdir()
    (tmp_path / "san" / "evaluations.csv").write_text(
        f"iteration,seconds,dataset,{names}\n0,0.0,demo_scenes_val,1,2,3,4,5,6\n50,7.5,demo_scenes_val,2,3,4,5,6,7\n"
    )
    found = read_curve(tmp_path / "san" / "evaluations.csv")
    picture = plot_convergence(tmp_path, {"san": found}, dict.fromkeys(METRICS, 3.0))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("hidden", "status", "words"), [(False, 0, "--output"), (True, 1, "make setup")])
def test_the_command_starts_and_without_detectron2_says_what_to_do(hidden, status, words):
    code = "import runpy, sys; sys.argv = ['demo', '--help']; " + "sys.modules['detectron2'] = None; " * hidden
    code += "runpy.run_module('san_cliptrase.lab.demo', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert words in (result.stderr if hidden else result.stdout)
    assert "Traceback" not in result.stderr
