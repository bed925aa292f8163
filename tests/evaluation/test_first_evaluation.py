"""Before the first step of training, on the embedded scenes with the shipped CLIP."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from san_cliptrase.data.datasets import load_pairs, register
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.evaluation.evaluate import evaluate
from san_cliptrase.scenes import CLASS_NAMES, UNSEEN_CLASSES, write
from tests.conftest import ROOT

SCENES = 24


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """The first scenes of the validation split, registered by the name returned."""
    monkeypatch.setitem(write.SPLITS, "val", (2, SCENES))
    write.draw_split(tmp_path, "val")
    name = "first_scenes_val"
    folders = [tmp_path / kind / "val" for kind in ("images", "annotations")]
    register(name, lambda: load_pairs(name, *folders), CLASS_NAMES, UNSEEN_CLASSES)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def score(config, scenes, output):
    cfg = load_config(
        ROOT / "configs" / "demo" / f"{config}.yaml",
        ["DATASETS.TEST", f"('{scenes}',)", "OUTPUT_DIR", str(output), "MODEL.DEVICE", "cpu"],
    )
    torch.manual_seed(0)
    return evaluate(cfg, build_model(cfg), None)[scenes]


def test_san_from_regions_begins_where_training_free_cliptrase_ends(scenes, tmp_path):
    free, begun, plain = (score(name, scenes, tmp_path) for name in ("cliptrase", "san_cliptrase", "san"))
    assert begun["mIoU"] >= free["mIoU"]
    assert plain["mIoU"] < free["mIoU"] - 5
