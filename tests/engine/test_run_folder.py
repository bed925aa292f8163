"""One run in a folder at a time, what it records there, and how it goes on with other keys."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from san_cliptrase import builders
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.commands.main import train_net as main
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.solver import PolynomialSchedule
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import ConfigError, DivergedError, OutputError
from san_cliptrase.evaluation.evaluator import SemanticEvaluator
from san_cliptrase.locks import only_run_in
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "demo" / "san.yaml"
QUIET = {"vis_images": 0, "test__eval_period": 0, "test__max_images": 1}


@pytest.fixture
def call(world, capsys):
    """Function of options and changes: runs the command in ``world.output``; (status, last line of stderr)."""

    def run(*options, config=CONFIG, **changes):
        capsys.readouterr()
        status = main(["--config", str(config), *options, *world.overrides(**{**QUIET, **changes})])
        return status, (capsys.readouterr().err.splitlines() or [""])[-1]

    return run


def solver_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())["SOLVER"]


def rates(folder):
    """Iteration -> learning rate, as logged."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {line["iteration"]: line["lr"] for line in lines if "lr" in line}


def test_rates_and_decays_of_the_command_line_hold_from_the_checkpoint_on(call, world):
    assert call(solver__max_iter=2, solver__base_lr=0.002, solver__poly_power=0.5)[0] == 0
    changes = {"solver__base_lr": 0.0001, "solver__poly_power": 1.0, "solver__weight_decay": 0.0}
    changes |= {"solver__weight_decay_embed": 0.5, "solver__clip_gradients__clip_value": 0.5}
    assert call("--resume", solver__max_iter=4, **changes)[0] == 0
    # The first iteration has this run's rate, not the end of the old schedule.
    assert rates(world.output) == pytest.approx(
        {0: 0.002, 1: 0.002 * 0.5**0.5, 2: 0.0001 * 0.5, 3: 0.0001 * 0.25}, rel=1e-9
    )
    saved = torch.load(world.output / "model_final.pth", weights_only=True)["trainer"]["optimizer"]
    assert {group["weight_decay"] for group in saved["param_groups"]} == {0.0, 0.5}
    assert all(entry["step"] == 4 for entry in saved["state"].values()), "the moments are the first run's"
    solver = solver_of(world.output)
    assert (solver["BASE_LR"], solver["WEIGHT_DECAY"], solver["MAX_ITER"]) == (0.0001, 0.0, 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"solver__ims_per_batch": 1}, "SOLVER.IMS_PER_BATCH was 2"),
        ({"seed": 5}, "SEED was 0"),
        ({"datasets__train": "('tiny_val',)"}, "DATASETS.TRAIN was ['tiny_train'], is ['tiny_val']"),
        ({"model__san__num_queries": 9}, "MODEL.SAN.NUM_QUERIES was 8"),
        ({"model__san__mask_weight": 1.0}, "MODEL.SAN.MASK_WEIGHT was 5.0"),
        ({"model__weights": "x.pth"}, "MODEL.WEIGHTS was '', is 'x.pth'"),
        ({"solver__momentum": 0.5}, "SOLVER.MOMENTUM"),
        ({"solver__max_iter": 1}, "SOLVER.MAX_ITER is 1, but the run in"),
    ],
)
def test_keys_that_cannot_take_effect_are_refused_by_name(call, world, changes, named):
    assert call(solver__max_iter=2)[0] == 0
    before = (world.output / "config.yaml").read_bytes()
    status, line = call("--resume", **{"solver__max_iter": 2, **changes})
    assert status == 1
    assert named in line
    assert (world.output / "config.yaml").read_bytes() == before


def test_a_key_that_has_no_effect_is_refused_in_a_new_run_too(call):
    status, line = call(solver__warmup_iters=10)
    assert status == 1
    assert "SOLVER.WARMUP_ITERS is detectron2's and has no effect here" in line


def test_the_schedule_can_be_entered_anywhere():
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)], "lr": 2.0}, {"params": [torch.ones(1)], "lr": 0.5}])
    schedule = PolynomialSchedule(optimizer, 0.5, 8)
    schedule.go_to(6)
    assert [group["lr"] for group in optimizer.param_groups] == schedule.get_last_lr() == [1.0, 0.25]
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2 * 0.125**0.5, 0.5 * 0.125**0.5])


def test_a_run_that_was_extended_ends_with_a_new_final_checkpoint(world, monkeypatch):
    Trainer(world.config(solver__max_iter=2, **QUIET)).train()
    save = SafeCheckpointer.save

    def killed_before_the_final_one(self, name, **kwargs):
        if name == "model_final":
            raise RuntimeError("killed")
        save(self, name, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(SafeCheckpointer, "save", killed_before_the_final_one)
        Trainer(world.config(solver__max_iter=4, **QUIET), resume=True).train()
    Trainer(world.config(solver__max_iter=4, **QUIET), resume=True).train()
    assert torch.load(world.output / "model_final.pth", weights_only=True)["iteration"] == 3


def test_a_new_run_moves_all_that_belongs_to_the_old_one(call, world):
    assert call(solver__max_iter=1, solver__base_lr=0.5, vis_images=1)[0] == 0
    (world.output / "notes.txt").write_text("mine")
    (world.output / "not_finite_0000000_0.json").write_text("{}")
    before = {path.name for path in world.output.iterdir()}
    log = (world.output / "log.txt").read_bytes()
    weights = world.output / "model_final.pth"
    assert call(solver__max_iter=2, solver__base_lr=0.25, model__weights=str(weights))[0] == 0
    old = world.output / "earlier_run_1"
    assert {path.name for path in old.iterdir()} == before - {"notes.txt"}
    assert (old / "log.txt").read_bytes() == log
    assert (solver_of(old)["BASE_LR"], solver_of(world.output)["BASE_LR"]) == (0.5, 0.25)
    text = (world.output / "log.txt").read_text()
    assert "what belongs to the other is now in" in text
    assert "model_0000001.pth" in text
    assert log.decode() not in text
    assert list(rates(world.output)) == [0, 1]
    assert (world.output / "notes.txt").read_text() == "mine"


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED = {
    "model": ({"model__san__side__width": 33}, "MODEL.SAN.SIDE.WIDTH"),
    "clip": ({"model__clip__pretrained": "nowhere.pt"}, "nowhere.pt"),
    "weights": ({"model__weights": "nowhere.pth"}, "there is no checkpoint nowhere.pth"),
    "data": ({"datasets__test": "('camvid_val',)"}, "camvid_val"),
}


@pytest.mark.parametrize("options", [(), ("--eval-only",)])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_run_that_is_refused_before_it_begins_leaves_nothing(call, world, monkeypatch, tmp_path, options, kind):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nothing"))
    changes, message = REFUSED[kind]
    output = world.output / "deep" / "run"
    status, line = call(*options, output_dir=str(output), **changes)
    assert status == 1
    assert message in line
    assert not world.output.exists()


def test_a_refused_run_leaves_the_run_before_it_as_it_was(call, world):
    assert call(solver__max_iter=1)[0] == 0
    before = content(world.output)
    for changes, message in (REFUSED["model"], REFUSED["weights"]):
        status, line = call(**changes)
        assert status == 1
        assert message in line
        assert content(world.output) == before


@pytest.mark.parametrize("damage", ["missing", "folder", "text", "list", "end"])
@pytest.mark.parametrize("options", [(), ("--eval-only",)])
def test_weights_that_cannot_be_used_are_told_before_a_model_is_built(call, tmp_path, monkeypatch, damage, options):
    monkeypatch.setattr(builders, "build_clip", lambda *args: pytest.fail("a CLIP was built"))
    path = tmp_path / "weights.pth"
    torch.save([1] if damage == "list" else {"model": {"a": torch.zeros(3)}}, path)
    if damage in ("missing", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage in ("text", "end"):
        path.write_bytes(b"no weights" if damage == "text" else path.read_bytes()[:-9])
    status, line = call(*options, model__weights=str(path))
    assert status == 1
    assert str(path) in line


def test_nothing_to_resume_from_is_told_before_a_model_is_built(call, world, monkeypatch):
    monkeypatch.setattr(builders, "build_clip", lambda *args: pytest.fail("a CLIP was built"))
    status, line = call("--eval-only", "--resume")
    assert status == 1
    assert "has no checkpoint; name one with MODEL.WEIGHTS FILE" in line
    world.output.mkdir()
    (world.output / "last_checkpoint").write_text("model_final.pth")
    (world.output / "model_final.pth").write_text("cut off")
    for options in (("--resume",), ("--eval-only", "--resume")):
        status, line = call(*options)
        assert status == 1
        assert "none of the 1 checkpoints" in line


def test_the_second_of_two_runs_in_a_folder_is_refused(call, world):
    with only_run_in(world.output):
        for options in ((), ("--resume",), ("--eval-only",)):
            status, line = call(*options)
            assert status == 1
            assert f"another process works in {world.output}" in line
        assert [path.name for path in world.output.iterdir()] == ["lock"]


@pytest.mark.parametrize("name", ["log.txt", "metrics.json", "evaluations.csv", "last_checkpoint", "config.yaml"])
def test_a_pipe_in_the_folder_of_a_run_is_not_waited_for(call, world, name):
    world.output.mkdir(parents=True, exist_ok=True)
    os.mkfifo(world.output / name)
    for options in ((), ("--resume",)):
        status, line = call(*options)
        assert status == 1
        assert f"{name} is a pipe, a socket or a device, where a run has a file" in line


def test_an_evaluation_in_the_folder_of_a_run_leaves_its_configuration_and_results(call, world):
    assert call(solver__max_iter=2)[0] == 0
    before = (world.output / "config.yaml").read_bytes()
    results = {path.name: path.read_bytes() for path in world.output.glob("*_tiny_val.*")}
    assert len(results) == 3
    weights = str(world.output / "model_final.pth")
    changes = {"datasets__train": "()", "solver__base_lr": 0.5, "test__pictures": 1}
    assert call("--eval-only", model__weights=weights, **changes)[0] == 0
    assert (world.output / "config.yaml").read_bytes() == before
    assert solver_of(world.output / "eval_only")["BASE_LR"] == 0.5
    assert {path.name: path.read_bytes() for path in world.output.glob("*_tiny_val.*")} == results
    assert {*results, "results.csv", "pictures"} <= {path.name for path in (world.output / "eval_only").iterdir()}
    assert call("--resume", solver__max_iter=3)[0] == 0


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's traceback
@pytest.mark.parametrize("what", ["folder", "folder, made again", "log"])
def test_a_folder_that_is_deleted_ends_the_run(world, monkeypatch, what):
    step = Trainer.run_step

    def deleting(trainer):
        if trainer.iter == 1:
            shutil.rmtree(world.output) if "folder" in what else (world.output / "metrics.json").unlink()
            if "again" in what:
                world.output.mkdir()
        step(trainer)

    monkeypatch.setattr(Trainer, "run_step", deleting)
    with pytest.raises(OutputError, match="has been deleted, moved or replaced"):
        Trainer(world.config(solver__max_iter=2, **QUIET)).train()


def test_a_folder_that_is_deleted_in_an_evaluation_is_told_and_the_results_are_written(call, world, monkeypatch):
    process = SemanticEvaluator.process

    def deleting(*args):
        shutil.rmtree(world.output, ignore_errors=True)
        process(*args)

    monkeypatch.setattr(SemanticEvaluator, "process", deleting)
    status, line = call("--eval-only", datasets__train="()")
    assert status == 1
    assert f"{world.output} has been deleted, moved or replaced" in line
    assert (world.output / "metrics_tiny_val.json").is_file()


def test_a_folder_that_is_deleted_with_the_last_checkpoint_ends_the_run_too(world, monkeypatch):
    tag = SafeCheckpointer.tag_last_checkpoint

    def deleting(self, name):
        tag(self, name)
        if name == "model_final.pth":
            shutil.rmtree(world.output)

    monkeypatch.setattr(SafeCheckpointer, "tag_last_checkpoint", deleting)
    with pytest.raises(OutputError, match="has been deleted, moved or replaced"):
        Trainer(world.config(solver__max_iter=2, **QUIET)).train()


@pytest.mark.parametrize(
    ("key", "value"), [("WEIGHT_DECAY", float("nan")), ("BASE_LR", 1e30), ("POLY_POWER", float("nan"))]
)
@pytest.mark.parametrize("tested", [True, False])
def test_a_diverged_model_is_never_the_last_good_checkpoint(world, key, value, tested):
    cfg = world.config(solver__max_iter=2, solver__checkpoint_period=1, **QUIET)
    cfg.SOLVER[key] = value
    if not tested:
        cfg.DATASETS.TEST = ()
    with pytest.raises(DivergedError, match="diverged|not finite"):
        Trainer(cfg).train()
    for path in world.output.glob("*.pth"):
        state = torch.load(path, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in state.values())
        assert all(value.abs().max() < 1e10 for value in state.values() if value.is_floating_point())


def test_a_model_whose_scores_are_not_finite_has_diverged(world, monkeypatch):
    monkeypatch.setattr("san_cliptrase.meta_arch.san.class_scores", lambda logits, masks, keep: masks * float("nan"))
    with pytest.raises(
        DivergedError, match=r"diverged after 0 iterations: .*0\.png: the scores of the classes are NaN"
    ):
        Trainer(world.config(test__batch_size=1, **{**QUIET, "test__eval_period": 2})).train()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OUTPUT_DIR", "~/out"),
        ("MODEL.WEIGHTS", "~/x.pth"),
        ("MODEL.CLIP.PRETRAINED", "~/x.pt"),
        ("MODEL.CLIP.NAME", "local-dir:~/x"),
        ("MODEL.CLIP.TEXT_CACHE", "~/texts"),
        ("FIGURES.IMAGE_FILE", "~"),
        ("FIGURES.MODELS", "a=local-dir:~/x, b=ViT-B-16@~/w.pt"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch, key, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": str(CONFIG), **tree}))
    for cfg in (load_config(path), load_config(CONFIG, [key, value])):
        for part in key.split("."):
            cfg = cfg[part]
        assert cfg == value.replace("~", str(tmp_path))


def test_a_home_folder_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR is '~nobody-here/x': there is no such home folder"):
        load_config(CONFIG, ["OUTPUT_DIR", "~nobody-here/x"])


@pytest.mark.parametrize("address", ["https://example.invalid/m.pth", "detectron2://a/b.pkl", "file:///m.pth"])
@pytest.mark.parametrize("options", [(), ("--eval-only",)])
def test_weights_by_an_address_are_refused_before_anything_is_made(call, world, address, options):
    status, line = call(*options, model__weights=address)
    assert status == 1
    assert line == f"error: {address} is an address: download the file first, then name it (docs/weights.md)"
    assert not Path(world.output).exists()
