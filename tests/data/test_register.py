"""``san-cliptrase data register``: a folder becomes a dataset of later runs."""

import json

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.commands.main import main, train_net
from san_cliptrase.data.own import OWN, register_own
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data import archives

CLASSES = "grass\nwater\nlava\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The root of the datasets, which does not exist yet; what a test registers is forgotten after it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    yield tmp_path / "root"
    for name in [*OWN]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        del OWN[name]


@pytest.fixture
def folder(tmp_path):
    """A folder of two splits."""
    for split in ("train", "val"):
        for stem in "ab":
            archives.write_photo(tmp_path / "town" / "images" / split / f"{stem}.jpg", (64, 96))
            labels = np.repeat([0, 1, 2, 255], 24).astype(np.uint8)
            archives.write_png(tmp_path / "town" / "annotations" / split / f"{stem}.png", np.tile(labels, (64, 1)))
    (tmp_path / "town" / "classes.txt").write_text(CLASSES)
    return tmp_path / "town"


def register(folder, *arguments):
    return main(["data", "register", str(folder), "--workers", "1", *arguments])


def error_of(capsys, *arguments):
    capsys.readouterr()
    assert register(*arguments) == 1
    return capsys.readouterr().err


def test_splits_become_datasets_that_a_run_evaluates(root, folder, tiny_overrides, tmp_path):
    assert register(folder, "--name", "mine") == 0
    config = ["--config", str(ROOT / "configs/demo/cliptrase.yaml"), "--eval-only"]
    assert train_net([*config, *tiny_overrides(datasets__train="()", datasets__test="('mine_val',)")]) == 0
    report = json.loads((tmp_path / "run" / "metrics_mine_val.json").read_text())
    assert list(report["iou"]) == ["grass", "water", "lava"]
    assert len(DatasetCatalog.get("mine_train")) == 2
    assert MetadataCatalog.get("mine_train").background_words == ()


def test_a_run_trains_on_them_also_where_noise_has_no_regions(root, folder, tiny_overrides, tmp_path):
    assert register(folder) == 0
    names = {"datasets__train": "('town_train',)", "datasets__test": "('town_val',)", "solver__max_iter": 1}
    assert train_net(["--config", str(ROOT / "configs/demo/san_cliptrase.yaml"), *tiny_overrides(**names)]) == 0
    assert (tmp_path / "run" / "metrics_town_val.json").is_file()


def test_a_folder_without_splits_is_one_dataset_and_labels_may_be_called_masks(root, folder):
    flat = folder.parent / "flat"
    flat.mkdir()
    for old, new in (("images/val", "images"), ("annotations/val", "masks"), ("classes.txt", "classes.txt")):
        (folder / old).rename(flat / new)
    (flat / "images/.cache").mkdir()  # no split
    assert register(flat) == 0
    register_own()
    assert [record["image_id"] for record in DatasetCatalog.get("flat")] == ["a", "b"]


def test_more_than_255_classes_with_16_bit_labels(root, folder):
    (folder / "classes.txt").write_text("".join(f"class {number}\n" for number in range(300)))
    for path in folder.glob("annotations/*/*.png"):
        archives.write_png(path, np.tile(np.repeat([0, 255, 299, 65535], 24).astype(np.uint16), (64, 1)))
    assert register(folder) == 0
    cfg = load_config(ROOT / "configs/demo/cliptrase.yaml", ["DATASETS.TEST", "('town_val',)"])
    assert cfg.INPUT.IGNORE_LABEL == 65535
    assert load_config(ROOT / "configs/demo/cliptrase.yaml").INPUT.IGNORE_LABEL == 255


def test_background_words_of_the_last_class(root, folder, capsys):
    assert "needs 'background' as the last line" in error_of(capsys, folder, "--background", "sky, wall")
    (folder / "classes.txt").write_text("grass\nwater\nbackground\n")
    assert register(folder, "--background", "sky, wall") == 0
    register_own()
    assert MetadataCatalog.get("town_val").background_words == ("sky", "wall")


def test_another_ignore_value(root, folder, capsys):
    for path in folder.glob("annotations/*/*.png"):
        archives.write_png(path, np.tile(np.repeat([0, 1, 2, 11], 24).astype(np.uint8), (64, 1)))
    assert "holds the value(s) 11" in error_of(capsys, folder)
    assert "the ignore value 2 is the class 'lava'" in error_of(capsys, folder, "--ignore", "2")
    assert register(folder, "--ignore", "11") == 0
    register_own()
    assert MetadataCatalog.get("town_val").ignore_label == 11
    assert DatasetCatalog.get("town_val")[0]["ignore_value"] == 11


def test_registering_again_replaces_the_entry_and_keeps_the_others(root, folder):
    assert register(folder) == 0
    assert register(folder, "--name", "second") == 0
    register_own()
    (folder / "classes.txt").write_text("meadow\nwater\nlava\n")
    assert register(folder) == 0
    register_own()
    assert MetadataCatalog.get("town_val").stuff_classes[0] == "meadow"
    assert MetadataCatalog.get("second_val").stuff_classes[0] == "grass"


def test_a_folder_under_the_root_moves_with_it(root, folder, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parent))
    assert register(folder) == 0
    entry = yaml.safe_load((folder.parent / "datasets.yaml").read_text())["town_val"]
    assert entry["images"] == "town/images/val"
    register_own()
    assert DatasetCatalog.get("town_val")[0]["file_name"] == str(folder / "images/val/a.jpg")


def test_registered_datasets_are_listed_and_checked(root, folder, capsys):
    assert register(folder) == 0
    assert main(["data", "list"]) == 0
    assert "town_val" in capsys.readouterr().out
    assert main(["data", "check", "town_val", "--workers", "1"]) == 0
    (folder / "annotations/val/a.png").write_bytes(b"")
    assert main(["data", "check", "town_val", "--workers", "1"]) == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("grass\nwater\ngrass\n", "names 'grass' more than once, in lines 1 and 3"),
        ("grass\n\nlava\n", "no name in line 2 of 3"),
        ("", "is empty"),
        ("grass\nwater\n", "holds the value(s) 2; the dataset has classes 0 to 1"),
    ],
)
def test_a_class_file_that_does_not_fit_is_refused(root, folder, capsys, classes, message):
    (folder / "classes.txt").write_text(classes)
    error = error_of(capsys, folder)
    assert message in error
    assert str(folder) in error
    assert not (root / "datasets.yaml").exists()


def test_missing_parts_are_named(root, folder, capsys, tmp_path):
    assert str(tmp_path / "nowhere") in error_of(capsys, tmp_path / "nowhere")
    (folder / "images/extra").mkdir()
    assert "annotations/extra does not exist" in error_of(capsys, folder)
    (folder / "annotations/extra").mkdir()
    assert "images/extra is empty: put images there" in error_of(capsys, folder)
    (folder / "images/extra").rmdir()
    (folder / "annotations/val/b.png").unlink()
    assert "without a partner: b" in error_of(capsys, folder)
    (folder / "classes.txt").rename(folder / "names.txt")
    assert "classes.txt" in error_of(capsys, folder)
    (folder / "images").rename(folder / "pictures")
    assert "has no folder 'images'" in error_of(capsys, folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("my town", "is no name for a dataset"), ("ade150", "'ade150_train' is a dataset of this project")],
)
def test_a_name_that_cannot_be_used_is_refused(root, folder, capsys, name, message):
    assert message in error_of(capsys, folder, "--name", name)


def test_bad_files_may_be_registered_on_demand(root, folder):
    (folder / "images/val/a.jpg").write_bytes(b"broken")
    assert register(folder) == 1
    assert register(folder, "--unchecked") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "cannot read the datasets registered in"),
        ("- a\n- b\n", "cannot read the datasets registered in"),
        ("mine: {images: a, labels: b}\n", "classes"),
        ("mine: {images: a, labels: b, classes: [c], colour: red}\n", "colour"),
        ("mine: !!python/object/apply:os.getcwd []\n", "cannot read the datasets registered in"),
        ("mine: {images: a, labels: b, classes: [c], background: [sky]}\n", "need 'background' as the last class"),
        (
            "voc20_val: {images: a, labels: b, classes: [c]}\n",
            "registers 'voc20_val', which is a dataset of this project",
        ),
    ],
)
def test_a_damaged_registry_is_named_with_the_remedy(root, content, message):
    root.mkdir()
    (root / "datasets.yaml").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_config(ROOT / "configs/demo/cliptrase.yaml")
    assert str(root / "datasets.yaml") in str(caught.value)


def test_a_folder_that_is_gone_stops_only_the_runs_that_name_it(root, folder):
    assert register(folder) == 0
    folder.rename(folder.parent / "city")
    load_config(ROOT / "configs/demo/cliptrase.yaml")
    with pytest.raises(FileNotFoundError, match=str(folder / "images/val")):
        DatasetCatalog.get("town_val")


def test_names_that_are_not_registered_stay_unknown(root):
    with pytest.raises(ConfigError, match="unknown dataset 'town_val'"):
        load_config(ROOT / "configs/demo/cliptrase.yaml", ["DATASETS.TEST", "('town_val',)"])
