import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from san_cliptrase.choices import FORMATS
from san_cliptrase.colors import class_colors
from san_cliptrase.errors import OptionError, OutputError
from san_cliptrase.segmentation import Segmentation

LABELS = np.array([[0, 0, 2, 2], [0, 0, 0, 2], [1, 0, 0, 2]])
NAMES = ["sea", "boat", "sky", "never seen"]


def unwanted():
    raise AssertionError("computed without need")


def segmentation(labels=LABELS, names=NAMES, scores=unwanted, regions=unwanted, **others):
    image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return Segmentation(image, labels, names, scores, regions, **others)


def test_areas_are_shares_in_the_order_of_the_names():
    result = segmentation(LABELS.astype(np.uint8))
    assert result.labels.dtype == np.int64
    assert result.names == tuple(NAMES)
    assert list(result.areas) == NAMES
    assert list(result.areas.values()) == pytest.approx([7 / 12, 1 / 12, 4 / 12, 0])
    assert sum(result.areas.values()) == pytest.approx(1)


def test_scores_and_regions_are_computed_once_and_only_when_asked_for(tmp_path):
    calls = []
    given = np.random.default_rng(0).dirichlet(np.ones(4), LABELS.shape).transpose(2, 0, 1)

    def scores():
        calls.append("scores")
        return given

    def regions():
        calls.append("regions")
        return np.eye(3)[None]

    result = segmentation(scores=scores, regions=regions)
    assert (str(result), result.describe(), result.save(tmp_path / "photo"), result.overlay()) and not calls
    for _ in range(2):
        np.testing.assert_allclose(result.scores, given, rtol=1e-6)
        assert result.confidence[1, 3] == pytest.approx(given[2, 1, 3])
        assert result.confidence.shape == LABELS.shape
        assert result.scores.dtype == result.confidence.dtype == result.regions.dtype == np.float32
        assert result.regions.shape == (1, 3, 3)
    assert calls == ["scores", "regions"]


def test_scores_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r"scores of shape \(4, 2, 2\), not \(4, 3, 4\)"):
        _ = segmentation(scores=lambda: np.zeros((4, 2, 2))).scores


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (LABELS + 2, NAMES, "labels from 2 to 4 are not indices into 4 names"),
        (LABELS - 1, NAMES, "labels from -1 to 1"),
        (LABELS, ["sea", "sky", "sea"], "more than once: sea"),
    ],
)
def test_what_does_not_belong_together_is_refused(labels, names, message):
    with pytest.raises(ValueError, match=message):
        segmentation(labels, names)
    with pytest.raises(ValueError, match="do not fit an image"):
        Segmentation(np.zeros((4, 3, 3), np.uint8), LABELS, NAMES, unwanted, unwanted)
    with pytest.raises(TypeError):
        segmentation(LABELS + 0.5)


def test_a_line_says_what_was_found():
    result = segmentation(source="folder/photo.jpg")
    assert repr(result) == "photo: sea 58 %, sky 33 %, boat 8 %"
    assert result.describe(limit=2) == "sea 58 %, sky 33 %, and 1 more"
    assert repr(segmentation()).startswith("image: sea")
    labels = np.zeros((100, 100), dtype=np.int64)
    labels[0, 0] = 1
    line = repr(segmentation(labels, ["sea\x1b[2J", "boat"], source="a\x1b\nb.jpg"))
    assert line == "a b: sea [2J >99 %, boat <1 %"


def test_three_files_are_written(tmp_path, monkeypatch):
    result = segmentation()
    paths = result.save(tmp_path / "new" / "deep" / "photo.v2")
    assert [path.name for path in paths] == ["photo.v2_overlay.png", "photo.v2_labels.png", "photo.v2.json"]
    assert sorted(os.listdir(tmp_path / "new" / "deep")) == sorted(path.name for path in paths)
    with Image.open(paths[0]) as overlay:
        np.testing.assert_array_equal(np.asarray(overlay), np.asarray(result.overlay()))
    with Image.open(paths[1]) as labels:
        assert (labels.mode, labels.info["Software"]) == ("P", "san_cliptrase")
        np.testing.assert_array_equal(np.asarray(labels), LABELS)
        np.testing.assert_array_equal(np.asarray(labels.convert("RGB")), class_colors(4)[LABELS])
    summary = json.loads(paths[2].read_text())
    assert summary == {"written_by": "san_cliptrase", **result.summary()}
    assert (summary["height"], summary["width"]) == (3, 4)
    assert summary["classes"][1] == {"index": 1, "name": "boat", "area": pytest.approx(1 / 12, abs=1e-6)}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert result.save("~/photo")[2] == tmp_path / "photo.json"


@pytest.mark.parametrize(("classes", "mode", "dtype"), [(1, "P", "u1"), (256, "P", "u1"), (257, "I;16", "u2")])
def test_label_files_have_the_indices_of_any_number_of_classes(tmp_path, classes, mode, dtype):
    labels = np.arange(classes).repeat(3).reshape(-1, 3)
    path = segmentation(labels, [f"class {i}" for i in range(classes)]).save(tmp_path / "many")[1]
    with Image.open(path) as image:
        assert np.asarray(image).dtype == dtype
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert image.mode == mode or classes > 256
    assert path.read_bytes()[24] == (8 if classes <= 256 else 16)  # bits of a value


def test_every_format_of_an_image_can_be_asked_for(tmp_path):
    given = np.full((4, *LABELS.shape), 0.25)
    paths = segmentation(scores=lambda: given).save(tmp_path / "all", [name for name in FORMATS if name != "coco"])
    ends = ["_overlay.png", "_labels.png", "_scores.npz", "_confidence.png", ".json"]
    assert [path.name for path in paths] == [f"all{end}" for end in ends]
    with pytest.raises(OptionError, match="unknown format 'coco'"):
        segmentation().save(tmp_path / "all", ["coco"])
    (tmp_path / "other_scores.npz").write_bytes(b"mine")
    with pytest.raises(OutputError, match="not replaced"):
        segmentation().save(tmp_path / "other", ["scores"])


def test_own_files_are_replaced_and_others_never(tmp_path):
    first, second = segmentation(), segmentation(LABELS[:, ::-1])
    paths = first.save(tmp_path / "photo")
    assert second.save(tmp_path / "photo") == paths
    np.testing.assert_array_equal(np.asarray(Image.open(paths[1])), LABELS[:, ::-1])
    foreign = {
        "_overlay.png": lambda path: Image.new("RGB", (4, 4)).save(path),
        "_labels.png": lambda path: path.mkdir(),
        ".json": lambda path: path.write_text('{"mine": 1, "note": "not by san_cliptrase"}'),
    }
    for ending, write in foreign.items():
        stem = tmp_path / f"of{ending}" / "user"
        stem.parent.mkdir()
        path = Path(f"{stem}{ending}")
        write(path)
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(OutputError, match=f"not replaced: .*user{ending}. Choose another folder or name"):
            first.save(stem)
        assert os.listdir(stem.parent) == [path.name]
        assert before is None or path.read_bytes() == before


def test_pipes_and_dead_links_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link_labels.png").symlink_to(tmp_path / "nowhere")
    for stem in ("pipe", "link"):
        with pytest.raises(OutputError, match="not replaced"):
            segmentation().save(tmp_path / stem)


def test_a_stem_without_a_name_and_a_folder_that_is_a_file_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    for stem in (f"{tmp_path}/", "", ".", f"{tmp_path}/.."):
        with pytest.raises(ValueError, match="has no file name"):
            segmentation().save(stem)
    with pytest.raises(OutputError, match="cannot write"):
        segmentation().save(tmp_path / "file" / "photo")


@pytest.fixture
def divided():
    """Two regions of sea, one of boat, and soft masks of half the image's size."""
    labels = np.zeros((8, 12), dtype=np.int64)
    labels[:, 8:] = 1
    labels[0, 0] = 3
    regions = np.zeros((3, 4, 6), dtype=np.float32)
    regions[0, :, :2], regions[1, :, 2:4], regions[2, :, 4:] = 1, 0.9, 0.8
    return segmentation(labels, regions=lambda: regions, source="photos/a.jpg")


def test_masks_are_of_classes_or_of_regions_and_cover_the_image_once(divided):
    per_class, per_region = list(divided.parts()), list(divided.parts("region"))
    assert [index for index, _ in per_class] == [0, 1, 3]
    assert [index for index, _ in per_region][:3] == [0, 0, 1]
    for parts in (per_class, per_region):
        assert (np.sum([mask for _, mask in parts], axis=0) == 1).all()
        assert all((divided.labels[mask] == index).all() for index, mask in parts)
    assert per_region[0][1][:, :4].sum() == 31 and per_region[1][1][:, 4:8].all()
    with pytest.raises(OptionError, match="unknown division into masks 'regions'; did you mean region"):
        list(divided.parts("regions"))
    with pytest.raises(OptionError, match="need regions"):
        list(segmentation(regions=lambda: np.zeros((0, 2, 2))).parts("region"))


@pytest.mark.parametrize("per", ["class", "region"])
def test_pycocotools_reads_what_is_written(divided, tmp_path, per):
    (tmp_path / "coco.json").write_text(json.dumps(divided.to_coco(per)))
    read = COCO(tmp_path / "coco.json")
    (image,) = read.loadImgs(read.getImgIds())
    assert (image["file_name"], image["height"], image["width"]) == ("a.jpg", 8, 12)
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == NAMES
    found = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
    for annotation, (index, mask) in zip(found, divided.parts(per), strict=True):
        np.testing.assert_array_equal(read.annToMask(annotation), mask)
        assert read.loadCats(annotation["category_id"])[0]["name"] == NAMES[index]
        assert annotation["area"] == mask.sum()
        x, y, width, height = map(int, annotation["bbox"])
        assert mask[y : y + height, x : x + width].sum() == mask.sum()


def test_detections_of_supervision_are_its_masks(divided):
    found = divided.to_supervision("region")
    for index, mask, name, expected in zip(
        found.class_id, found.mask, found["class_name"], divided.parts("region"), strict=True
    ):
        assert (index, name) == (expected[0], NAMES[index])
        np.testing.assert_array_equal(mask, expected[1])
    assert len(divided.to_supervision()) == 3


@pytest.mark.parametrize(("library", "call"), [("pycocotools", "to_coco"), ("supervision", "to_supervision")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, library, call):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(OptionError, match=r"pip install 'san_cliptrase\["):
        getattr(segmentation(), call)()


def test_torch_is_not_loaded():
    code = "import sys, san_cliptrase.segmentation, san_cliptrase.images; print([m for m in sys.modules if m in "
    code += "('torch', 'matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
