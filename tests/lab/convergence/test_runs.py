"""Real runs, as small as they get."""

import csv
import fcntl
import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from san_cliptrase.commands.main import main
from san_cliptrase.data.datasets import class_names
from san_cliptrase.data.own import register_own
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import ConfigError
from san_cliptrase.lab.convergence import cost, runner
from san_cliptrase.lab.convergence.cost import measure
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.worker import is_finished, train_run, write_json
from san_cliptrase.scenes import make_scene
from tests.conftest import ROOT, TINY


@pytest.fixture
def lab(tiny_data, tmp_path):
    """Function of overrides: an experiment of two variants and one seed on the tiny data."""

    def build(**changes):
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in TINY.items()}
        values |= {"MODEL.SAN.SIDE.FUSION": [[0, 0], [2, 1]], "VIS_IMAGES": 0}
        values |= {key.replace("__", ".").upper(): value for key, value in changes.items()}
        data = {
            "base": str(ROOT / "configs" / "demo" / "san.yaml"),
            "output": str(tmp_path / "lab"),
            "baseline": "san",
            "seeds": [3],
            "overrides": values,
            "variants": {"san": {}, "prior": {"overrides": {"MODEL.SAN.QUERY_INIT.NAME": "prior"}}},
        }
        (tmp_path / "lab.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        return read_experiment(tmp_path / "lab.yaml")

    return build


def write_splits(root, count, classes):
    """The same scenes as a train and a val split, their labels folded into so many classes."""
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            scene = make_scene((73, index), size=64)
            Image.fromarray(scene.image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(scene.labels % classes).save(root / "annotations" / split / f"{index}.png")


class Killed(Exception):
    pass


def test_a_run_goes_on_where_it_was_cut_off_and_is_done_once(lab, monkeypatch):
    cfg = lab().config("san", 3)
    folder = lab().folder("san", 3)
    step = Trainer.run_step

    def dies(trainer):
        if trainer.iter == 3:
            raise Killed
        step(trainer)

    monkeypatch.setattr(Trainer, "run_step", dies)
    with pytest.raises(Killed):
        train_run(cfg, 1, 1, False)
    assert not is_finished(cfg)
    monkeypatch.setattr(Trainer, "run_step", step)
    train_run(cfg, 1, 1, False)
    finished = json.loads((folder / "finished.json").read_text())
    assert [part["from_iteration"] for part in finished["parts"]] == [0, 2]
    assert finished["parts"][0]["threads"] == 1
    assert is_finished(cfg)
    assert not list(folder.glob("*.pth"))
    monkeypatch.setattr(Trainer, "run_step", dies)
    train_run(cfg, 1, 1, False)


def test_a_folder_of_another_configuration_is_refused(lab):
    train_run(lab(solver__max_iter=2).config("san", 3), 1, 1, False)
    with pytest.raises(ConfigError, match=r"another configuration: SOLVER.MAX_ITER was 2, is 4\. Undo"):
        is_finished(lab().config("san", 3))


def test_report_and_tensorboard_of_finished_runs(lab, tmp_path, capsys):
    experiment = lab(solver__max_iter=2, test__eval_period=1)
    command = ["convergence", "--config", str(tmp_path / "lab.yaml"), "--report-only"]
    assert main(command) == 1
    assert "no run of the baseline san is finished" in capsys.readouterr().err
    train_run(experiment.config("san", 3), 1, 1, False)
    assert main(command) == 0
    assert "missing: prior seed 3: not finished" in capsys.readouterr().out
    train_run(experiment.config("prior", 3), 1, 1, True)
    assert list(experiment.folder("prior", 3).glob("*.pth"))
    for _ in range(2):
        assert main(command) == 0
    report = json.loads((experiment.output / "report.json").read_text())
    assert list(report["variants"]) == ["san", "prior"]
    assert report["missing"] == []
    assert len(list(experiment.folder("prior", 3).glob("*.lab"))) == 1
    events = EventAccumulator(str(experiment.folder("prior", 3)))
    events.Reload()
    final = events.Scalars("lab/final mIoU")[0].value
    assert final == pytest.approx(report["variants"]["prior"]["metrics"]["mIoU"]["final"]["value"], rel=1e-5)
    assert "run/text_summary" in events.Tags()["tensors"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    summary = EventAccumulator(str(experiment.output / "summary" / "prior"))
    summary.Reload()
    tag = f"{experiment.dataset}/mIoU"
    assert {tag, "band/mIoU, low", "band/mIoU, high"} <= set(summary.Tags()["scalars"])
    shown = [event.value for event in summary.Scalars(tag)]
    assert shown == pytest.approx(report["variants"]["prior"]["metrics"]["mIoU"]["curve"]["mean"], rel=1e-5)
    # The same runs, as folders that have nothing to do with an experiment.
    folders = [str(experiment.output / name) for name in ("san", "prior")]
    output = tmp_path / "comparison"
    assert main(["convergence", "--compare", *folders, "--labels", "A", "B", "--output", str(output)]) == 0
    compared = json.loads((output / "report.json").read_text())
    assert compared["variants"]["B"]["overrides"] == {"MODEL.SAN.QUERY_INIT.NAME": "prior"}
    assert compared["variants"]["B"]["metrics"] == report["variants"]["prior"]["metrics"]
    assert main(["convergence", "--compare", *folders, "--labels", "A"]) == 1
    assert "--labels" in capsys.readouterr().err
    finished = experiment.folder("prior", 3) / "finished.json"
    written = finished.read_text()
    for strange in ("[]", "3", '{"parts": 7}', '{"parts": [[]]}', '{"parts": [{"cores": []}]}', '{"date": 1}'):
        finished.write_text(strange)
        assert main(["convergence", "--compare", *folders, "--labels", "A", "B", "--output", str(output)]) == 1
        assert f"{finished} does not hold the parts of a run. Remove it" in capsys.readouterr().err.splitlines()[-1]
    finished.write_text(written)
    config = experiment.folder("prior", 3) / "config.yaml"
    config.write_text(config.read_text().replace("PROTOCOL: whole", "PROTOCOL: slide"))
    assert main(["convergence", "--compare", *folders, "--labels", "A", "B", "--output", str(output)]) == 1
    assert "rows of the protocols slide and whole do not belong in one table" in capsys.readouterr().err


def test_costs_are_measured_side_by_side(lab):
    experiment = lab()
    measured = measure({name: experiment.config(name, 3) for name in experiment.variants}, "san", 1, rounds=2)
    san, prior = measured["variants"]["san"], measured["variants"]["prior"]
    assert san["seconds_ratio"] == {"low": 1, "median": 1, "high": 1}
    assert prior["seconds"]["median"] > 0
    assert 0 < prior["regions_share"] < 1
    # Prior strengths alone need no matrix product; clustering is not counted, the correlation is.
    assert prior["flops"] > san["flops"] > 1e6
    assert not experiment.output.exists()


def test_a_run_that_fails_is_named_with_its_reason(lab, tmp_path, capsys, monkeypatch):
    experiment = lab(
        datasets__train=["demo_scenes_train"], datasets__test=["demo_scenes_val"], model__weights="none.pth"
    )
    monkeypatch.setattr(runner, "dataset_records", lambda name: None)
    assert runner.run_all(experiment, [("san", 3)], jobs=1, threads=1) == [("san", 3)]
    out = capsys.readouterr().out
    assert "san seed 3 FAILED with exit status 1" in out
    assert "there is no checkpoint none.pth" in out
    assert str(experiment.folder("san", 3)) in out


def test_two_processes_do_not_work_in_one_folder(lab):
    cfg, folder = lab().config("san", 3), lab().folder("san", 3)
    folder.mkdir(parents=True)
    with open(folder / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process works in .*seed_3: wait"):
            train_run(cfg, 1, 1, False)
    train_run(cfg, 1, 1, False)
    assert is_finished(cfg)


def test_runs_beside_each_other_do_what_they_do_alone(lab, tmp_path, monkeypatch):
    """In processes of their own, which know the data sets of the package only: scenes in the place of CamVid."""
    write_splits(tmp_path / "camvid", 4, len(class_names("camvid")))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    experiment = lab(
        datasets__train=["camvid_train"], datasets__test=["camvid_val"], solver__max_iter=2, test__eval_period=2
    )
    runs = experiment.runs()
    assert runner.run_all(experiment, runs, jobs=2, threads=1) == []
    beside = [_metrics(experiment.folder(*run)) for run in runs]
    assert runner.run_all(experiment, runs, jobs=2, threads=1) == []  # nothing is left to do
    shutil.move(experiment.output, tmp_path / "before")
    for run in runs:
        train_run(experiment.config(*run), 1, 1, False)
    assert [_metrics(experiment.folder(*run)) for run in runs] == beside


@pytest.mark.slow
def test_a_run_of_two_processes_ends_where_one_ends(lab, tmp_path, monkeypatch):
    write_splits(tmp_path / "camvid", 4, len(class_names("camvid")))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    experiment = lab(
        datasets__train=["camvid_train"], datasets__test=["camvid_val"], solver__max_iter=2, test__eval_period=1
    )
    assert main(["convergence", "--config", str(experiment.path), "--num-gpus", "2", "--threads", "1"]) == 0
    report = json.loads((experiment.output / "report.json").read_text())
    assert [machine["processes"] for machine in report["machines"]] == [2]
    assert "1 threads a process, 2 processes a run" in (experiment.output / "report.md").read_text()
    together = _metrics(experiment.folder("prior", 3))
    shutil.move(experiment.output, tmp_path / "before")
    train_run(experiment.config("prior", 3), 1, 1, False)
    for row, one in zip(together, _metrics(experiment.folder("prior", 3)), strict=True):
        assert float(row["mIoU"]) == pytest.approx(float(one["mIoU"]), abs=0.5)


def test_more_gpus_than_there_are_are_refused(lab, tmp_path, capsys):
    lab(model__device="auto")
    assert main(["convergence", "--config", str(tmp_path / "lab.yaml"), "--num-gpus", "99"]) == 1
    assert "--num-gpus 99, but this machine has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "known", "seen"),
    [
        (1, "0 1 2", ["0", "1", "2", "0"]),
        (2, "4 5 6 7", ["4,5", "6,7", "4,5", "6,7"]),
        (2, "0 1 2", ["0,1"] * 4),
        (1, "0", [None] * 4),
        (1, "", [None] * 4),
    ],
)
def test_runs_beside_each_other_are_on_different_gpus(gpus, known, seen):
    assert [runner.gpus_of_place(place, gpus, known.split()) for place in range(4)] == seen


def _metrics(folder):
    with open(folder / "evaluations.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_costs_are_kept_until_a_configuration_or_the_threads_change(lab, monkeypatch):
    measured = []

    def pretend(configs, baseline, threads, path):
        measured.append(sorted(configs))
        variants = {name: {"fingerprint": cost._fingerprint(cfg)} for name, cfg in configs.items()}
        write_json(path, {"baseline": baseline, "threads": threads, "variants": variants})

    class Inline:
        exitcode = 0

        def __init__(self, target, args):
            self.start = lambda: pretend(*args)

        join = terminate = lambda self: None

    monkeypatch.setattr(cost.multiprocessing, "get_context", lambda _: SimpleNamespace(Process=Inline))
    experiment = lab()
    experiment.output.mkdir()
    for threads in (1, 1, 2, 2):
        cost.cost_of(experiment, ["prior"], threads)
    assert len(measured) == 2
    changed = lab(model__san__no_object_weight=0.3)
    assert cost.cached_cost(changed) is None
    cost.cost_of(changed, ["prior"], 2)
    assert len(measured) == 3
    for strange in ([], 3, {}, {"baseline": "san", "variants": {"san": 1}}):
        write_json(experiment.output / "cost.json", strange)
        with pytest.raises(ConfigError, match=r"cost\.json holds no costs"):
            cost.cached_cost(experiment)


def test_a_registered_folder_is_known_to_the_runs_processes(lab, tmp_path, monkeypatch):
    names = [f"thing {index}" for index in range(24)]
    write_splits(tmp_path / "street", 2, len(names))
    (tmp_path / "street" / "classes.txt").write_text("\n".join(names))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    try:
        assert main(["data", "register", str(tmp_path / "street"), "--workers", "1"]) == 0
        experiment = lab(
            datasets__train=["street_train"], datasets__test=["street_val"], solver__max_iter=2, test__eval_period=2
        )
        assert runner.run_all(experiment, [("san", 3)], jobs=1, threads=1) == []
    finally:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
        register_own()
