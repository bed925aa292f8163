import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.predict import build_predictor, find_device, main, parse_arguments

RANDOM = ["--model", "scenes_vit", "--pretrained", "", "--templates", "none", "--device", "cpu"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    noise[:, 60:] //= 4
    Image.fromarray(noise).save(path)
    return path


def run(tmp_path, *images, vocabulary="grass, water, red brick", options=()):
    arguments = [*map(str, images), "--vocabulary", vocabulary, "--output", str(tmp_path / "out"), *RANDOM, *options]
    return main(arguments), tmp_path / "out"


def test_a_vocabulary_file_has_a_class_a_line_and_synonyms_on_demand(tmp_path, photo, monkeypatch):
    file, asked = tmp_path / "words.txt", []
    file.write_text("grass\nsea, ocean\n")
    encode = TextEncoder._encode
    monkeypatch.setattr(TextEncoder, "_encode", lambda self, *args: asked.append(self.synonyms) or encode(self, *args))
    for options in ([], ["--synonyms"]):
        arguments = [str(photo), "--vocabulary-file", str(file), "--output", str(tmp_path / "out"), *RANDOM, *options]
        assert main(arguments) == 0
        summary = json.loads((tmp_path / "out" / "photo.json").read_text())
        assert [entry["name"] for entry in summary["classes"]] == ["grass", "sea, ocean"]
    assert asked == [False, True]


def test_writes_overlay_labels_and_summary(tmp_path, photo):
    status, out = run(tmp_path, photo, options=["--background", "wall, floor"])
    assert status == 0
    labels = np.asarray(Image.open(out / "photo_labels.png"))
    assert labels.dtype == np.uint8
    assert labels.shape == (70, 130)
    summary = json.loads((out / "photo.json").read_text())
    assert [entry["name"] for entry in summary["classes"]] == ["grass", "water", "red brick", "background"]
    for entry in summary["classes"]:
        assert entry["area"] == pytest.approx((labels == entry["index"]).mean(), abs=1e-6)
    assert Image.open(out / "photo_overlay.png").width > 130


def test_regions_come_from_another_vit(tmp_path, photo):
    _, out = run(tmp_path, photo)
    default = np.asarray(Image.open(out / "photo_labels.png")).copy()
    assert run(tmp_path, photo, options=["--regions", "timm:test_vit", "--regions-pretrained", "random"])[0] == 0
    assert (np.asarray(Image.open(out / "photo_labels.png")) != default).any()
    assert run(tmp_path, photo, options=["--regions", "dino"])[0] == 1


def test_options_reach_the_method(tmp_path, photo):
    _, out = run(tmp_path, photo)
    default = np.asarray(Image.open(out / "photo_labels.png")).copy()
    assert run(tmp_path, photo, options=["--attention", "v-mlp", "--classify", "patches"])[0] == 0
    assert (np.asarray(Image.open(out / "photo_labels.png")) != default).any()


def test_size_and_clustering_reach_the_method():
    def built(*options):
        common = ["photo.png", "--vocabulary", "grass", "--output", "out"]
        predictor = build_predictor(parse_arguments([*common, *RANDOM, *options]))
        return predictor.size, predictor.method.eps, predictor.method.min_samples

    assert built("--size", "120", "--eps", "0.3", "--min-samples", "4") == (120, 0.3, 4)
    assert built() == (96, None, None)


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path, photo):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("L", (40, 40)).save(other / "photo.jpg")
    status, out = run(tmp_path, photo, other / "photo.jpg")
    assert status == 0
    assert Image.open(out / "photo_2_labels.png").size == (40, 40)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held sideways
    Image.new("RGB", (64, 40)).save(tmp_path / "turned.jpg", exif=exif)
    _, out = run(tmp_path, tmp_path / "turned.jpg")
    assert Image.open(out / "turned_labels.png").size == (40, 64)


def test_unreadable_images_are_reported_and_the_rest_is_done(tmp_path, photo, caplog):
    truncated, no_image = tmp_path / "truncated.png", tmp_path / "notes.txt"
    truncated.write_bytes(photo.read_bytes()[:-2000])
    no_image.write_text("no picture")
    status, out = run(tmp_path, truncated, no_image, tmp_path / "missing.png", photo)
    assert status == 1
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert [name in error for name, error in zip(["truncated", "notes.txt", "missing"], errors, strict=True)] == [
        True
    ] * 3
    assert all(error.startswith("cannot read the image") for error in errors)
    assert (out / "photo_labels.png").exists()
    assert not (out / "truncated_labels.png").exists()


def test_a_panorama_of_too_many_patches_is_refused(tmp_path, photo, caplog):
    Image.new("RGB", (4200, 10)).save(tmp_path / "panorama.png")
    status, out = run(tmp_path, tmp_path / "panorama.png", photo)
    assert status == 1
    (error,) = (record.message for record in caplog.records if record.levelname == "ERROR")
    assert re.search(r"4200x10 pixels are 5040x12 patches at --size 96, more than 4096: cut", error)
    assert (out / "photo_labels.png").exists()


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        ("", [], "vocabulary is empty"),
        ("grass,,water", [], "empty word at position 1"),
        ("grass, water, grass", [], "more than once: grass"),
        ("grass", ["--model", "scene_vit"], "unknown CLIP model 'scene_vit'; did you mean: scenes_vit"),
        ("grass", ["--pretrained", "scene"], "no pretrained tag 'scene'.*scenes"),
        ("grass", ["--size", "7"], "--size 7 is less than one patch"),
        ("grass", ["--attention", "qq+residual"], r"'qq\+residual': '\+residual' is none of"),
        ("grass", ["--device", "abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path, photo, caplog, vocabulary, options, message):
    assert run(tmp_path, photo, vocabulary=vocabulary, options=options)[0] == 1
    (error,) = (record.message for record in caplog.records if record.levelname == "ERROR")
    assert re.search(message, error)


def test_wrong_clustering_parameters(tmp_path, photo, caplog):
    assert run(tmp_path, photo, options=["--eps", "-1"])[0] == 1
    assert "eps > 0" in caplog.text


def test_the_device_is_found():
    assert find_device("auto").type in ("cpu", "cuda")


def test_the_command_needs_no_detectron2_and_says_what_it_wrote(tmp_path, photo):
    arguments = [str(photo), "--output", str(tmp_path / "out"), "--vocabulary", "grass, lava"]
    arguments = ["predict", *arguments, "--model", "scenes_vit", "--pretrained", "scenes"]
    code = (
        f"import runpy, sys; sys.modules['detectron2'] = None; sys.argv = {arguments!r}; "
        "runpy.run_module('san_cliptrase.predict', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert f"{photo.stem}_overlay.png" in done.stderr
