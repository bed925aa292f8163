"""Label maps in colours: the class file says what they stand for."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from san_cliptrase.commands.main import main, train_net
from san_cliptrase.data.own import register_own
from san_cliptrase.data.palette import Palette
from san_cliptrase.errors import DataError
from tests.conftest import ROOT
from tests.data import archives
from tests.data.registering import error_of, forget_registered, register

GRASS, WATER, POND, LAVA, NONE = (0, 128, 0), (0, 0, 255), (0, 0, 128), (255, 64, 0), (0, 0, 0)
PALETTE = Palette(((GRASS,), (WATER, POND), (LAVA,)), (NONE,))
COLORS = np.array([GRASS, WATER, POND, LAVA, NONE], np.uint8)
PIXELS = np.random.default_rng(0).integers(0, 5, (7, 9))
LABELS = np.array([0, 1, 1, 2, 255])[PIXELS]
CLASSES = "grass 0 128 0\nwater 0 0 255, 0 0 128\nlava 255 64 0\n"


def rgb():
    return Image.fromarray(COLORS[PIXELS])


def rgba():
    return Image.fromarray(np.dstack([COLORS[PIXELS], np.full((7, 9), 255, np.uint8)]))


def with_palette(order, entries=5):
    """The colours in another order, and filled up to so many."""
    order = np.array(order)
    image = Image.fromarray(np.argsort(order)[PIXELS].astype(np.uint8))
    image.putpalette(np.resize(COLORS[order], (entries, 3)).tobytes())
    return image


def save(image, path, **how):
    image.save(path, **how)
    return str(path)


@pytest.mark.parametrize(
    "image",
    [rgb(), rgba(), with_palette([0, 1, 2, 3, 4]), with_palette([4, 2, 0, 3, 1]), with_palette([3, 4, 1, 0, 2], 256)],
    ids=["RGB", "RGBA", "palette", "another order", "256 entries"],
)
@pytest.mark.parametrize(("ending", "how"), [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})])
def test_every_way_to_store_colours_gives_the_same_labels(tmp_path, image, ending, how):
    labels = PALETTE.read(save(image, tmp_path / f"a.{ending}", **how), 255)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([(2, 3, (1, 2, 3))], "the colour 1 2 3 is in no line of the class file: 1 pixel, the first at x 3, y 2."),
        (
            [(2, 3, (1, 2, 3)), (2, 1, (1, 2, 3))],
            "1 2 3 is in no line of the class file: 2 pixels, the first at x 1, y 2.",
        ),
        ([(2, 3, (1, 2, 3)), (6, 0, (0, 0, 3)), (6, 1, (0, 1, 3))], " 2 more colours of no class: 2 pixels"),
        ([(1, 4, (*GRASS, 7))], "it is transparent, with alpha 7, at 1 pixel, the first at x 4, y 1"),
    ],
)
def test_a_colour_of_no_class_is_named_with_its_place_and_number(tmp_path, change, message):
    image = rgba() if len(change[0][2]) == 4 else rgb()
    for y, x, color in change:
        image.putpixel((x, y), color)
    with pytest.raises(DataError) as caught:
        PALETTE.read(save(image, tmp_path / "a.png"), 255)
    assert message in str(caught.value)
    assert str(tmp_path / "a.png") in str(caught.value)


@pytest.mark.parametrize(
    ("image", "name", "how", "message"),
    [
        (Image.new("L", (4, 5)), "a.png", {}, r"it has no colours \(its mode is L\)"),
        (Image.new("LA", (4, 5)), "a.png", {}, r"it has no colours \(its mode is LA\)"),
        (Image.new("I;16", (4, 5)), "a.tif", {}, r"it has no colours"),
        (rgb(), "a.png", {"format": "JPEG"}, "it is a JPEG file. Label maps are PNG or TIFF"),
        (rgb(), "a.tif", {"compression": "jpeg"}, r"its compression \(jpeg\) changes values"),
    ],
)
def test_files_that_have_no_colours_or_changed_ones_are_refused(tmp_path, image, name, how, message):
    with pytest.raises(DataError, match=message):
        PALETTE.read(save(image, tmp_path / name, **how), 255)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    save(rgb(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read the label file"):
        PALETTE.read(path, 255)
    path = tmp_path / "b.tif"
    save(rgb(), path)
    path.write_bytes(
        path.read_bytes().replace(b"\x11\x01\x04\x00\x01\x00\x00\x00", b"\x11\x01\x04\x00\x00\x00\x00\x00")
    )
    with pytest.raises(DataError, match="cannot read the label file"):
        PALETTE.read(path, 255)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two splits with label maps in colours; what is registered is forgotten after the test."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    for split in ("train", "val"):
        for stem in "ab":
            archives.write_photo(tmp_path / "town" / "images" / split / f"{stem}.jpg", (64, 90))
            labels = COLORS[np.tile(np.repeat(np.arange(5), 18), (64, 1))]
            archives.write_png(tmp_path / "town" / "annotations" / split / f"{stem}.png", labels)
    (tmp_path / "town" / "classes.txt").write_text(CLASSES)
    yield tmp_path / "town"
    forget_registered()


def test_a_folder_with_colours_is_registered_checked_trained_and_evaluated(folder, capsys, tiny_overrides, tmp_path):
    error = error_of(capsys, folder)
    assert "the colour 0 0 0 is in no line of the class file: 1152 pixels, the first at x 72, y 0" in error
    assert "--ignore '0 0 0'" in error
    assert register(folder, "--ignore", "0 0 0") == 0
    assert "read by their colours: 0 128 0 is 'grass'" in capsys.readouterr().out
    assert main(["data", "check", "town_train", "town_val", "--workers", "1"]) == 0
    names = {"datasets__train": "('town_train',)", "datasets__test": "('town_val',)", "solver__max_iter": 1}
    assert train_net(["--config", str(ROOT / "configs/demo/san.yaml"), *tiny_overrides(**names)]) == 0
    report = json.loads((tmp_path / "run" / "metrics_town_val.json").read_text())
    assert list(report["iou"]) == ["grass", "water", "lava"]
    # A colour that appears after registration stops a run, with the same words.
    Image.new("RGB", (90, 64), (9, 9, 9)).save(folder / "annotations/val/a.png")
    capsys.readouterr()
    assert main(["data", "check", "town_val", "--workers", "1"]) == 1
    assert "the colour 9 9 9 is in no line of the class file: 5760 pixels" in capsys.readouterr().err
    register_own()
    assert DatasetCatalog.get("town_val")[0]["palette"] == PALETTE


@pytest.mark.parametrize(
    ("classes", "ignore", "message"),
    [
        (CLASSES, "255", "option --ignore: '255' is not a colour, but the class file gives colours"),
        (CLASSES, "0 0 128", "gives the colour 0 0 128 to 'water' and again to 'pixels without a label'"),
        ("grass\nwater\nlava\n", "0 0 0", "'0 0 0' is not a label value; give the names in the class file"),
        ("grass\nwater\nlava\n", "none", "'none' is not a label value; say a whole number"),
        ("grass\nwater\nlava\n", "", "write them behind the names in the class file, as in 'building 128 0 0'"),
    ],
)
def test_what_does_not_fit_together_is_refused(folder, capsys, classes, ignore, message):
    (folder / "classes.txt").write_text(classes)
    assert message in error_of(capsys, folder, "--ignore", ignore)


def test_class_indices_beside_a_class_file_with_colours_are_not_read_as_colours(folder, capsys):
    for path in folder.glob("annotations/*/*.png"):
        archives.write_png(path, np.tile(np.repeat([0, 1, 2, 0, 0], 18).astype(np.uint8), (64, 1)))
    assert "take the colours out of the class file" in error_of(capsys, folder)
