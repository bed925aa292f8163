import csv
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import JSONWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from san_cliptrase.data.datasets import register
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import CheckpointError, DataError, DivergedError, OutputError
from san_cliptrase.evaluation.evaluate import dataset_records
from san_cliptrase.scenes import CLASS_NAMES, UNSEEN_CLASSES


class Interrupted(Exception):
    pass


@pytest.fixture
def train(world, tmp_path):
    """Function of a folder, a configuration's name and changes: trains there and returns the trainer.

    ``stop_at`` breaks off in that iteration, ``seed`` draws the initial weights, ``batches`` takes down what was seen.
    """

    def run(folder, name="san", resume=False, stop_at=None, seed=0, batches=None, **changes):
        torch.manual_seed(seed)
        trainer = Trainer(world.config(name, output_dir=str(tmp_path / folder), **changes), resume)
        step = trainer.run_step

        def watched():
            if trainer.iter == stop_at:
                raise Interrupted
            step()

        def take_down(model, args):
            if model.training:
                batches.append([(entry["image_id"], int(entry["image"].sum())) for entry in args[0]])

        trainer.run_step = watched
        if batches is not None:
            trainer.model.register_forward_pre_hook(take_down)
        trainer.train()
        return trainer

    return run


def weights(trainer):
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def rows(folder):
    """The evaluations of a run without their times."""
    with open(folder / "evaluations.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_an_interrupted_run_ends_as_if_nothing_had_happened(train, tmp_path):
    straight = train("straight", "san_cliptrase", test__eval_period=1, input__color_aug_ssd=True)
    changes = {"test__eval_period": 1, "input__color_aug_ssd": True}
    # The checkpoint is from after two iterations; a third one was run and evaluated.
    with pytest.raises(Interrupted):
        train("broken", "san_cliptrase", stop_at=3, **changes)
    assert [row["iteration"] for row in rows(tmp_path / "broken")] == ["0", "1", "2", "3"]
    assert (tmp_path / "broken" / "last_checkpoint").read_text() == "model_0000001.pth"
    resumed = train("broken", "san_cliptrase", resume=True, seed=99, **changes)
    assert resumed.start_iter == 2
    assert equal(weights(resumed), weights(straight))
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")
    assert [row["iteration"] for row in rows(tmp_path / "straight")] == ["0", "1", "2", "3", "4"]
    for mine, theirs in zip(resumed.optimizer.param_groups, straight.optimizer.param_groups, strict=True):
        assert mine["lr"] == theirs["lr"] == 0


def test_training_time_goes_on_from_the_checkpoint(train, tmp_path):
    with pytest.raises(Interrupted):
        train("run", stop_at=3, test__eval_period=1)
    train("run", resume=True, test__eval_period=1)
    with open(tmp_path / "run" / "evaluations.csv", newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert seconds[0] == 0
    assert seconds == sorted(set(seconds))


def test_resuming_a_finished_run_changes_nothing(train, tmp_path):
    finished = train("run")
    before = rows(tmp_path / "run")
    again = train("run", resume=True, seed=99)
    assert again.start_iter == 4
    assert equal(weights(again), weights(finished))
    assert rows(tmp_path / "run") == before


def test_a_run_that_is_not_resumed_begins_anew(train, tmp_path):
    train("run", solver__max_iter=2)
    train("run", solver__max_iter=2, seed=1)
    assert [row["iteration"] for row in rows(tmp_path / "run")] == ["0", "2"]


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(train):
    first, second, other = (
        weights(train(str(i), solver__max_iter=1, seed=0, **changes)) for i, changes in enumerate([{}, {}, {"SEED": 5}])
    )
    assert equal(first, second)
    assert not equal(first, other)


def test_variants_see_the_same_pictures_in_the_same_order(train):
    plain, ours = [], []
    train("plain", "san", batches=plain)
    train("ours", "san_cliptrase", batches=ours, test__eval_period=0)
    assert len(plain) == 4
    assert plain == ours
    assert len({image for batch in plain for image, _ in batch}) > 2


def test_a_batch_seen_again_and_again_is_learned(train, world, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "san_cliptrase.engine.trainer.build_train_loader", lambda *_: (world.batch() for _ in range(30))
    )
    quiet = {"test__eval_period": 0, "solver__checkpoint_period": 100, "vis_images": 0}
    train("run", solver__max_iter=30, solver__base_lr=0.01, **quiet)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    for name in ("loss_ce", "loss_mask", "loss_dice"):
        losses = [line[name] for line in lines if name in line]
        assert losses[-1] < 0.95 * losses[0], name


def test_results_are_written_to_json_csv_and_tensorboard(train, tmp_path):
    train("run", "san_cliptrase")
    run = tmp_path / "run"
    report = json.loads((run / "metrics_tiny_val.json").read_text())
    last = rows(run)[-1]
    assert last["iteration"] == "4"
    for metric in ("pAcc", "mAcc", "fwIoU", "mIoU", "mIoU seen", "mIoU unseen"):
        assert float(last[metric]) == pytest.approx(report["metrics"][metric])
    events = EventAccumulator(str(run))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"total_loss", "loss_ce", "loss_mask", "loss_dice", "loss_ce_0", "lr", "time", "data_time"} <= scalars
    assert {"regions/mean_count", "regions/images_without", "grad_norm"} <= scalars
    assert {f"tiny_val/{metric}" for metric in ("pAcc", "mAcc", "fwIoU", "mIoU", "mIoU seen", "mIoU unseen")} <= scalars
    assert [event.step for event in events.Scalars("tiny_val/mIoU")] == [0, 2, 4]
    assert events.Scalars("tiny_val/mIoU")[-1].value == pytest.approx(report["metrics"]["mIoU"], rel=1e-5)
    assert [tag for tag in events.Tags()["images"] if tag.startswith("tiny_val/")]


def test_evaluations_more_frequent_than_the_log_are_not_lost(train, tmp_path):
    train("run", log_period=100, test__eval_period=2)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("tiny_val/mIoU")] == [0, 2, 4]


def test_a_resumed_run_keeps_what_tensorboard_has_of_it(train, tmp_path):
    with pytest.raises(Interrupted):
        train("run", stop_at=3)
    train("run", resume=True)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("tiny_val/mIoU")] == [0, 2, 4]


def test_test_sets_may_differ_in_their_metrics(train, tmp_path):
    # tiny_train has no unseen classes, so it has no "mIoU seen".
    both = {"datasets__test": ("tiny_train", "tiny_val"), "test__max_images": 1}
    with pytest.raises(Interrupted):
        train("run", stop_at=3, **both)
    train("run", resume=True, **both)
    found = rows(tmp_path / "run")
    assert [row["dataset"] for row in found] == ["tiny_train", "tiny_val"] * 3
    assert {row["mIoU seen"] for row in found[::2]} == {"nan"}
    assert all(0 <= float(row["mIoU seen"]) <= 100 for row in found[1::2])


def test_gradients_are_clipped_over_all_parameters_together(train):
    clipped = train("a", solver__max_iter=1, solver__clip_gradients__clip_value=1e-3)
    grads = [p.grad for group in clipped.optimizer.param_groups for p in group["params"]]
    assert torch.stack([g.norm() for g in grads if g is not None]).norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda x: x * float("nan"), "loss_ce"),
        (lambda x: x - torch.inf, "loss_ce"),
        (lambda x: (0 * x).sqrt(), "gradient"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_files(train, tmp_path, monkeypatch, loss, found):
    def forward(self, inputs, mask_counts):
        return {"loss_ce": loss(next(self.network.parameters()).sum())}

    monkeypatch.setattr("san_cliptrase.meta_arch.san.SAN.forward", forward)
    with pytest.raises(DivergedError, match=f"not finite in iteration 0.*{found}.*not_finite_0000000_0.json"):
        train("run", test__eval_period=0, solver__checkpoint_period=100, vis_images=0)
    report = json.loads((tmp_path / "run" / "not_finite_0000000_0.json").read_text())
    assert report["iteration"] == 0
    assert len({entry["file_name"] for entry in report["batch"]}) == 2
    assert all(Path(entry["sem_seg_file_name"]).is_file() for entry in report["batch"])
    assert not list((tmp_path / "run").glob("*.pth"))


def test_a_full_disk_under_the_log_is_told_as_such(train, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JSONWriter, "write", full)
    # Printed at every iteration: detectron2's printer would divide by zero at the end, in place of this error.
    with pytest.raises(OutputError, match="OUTPUT_DIR .*No space left on device"):
        train("run", log_period=1, test__eval_period=0, vis_images=0)


def test_the_checkpoint_of_another_variant_is_refused(train, tmp_path):
    train("plain", solver__max_iter=1)
    with pytest.raises(CheckpointError, match=r"network\.query_init\.prior\.bias_strength"):
        train("ours", "san_cliptrase", model__weights=str(tmp_path / "plain" / "model_final.pth"))


def test_a_bad_test_file_that_is_left_out_is_left_out_of_the_pictures_too(world, tmp_path):
    good = DatasetCatalog.get("tiny_val")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = {**good[0], "file_name": str(tmp_path / "broken.png")}
    register("one_broken", lambda: [bad, good[1]], CLASS_NAMES, UNSEEN_CLASSES)
    try:
        changes = {"datasets__test": ("one_broken",), "vis_images": 2, "solver__max_iter": 1}
        Trainer(world.config(test__skip_bad=True, **changes)).train()
        with pytest.raises(DataError, match="broken.png"):
            Trainer(world.config(**changes, output_dir=str(tmp_path / "strict"))).train()
    finally:
        DatasetCatalog.remove("one_broken")
        MetadataCatalog.remove("one_broken")
        dataset_records.cache_clear()
