"""A world small enough to train in: a few generated scenes of mixed sizes, and configurations with random weights."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The demo's configuration, cut down until a training step takes a fraction of a second.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.CLIP.TEMPLATES": "none",
    "MODEL.CLIP.RESOLUTION": 1.0,
    "MODEL.SAN.NUM_QUERIES": 8,
    "MODEL.SAN.SIDE.IMAGE_SIZE": 64,
    "MODEL.SAN.SIDE.WIDTH": 32,
    "MODEL.SAN.SIDE.DEPTH": 2,
    "MODEL.SAN.SIDE.HEADS": 2,
    "MODEL.SAN.SIDE.FUSION": ((0, 0), (2, 1)),
    "MODEL.SAN.SIDE.SUPERVISED": (1, 2),
    "MODEL.SAN.DECODER_WIDTH": 32,
    "MODEL.SAN.TRAIN_NUM_POINTS": 64,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "DATASETS.TRAIN": ("tiny_train",),
    "DATASETS.TEST": ("tiny_val",),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "TEST.BATCH_SIZE": 2,
    "TEST.EVAL_PERIOD": 2,
    "LOG_PERIOD": 1,
    "VIS_IMAGES": 1,
}
SHAPES = ((96, 96), (96, 72), (64, 96), (80, 96), (96, 96), (72, 96))


def write_scenes(folder, seed, count, unseen):
    """Scenes cut to :data:`SHAPES` as image and label files."""
    from PIL import Image

    from san_cliptrase.scenes import make_scene

    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index, (height, width) in zip(range(count), SHAPES, strict=False):
        scene = make_scene((seed, index), size=96, unseen=unseen)
        Image.fromarray(scene.image[:height, :width]).save(folder / "images" / f"{index}.png")
        Image.fromarray(scene.labels[:height, :width]).save(folder / "labels" / f"{index}.png")


def register_tiny(root):
    """Datasets ``tiny_train`` and ``tiny_val`` of the files in ``root``."""
    from san_cliptrase.data.datasets import load_pairs, register
    from san_cliptrase.scenes import CLASS_NAMES, SEEN_CLASSES, UNSEEN_CLASSES

    for name, unseen in (("tiny_train", ()), ("tiny_val", UNSEEN_CLASSES)):
        register(
            name,
            lambda name=name: load_pairs(name, root / name / "images", root / name / "labels"),
            CLASS_NAMES if unseen else SEEN_CLASSES,
            unseen,
        )


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Datasets ``tiny_train`` (6 scenes of seen classes) and ``tiny_val`` (3 scenes of all), registered."""
    root = tmp_path_factory.mktemp("tiny_data")
    for name, seed, count, unseen in (("tiny_train", 71, 6, False), ("tiny_val", 72, 3, True)):
        write_scenes(root / name, seed, count, unseen)
    register_tiny(root)
    return root


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    """MODEL.REGIONS.SOURCE of a random ViT of timm with patches of 12 pixels."""
    from tests.regions.given import save_vit

    return save_vit(tmp_path_factory.mktemp("vit"), img_size=48, patch_size=12)


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory):
    """Folder of a random SAM of a few thousand weights, where transformers is installed."""
    from tests.regions.given import save_sam

    pytest.importorskip("transformers")
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="session")
def browser():
    """Path of a browser of the system."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)})")
    return found


@pytest.fixture
def tiny_overrides(tiny_data, tmp_path):
    """Function of changes ("a__b" for the key A.B): the overrides of a tiny run in ``tmp_path/run``."""

    def overrides(**changes):
        changed = {key.replace("__", ".").upper(): value for key, value in changes.items()}
        values = {**TINY, "OUTPUT_DIR": str(tmp_path / "run"), **changed}
        return [str(part) for pair in values.items() for part in pair]

    return overrides


@pytest.fixture
def tiny_config(tiny_overrides):
    """Function of a demo configuration's name and changes: the tiny configuration."""
    from san_cliptrase.engine.defaults import load_config

    def config(name="san", **changes):
        return load_config(ROOT / "configs" / "demo" / f"{name}.yaml", tiny_overrides(**changes))

    return config


def run_options(arguments):
    """What the command line of train_net.py says."""
    from san_cliptrase.commands.parser import Parser
    from san_cliptrase.commands.runs import train_net

    return train_net(Parser("train_net.py", ""), arguments)


@pytest.fixture
def tiny_model(tiny_config):
    """Function of a configuration's name and changes: the model, random weights of a fixed seed."""
    import torch
    from detectron2.modeling import build_model

    def model(name="san", **changes):
        torch.manual_seed(0)
        return build_model(tiny_config(name, **changes))

    return model


@pytest.fixture
def tiny_batch(tiny_config):
    """Function of a configuration's name: mapped entries of one split, mixed sizes."""

    def batch(train=True, count=2):
        from detectron2.data import DatasetCatalog, MetadataCatalog

        from san_cliptrase.data.mapper import SemanticMapper

        name = "tiny_train" if train else "tiny_val"
        cfg = tiny_config(input__random_flip="none")
        mapper = SemanticMapper(cfg, MetadataCatalog.get(name).stuff_classes, is_train=train)
        return [mapper(record) for record in DatasetCatalog.get(name)[:count]]

    return batch


@pytest.fixture
def world(tiny_data, tiny_overrides, tiny_config, tiny_model, tiny_batch, tmp_path):
    """All of the above by short names."""
    return SimpleNamespace(
        overrides=tiny_overrides, config=tiny_config, model=tiny_model, batch=tiny_batch, output=tmp_path / "run"
    )
