import json
from pathlib import Path

import pytest
from PIL import Image

from san_cliptrase.commands.main import main
from san_cliptrase.scenes import make_scene

FEW = ("TEST.MAX_IMAGES", 2, "MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "none")


def run(name, output, *overrides):
    return main(["reproduce", name, "--output", str(output), *map(str, (*FEW, *overrides))])


def report(name, output):
    found = json.loads((output / f"{name}.json").read_text())
    return found, {row["name"]: row["metrics"] for row in found["measured"]}


def is_figure(path, width):
    return Image.open(path).size[0] == pytest.approx(width, rel=0.05)


def test_global_patches_come_with_training(tmp_path):
    assert run("global_patches", tmp_path) == 0
    found, rows = report("global_patches", tmp_path)
    trained = [rows[f"scenes_vit scenes, block {block} of 6"] for block in range(1, 7)]
    random = [rows[f"random weights, block {block} of 6"] for block in range(1, 7)]
    assert min(r["top 5 % receive"] for r in trained) > max(r["top 5 % receive"] for r in random) > 5
    assert min(r["entropy"] for r in random) > 0.99
    assert not any(r["global patches"] for r in random)
    assert found["images"] == 2
    assert is_figure(tmp_path / "global_patches_by_block.png", 960)
    assert "| scenes_vit scenes, block 1 of 6 | demo_scenes_val |" in (tmp_path / "global_patches.md").read_text()


def test_any_clips_stand_side_by_side(tmp_path):
    assert run("global_patches", tmp_path, "FIGURES.MODELS", "a=scenes_vit@scenes, none yet=scenes_vit") == 0
    _, rows = report("global_patches", tmp_path)
    assert {name.split(",")[0] for name in rows} == {"a", "none yet"}
    assert rows["a, block 5 of 6"]["top 5 % receive"] > rows["none yet, block 5 of 6"]["top 5 % receive"]


def test_figure2_shows_that_correlation_finds_the_own_class_where_attention_does_not(tmp_path):
    assert run("figure2", tmp_path, "FIGURES.POINTS", "((2, 3), (9, 9))") == 0
    found, rows = report("figure2", tmp_path)
    assert found["points"] == [[2, 3], [9, 9]]
    plain, _, correlation, suppressed = (metrics["same-class AUC"] for metrics in rows.values())
    assert min(correlation, suppressed) > 75 > plain
    assert is_figure(tmp_path / "figure2.png", 960)


def test_figure3_counts_clusters_with_and_without_global_patches(tmp_path):
    assert run("figure3", tmp_path, "FIGURES.IMAGE_INDEX", 1) == 0
    _, rows = report("figure3", tmp_path)
    assert list(rows) == ["[CLS] not subtracted", "[CLS] subtracted", "regions (every patch)"]
    assert rows["regions (every patch)"]["noise"] == 0
    assert all(0 < metrics["purity"] <= 100 for metrics in rows.values())
    assert is_figure(tmp_path / "figure3.png", 960)


def test_any_picture_can_be_looked_at(tmp_path):
    """Neither square nor of whole patches, without ground truth, in the words of a data set that is not there."""
    photo = tmp_path / "photo.png"
    Image.fromarray(make_scene((5, 1)).image[:150, :187]).save(photo)
    for name in ("figure2", "figure3"):
        absent = ("DATASETS.TEST", "('voc20_val', 'ade150_val')", "FIGURES.IMAGE_FILE", photo)
        assert run(name, tmp_path, *absent, "INPUT.MIN_SIZE_TEST", 150) == 0
        found, rows = report(name, tmp_path)
        assert rows == {}
        assert "photo.png, in the words of voc20_val" in found["about"][0]
        assert "images of" not in " ".join(found["about"])
        assert is_figure(tmp_path / f"{name}.png", 960)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("figure2", ("FIGURES.POINTS", "((2, 12),)"), "is not a patch (row, column) of the 12x12 patches"),
        ("figure2", ("FIGURES.POINTS", "(3, 4)"), "FIGURES.POINTS is (3, 4); it must be a list"),
        ("figure3", ("FIGURES.IMAGE_INDEX", "200"), "has images 0 to 199"),
        ("figure3", ("FIGURES.IMAGE_FILE", "absent.png"), "absent.png"),
        ("figure3", ("DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
        ("global_patches", ("FIGURES.MODELS", "scenes_vit"), "is not NAME=MODEL"),
        ("global_patches", ("FIGURES.MODELS", "a=scenes_vti"), "scenes_vit"),
        ("global_patches", ("FIGURES.MODELS", "a=scenes_vit, a=scenes_vit@scenes"), "'a' stands twice"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(name, overrides, said, tmp_path, capsys):
    assert run(name, tmp_path, *overrides) == 1
    # Scenes that are not there yet are drawn first, with a bar.
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert said in error


def test_plain_san_has_no_figure(tmp_path, capsys):
    config = Path(__file__).parents[3] / "configs" / "demo" / "san.yaml"
    assert main(["reproduce", "figure2", "--config", str(config), "--output", str(tmp_path)]) == 1
    assert "needs CLIPtrase" in capsys.readouterr().err
