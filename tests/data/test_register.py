"""``san-cliptrase data register``: a folder becomes a dataset of later runs."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.commands.main import main, train_net
from san_cliptrase.data.datasets import register as register_in_python
from san_cliptrase.data.own import OwnDataset, read_registry, register_own, write_entries
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data import archives
from tests.data.registering import error_of, forget_registered, register

CLASSES = "grass\nwater\nlava\n"
ENTRY = "mine: {images: a, labels: b, classes: [c]}\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The root of the datasets, which does not exist yet; what a test registers is forgotten after it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    yield tmp_path / "root"
    forget_registered()


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
    [("my town", "is not a name for a dataset"), ("ade150", "'ade150_train' is a dataset of this project")],
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
        (ENTRY.replace("c]", "c], ignore: 1") + ENTRY, "the key 'mine' is there twice"),
        ("mine: 5\n", "dataset 'mine': expected the keys images, labels, .*, colors, ignore_colors, not 5"),
        (
            "mine: {images: 5, labels: b, classes: [c]}\n",
            "dataset 'mine', key 'images': expected the path .*, not 5",
        ),
        ("mine: {images: a, labels: '', classes: [c]}\n", "key 'labels': expected the path of a folder, not ''"),
        ("mine: {images: a, labels: b, classes: abc}\n", "key 'classes': expected a list, such as .*, not 'abc'"),
        ("mine: {images: a, labels: b, classes: {c: 1}}\n", "key 'classes': expected a list"),
        ("mine: {images: a, labels: b, classes: []}\n", "key 'classes': .* there are none"),
        ("mine: {images: a, labels: b, classes: [c, no]}\n", "key 'classes': item 2 is False, not a text; .*quotes"),
        ("mine: {images: a, labels: b, classes: [c, 7]}\n", "key 'classes': item 2 is 7, not a text"),
        ("mine: {images: a, labels: b, classes: [c, ' ']}\n", "key 'classes': item 2 is ' ', not a text"),
        ("mine: {images: a, labels: b, classes: [c, '&nbsp;']}\n", "key 'classes', has no name in item 2 of 2"),
        (
            "mine: {images: a, labels: b, classes: [c, d, c]}\n",
            "'classes', names 'c' more than once, in items 1 and 3",
        ),
        ("mine: {images: a, labels: b, classes: [c, d, C]}\n", "the same for CLIP, 'c' and 'C', in items 1 and 3"),
        (ENTRY.replace("c]", "c], ignore: 0"), "key 'ignore': the ignore value 0 is the class 'c'"),
        (ENTRY.replace("c]", "c], ignore: .inf"), "key 'ignore': the ignore value inf is not a whole number"),
        (ENTRY.replace("c]", "c], ignore: 7.0"), "key 'ignore': the ignore value 7.0 is not a whole number"),
        (ENTRY.replace("c]", "c], ignore: yes"), "key 'ignore': the ignore value True is not a whole number"),
        (ENTRY.replace("c]", "c], ignore: 99999999999"), "key 'ignore': the ignore value 99999999999 is no"),
        (ENTRY.replace("c]", "c], background: sky"), "key 'background': expected a list"),
        (ENTRY.replace("c]", "c], colors: [1 2 3, 4 5 6]"), "key 'colors': there are 2 for 1 classes"),
        (ENTRY.replace("c]", "c], colors: [red]"), "key 'colors': item 1: expected '128 0 0' or .*, not 'red'"),
        (ENTRY.replace("c]", "c], colors: [1 2 300]"), "key 'colors': item 1: expected"),
        (ENTRY.replace("c]", "c], colors: [1 2 3], ignore_colors: 7"), "key 'ignore_colors': expected colours such as"),
        (
            ENTRY.replace("c]", "c], colors: [1 2 3], ignore_colors: 1 2 3"),
            "1 2 3 to 'c' and again to 'pixels",
        ),
        (ENTRY.replace("c]", "c], ignore_colors: 1 2 3"), "key 'ignore_colors': the classes have no colours"),
        (ENTRY.replace("c]", "c], clases: [c]"), "key 'clases': there is no such key; did you mean classes"),
        (
            ENTRY.replace("mine", "x/../../../../victim"),
            "dataset 'x/../../../../victim': this is not a name",
        ),
        (ENTRY.replace("mine", "..") + ENTRY, r"dataset '\.\.': this is not a name"),
        (ENTRY.replace("mine", "a b"), "dataset 'a b': this is not a name"),
        (ENTRY.replace("mine", "a" * 101), "this is not a name"),
        (ENTRY.replace("mine", "no"), "dataset False: this is not a name"),
        ('"\\x1b[31m": {images: a, labels: b, classes: [c]}\n', r"dataset '\\x1b\[31m': this is not a name"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases upon aliases"),
        ("a: &a [" + 9999 * "x, " + "x]\n" + "".join(f"b{i}: *a\n" for i in range(90)), "repeat more than"),
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


def test_a_registry_that_is_a_pipe_or_a_folder_is_refused_and_an_empty_one_is_not(root):
    root.mkdir()
    (root / "datasets.yaml").write_text("# nothing yet\n")
    assert read_registry() == {}
    (root / "datasets.yaml").unlink()
    os.mkfifo(root / "datasets.yaml")
    with pytest.raises(DataError, match="datasets.yaml cannot be read: it is not a regular file but a pipe"):
        read_registry()
    (root / "datasets.yaml").unlink()
    (root / "datasets.yaml").mkdir()
    with pytest.raises(DataError, match="datasets.yaml cannot be read: it is a folder"):
        read_registry()


def test_usual_things_may_be_left_out_of_an_entry_and_lists_shared(root):
    root.mkdir()
    many = ", ".join(f"class {number}" for number in range(300))
    text = (
        f"a: {{images: ~/x, labels: b, classes: &c [{many}]}}\nb: {{images: x, labels: b, classes: *c, ignore: -1}}\n"
    )
    (root / "datasets.yaml").write_text(text)
    entries = read_registry()
    assert (entries["a"].ignore, entries["b"].ignore) == (65535, -1)
    assert entries["a"].classes == entries["b"].classes
    assert entries["a"].folders() == (Path.home() / "x", root / "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x/../victim"}, "is not a name for a dataset"),
        ({"classes": "abc"}, "needs a list of class names, not 'abc'"),
        ({"classes": []}, "needs a list of class names"),
        ({"classes": ["a", "A"]}, "the same for CLIP"),
        ({"ignore_label": 1}, "the ignore value 1 is the class 'b'"),
    ],
)
def test_datasets_registered_in_python_follow_the_same_rules(changes, message):
    with pytest.raises(ValueError, match=message):
        register_in_python(**{"name": "mine", "loader": list, "classes": ["a", "b"], **changes})
    assert "mine" not in DatasetCatalog.list()


def masks(folder, *values):
    for path in folder.glob("annotations/*/*.png"):
        archives.write_png(path, np.tile(np.repeat(values, 96 // len(values)).astype(np.uint8), (64, 1)))


def test_masks_of_two_classes_with_0_and_255_are_refused_with_what_to_do(root, folder, capsys):
    (folder / "classes.txt").write_text("background\ncrack\n")
    masks(folder, 0, 255)
    error = error_of(capsys, folder)
    for name in ("town_train", "town_val"):
        assert f"{name}: the label files hold 0 and 255 alone" in error
    assert error.count("Write 1 in place of 255 into the files") == 2
    assert register(folder, "--unchecked") == 0
    assert main(["data", "check", "town_val", "--workers", "1"]) == 1
    masks(folder, 0, 1)
    assert main(["data", "check", "town_val", "--workers", "1"]) == 0
    assert "town_val: everything is in order" in capsys.readouterr().out


def test_classes_that_occur_in_no_file_are_named_in_one_line_a_dataset(root, folder, capsys):
    (folder / "classes.txt").write_text(CLASSES + "\x1b[31mice\n")
    capsys.readouterr()
    assert register(folder) == 0
    shown = capsys.readouterr().out
    for name in ("town_train", "town_val"):
        assert shown.count(f"{name}: warning: no label file shows 1 of the 4 classes: '\\x1b[31mice'") == 1
    assert main(["data", "check", "town_val", "--workers", "1"]) == 0
    assert "warning: no label file shows 1 of the 4 classes" in capsys.readouterr().out
    masks(folder, 0, 255)
    (folder / "classes.txt").write_text("".join(f"class {number}\n" for number in range(30)))
    assert register(folder) == 0
    assert "no label file shows 29 of the 30 classes: 'class 1', " in (shown := capsys.readouterr().out)
    assert "'class 10', and 19 more" in shown


def test_a_dataset_without_any_label_is_refused_and_not_trained_on(root, folder, capsys, tiny_overrides):
    masks(folder, 255)
    assert "town_val: no pixel has a label" in error_of(capsys, folder)
    assert register(folder, "--unchecked", "--name", "empty") == 0
    names = {"datasets__train": "('empty_train',)", "datasets__test": "()", "solver__max_iter": 1}
    assert train_net(["--config", str(ROOT / "configs/demo/san.yaml"), *tiny_overrides(**names)]) == 1
    assert "no pixel of the training set has a label: the 2 label files" in capsys.readouterr().err


def test_a_folder_that_is_gone_stops_only_the_runs_that_name_it(root, folder):
    assert register(folder) == 0
    folder.rename(folder.parent / "city")
    load_config(ROOT / "configs/demo/cliptrase.yaml")
    with pytest.raises(FileNotFoundError, match=str(folder / "images/val")):
        DatasetCatalog.get("town_val")


def test_names_that_are_not_registered_stay_unknown(root):
    with pytest.raises(ConfigError, match="unknown dataset 'town_val'"):
        load_config(ROOT / "configs/demo/cliptrase.yaml", ["DATASETS.TEST", "('town_val',)"])


def test_of_many_that_register_at_once_none_is_lost(root):
    names = [f"mine{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_entries({name: OwnDataset("a", "b", ("sand", "snow"))}), names))
    assert sorted(read_registry()) == sorted(names)


def test_a_home_that_nobody_has_is_a_folder_that_is_not_there(root, capsys):
    root.mkdir()
    (root / "datasets.yaml").write_text(ENTRY.replace("a,", "~nobody_has_this_name/a,"))
    assert main(["data", "check", "mine"]) == 1
    assert "expects the folder" in capsys.readouterr().err
