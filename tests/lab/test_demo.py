import csv
import json

import numpy as np
import pytest
from scipy import stats

from san_cliptrase import Segmenter
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import TrainingError
from san_cliptrase.lab.convergence.curves import Curve, first_reach, read_curve
from san_cliptrase.lab.demo.run import CONFIGS, RUNS, plot_convergence, summarise, train_side_by_side, trained
from san_cliptrase.lab.five_seeds import FIVE_SEEDS, claim
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
    assert "\n".join(claim(METRICS[3:])) in text
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


@pytest.fixture
def runs(tmp_path, tiny_overrides, monkeypatch):
    """Function of changes: tiny configurations of both runs, on data that their processes find too."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    data = {"DATASETS.TRAIN": ("demo_scenes_tune",), "DATASETS.TEST": (), "SOLVER.MAX_ITER": 2}

    def configs(**changes):
        values = {name: {**data, **changes, "OUTPUT_DIR": str(tmp_path / name)} for name in RUNS}
        return {name: load_config(CONFIGS / f"{name}.yaml", tiny_overrides(**values[name])) for name in RUNS}

    return configs


def test_both_runs_are_trained_side_by_side(runs):
    configs = runs()
    train_side_by_side(configs)
    plain, ours = (trained(cfg) for cfg in configs.values())
    for cfg in configs.values():  # as predict --san and export do
        assert Segmenter.from_san(cfg.OUTPUT_DIR).method.shorter == cfg.INPUT.MIN_SIZE_TEST
    assert not plain.network.query_init.needs_regions
    assert ours.network.query_init.needs_regions


def test_a_run_that_fails_says_why_and_ends_the_other(runs, capfd):
    with pytest.raises(TrainingError, match="training plain SAN failed|training SAN from CLIPtrase's regions failed"):
        train_side_by_side(runs(**{"MODEL.WEIGHTS": "absent.pth"}))
    assert "absent.pth" in capfd.readouterr().err


def test_the_claim_follows_from_the_evaluations_in_the_documentation():
    """75 iterations from regions against 300 of plain SAN, and against its longest training."""
    table = ROOT / "docs/convergence/demo_frontier/curves.csv"
    assert FIVE_SEEDS.read_bytes() == table.read_bytes()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    longest = max(int(row["iteration"]) for row in rows if row["variant"].startswith("san_"))
    lines = dict(zip(sorted({300, longest}), claim(METRICS[3:]), strict=True))
    for iterations, line in lines.items():
        assert line.startswith(f"from regions, 75 iterations, against plain SAN, {iterations}: ")
        for metric in METRICS[3:]:
            ours, plain = (
                {row["seed"]: float(row[metric]) for row in rows if (row["variant"], row["iteration"]) == run}
                for run in (("regions_75", "75"), (f"san_{iterations}", str(iterations)))
            )
            paired = np.array([ours[seed] - plain[seed] for seed in ours.keys() & plain.keys()])
            low, high = stats.t.interval(0.95, len(paired) - 1, paired.mean(), stats.sem(paired))
            assert f"{paired.mean():+.1f} [{low:+.1f}, {high:+.1f}]" in line
