"""Several processes, or a batch in parts, train as one process does."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from san_cliptrase.commands.main import train_net as main
from san_cliptrase.data.own import OwnDataset, write_entries
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.san.query_init import QUERY_INITS
from san_cliptrase.scenes import CLASS_NAMES
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "demo" / "san_cliptrase.yaml"
# Crops: the canvas of a batch is then that of its parts. Random weights of CLIP would differ between the processes.
SETTINGS = {
    "MODEL.CLIP.PRETRAINED": "scenes",
    "MODEL.SAN.QUERY_INIT.ANNEAL": 1.0,
    "INPUT.CROP.ENABLED": "True",
    "INPUT.CROP.SIZE": "(64,64)",
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 2,
    "TEST.MAX_IMAGES": 3,
    "TEST.EVAL_PERIOD": 0,
    "VIS_IMAGES": 0,
}


@pytest.fixture
def overrides(tiny_overrides, tiny_data, monkeypatch, tmp_path):
    """Function of a folder's name and changes: a run on the tiny scenes, which other processes find by the registry."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folders = {f"own_{kind}": tiny_data / f"tiny_{kind}" for kind in ("train", "val")}
    write_entries(
        {name: OwnDataset(str(place / "images"), str(place / "labels"), CLASS_NAMES) for name, place in folders.items()}
    )

    def settings(folder, **changes):
        own = {"datasets__train": "('own_train',)", "datasets__test": "('own_val',)"}
        return tiny_overrides(output_dir=str(tmp_path / folder), **SETTINGS, **own, **changes)

    return settings


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [value for line in lines for name, value in sorted(line.items()) if "loss" in name or "norm" in name]


def miou(folder):
    return json.loads((folder / "metrics_own_val.json").read_text())["metrics"]["mIoU"]


def start(*command):
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_two_processes_and_parts_of_a_batch_lose_what_one_process_loses(overrides, tmp_path):
    assert main(["--config", str(CONFIG), *overrides("one")]) == 0
    expected = losses(tmp_path / "one")
    assert len(expected) == 2 * (1 + 3 * 2 + 1)  # iterations of total, (ce, mask, dice) of two blocks, gradient
    assert main(["--config", str(CONFIG), *overrides("parts", solver__accumulate=3)]) == 0
    assert losses(tmp_path / "parts") == pytest.approx(expected, rel=1e-5)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    start(*torchrun, "train_net.py", "--config", str(CONFIG), *overrides("torchrun"))
    assert losses(tmp_path / "torchrun") == pytest.approx(expected, rel=1e-5)
    assert miou(tmp_path / "torchrun") == pytest.approx(miou(tmp_path / "one"), abs=0.5)


@pytest.mark.slow
def test_processes_started_by_the_command_train_as_one_does(overrides, tmp_path):
    assert main(["--config", str(CONFIG), *overrides("one")]) == 0
    start("train_net.py", "--config", str(CONFIG), "--num-gpus", "2", *overrides("launch", solver__accumulate=2))
    assert losses(tmp_path / "launch") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_more_processes_than_gpus_are_refused(overrides, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    opts = overrides("run", model__device="auto")
    assert main(["--config", str(CONFIG), "--num-gpus", "2", *opts]) == 1
    assert "has 1 GPUs (with MODEL.DEVICE cpu" in capsys.readouterr().err


def test_a_batch_cannot_be_cut_into_more_parts_than_images(world):
    with pytest.raises(ValueError, match="SOLVER.ACCUMULATE is 3, but a process has 2 images"):
        Trainer(world.config(solver__accumulate=3))


@pytest.fixture(scope="module")
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("name", "anneal"), [*((name, 0.0) for name in QUERY_INITS), ("map_add", 0.5)])
def test_no_mode_has_parameters_that_a_step_does_not_use(group, world, name, anneal):
    torch.manual_seed(0)
    trained = "('positional_embedding',)"
    changes = {"model__clip__trainable": trained, "model__clip__cache_gb": 0.0, "solver__max_iter": 4}
    changes["model__san__query_init__anneal"] = anneal
    changes["model__san__query_init__name_strength"] = 0.25 if "prior" in name else 0.0
    cfg = world.config("san_cliptrase", model__san__query_init__name=name, **changes)
    model = DistributedDataParallel(build_model(cfg).train())
    batches = [world.batch(), [without_masks(entry) for entry in world.batch()]]
    with EventStorage(2):
        for batch in [*batches, batches[0]]:
            # Without the search, DDP refuses the step after one in which a parameter had no part.
            sum(model(batch).values()).backward()
    unused = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert unused == []


def without_masks(entry):
    return {**entry, "instances": entry["instances"][:0]}
