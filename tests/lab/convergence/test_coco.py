"""The experiments on COCO-Stuff, on miniatures of its data."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from san_cliptrase.commands.main import main
from san_cliptrase.data.datasets import class_names
from san_cliptrase.data.table import DATASETS
from san_cliptrase.lab.convergence.experiment import flatten
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.worker import train_run
from tests.conftest import ROOT, TINY

COCO = ROOT / "configs" / "coco"
REFINED_AND_NAMED = {"MODEL.REGIONS.REFINE", "MODEL.CLIPTRASE.ATTENTION", "MODEL.SAN.QUERY_INIT.NAME_STRENGTH"}
TEST_SETS = ("ade150_val", "pc59_val", "voc20_val")
SMALL = {
    **{key: value for key, value in TINY.items() if not key.startswith("DATASETS")},
    "MODEL.CLIP.NAME": "scenes_vit",
    "MODEL.SAN.SIDE.FUSION": [[0, 0], [2, 1]],
    "MODEL.SAN.QUERY_INIT.PROTOTYPE_IMAGES": 4,
    "INPUT.CROP.SIZE": [64, 64],
    "SOLVER.MAX_ITER": 1,
    "TEST.MAX_IMAGES": 1,
    "TEST.EVAL_PERIOD": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "VIS_IMAGES": 0,
}


def write_miniature(root, name):
    """Four photographs of noise in the folders and formats of a data set, with values of its first and last classes."""
    spec, rng = DATASETS[name], np.random.RandomState(0)
    (root / spec.images).mkdir(parents=True)
    (root / spec.labels).mkdir(parents=True)
    last = len(class_names(spec.classes)) - 1
    for index, (height, width) in enumerate(((64, 96), (96, 64), (72, 72), (64, 64))):
        values = np.array([[0, 1], [last, 255]], np.uint8)
        labels = np.repeat(np.repeat(values, height // 2, 0), width // 2, 1)
        image = labels[..., None] + rng.randint(0, 60, (height, width, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / spec.images / f"{index:012d}.jpg")
        Image.fromarray(labels).save(root / spec.labels / f"{index:012d}.png")


def test_the_short_form_runs_through(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in ("coco_stuff171_train", *TEST_SETS):
        write_miniature(tmp_path, name)
    data = yaml.safe_load((COCO / "convergence_short.yaml").read_text())
    small = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    data |= {"base": str(COCO / data["base"]), "output": str(tmp_path / "lab"), "seeds": [0]}
    data["overrides"] |= small
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    experiment = read_experiment(tmp_path / "small.yaml")
    for run in experiment.runs():
        train_run(experiment.config(*run), 1, 1, True)
        assert (experiment.folder(*run) / "model_final.pth").is_file()
    assert main(["convergence", "--config", str(tmp_path / "small.yaml"), "--report-only"]) == 0
    for name, place in zip(TEST_SETS, (".", *TEST_SETS[1:]), strict=True):
        report = json.loads((experiment.output / place / "report.json").read_text())
        assert report["dataset"] == name
        assert list(report["variants"]) == ["san", "prototypes", "regions"]
        assert report["missing"] == []
        for variant in report["variants"].values():
            assert 0 <= variant["metrics"]["mIoU"]["final"]["value"] <= 100
        assert f"# Convergence on {name}" in (experiment.output / place / "report.md").read_text()


@pytest.mark.parametrize(("name", "iterations"), [("convergence", 60000), ("convergence_short", 5000)])
def test_variants_are_sans_recipe_but_for_where_queries_begin(name, iterations):
    experiment = read_experiment(COCO / f"{name}.yaml")
    assert experiment.dataset == TEST_SETS[0]
    configs = {variant: flatten(experiment.config(variant, 0)) for variant in experiment.variants}
    assert [cfg["MODEL.SAN.QUERY_INIT.NAME"] for cfg in configs.values()] == ["off", "prototypes", "tokens_prior"]
    for cfg in configs.values():
        assert tuple(cfg["DATASETS.TEST"]) == TEST_SETS
        assert (cfg["SOLVER.MAX_ITER"], cfg["SOLVER.IMS_PER_BATCH"], cfg["SOLVER.BASE_LR"]) == (iterations, 32, 1e-4)
        differing = {key for key in cfg if cfg[key] != configs["san"][key]}
        assert differing <= {"OUTPUT_DIR", "MODEL.SAN.QUERY_INIT.NAME", *REFINED_AND_NAMED}


def test_tuning_sees_no_test_set_and_gives_each_variant_as_many_runs():
    experiment = read_experiment(COCO / "tuning.yaml")
    configs = [experiment.config(name, 100) for name in experiment.variants]
    assert {name for cfg in configs for name in cfg.DATASETS.TEST} == {"coco_stuff171_val"}
    modes = [cfg.MODEL.SAN.QUERY_INIT.NAME for cfg in configs]
    assert [modes.count(mode) for mode in ("off", "prototypes", "tokens_prior")] == [4, 4, 4]
