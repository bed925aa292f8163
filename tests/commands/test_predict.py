"""``san-cliptrase predict``."""

import inspect
import io
import json
import logging
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.commands.inputs import find_images, result_names
from san_cliptrase.commands.main import main
from san_cliptrase.commands.predict import OF_BOTH, OF_CLIP
from san_cliptrase.segmenter import Segmenter

RANDOM = ["--model", "scenes_vit", "--pretrained", "", "--templates", "none", "--device", "cpu"]
SHIPPED = ["--model", "scenes_vit", "--pretrained", "scenes", "--templates", "none", "--device", "cpu"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    noise[:, 60:] //= 4
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys):
    """Function of images and options: the exit status, and the lines of stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("san_cliptrase"), "handlers", [])  # of runs in earlier tests

    def run(*images, options=(), vocabulary=("--vocabulary", "grass, water, red brick"), settings=RANDOM):
        capsys.readouterr()
        status = main(["predict", *map(str, images), *vocabulary, "--output", "out", *settings, *map(str, options)])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.fixture
def without_weights(monkeypatch):
    for name in ("from_clip", "from_san"):
        monkeypatch.setattr(Segmenter, name, lambda *_, **__: pytest.fail("weights were loaded"))


def labels(tmp_path, name="photo"):
    return np.asarray(Image.open(tmp_path / "out" / f"{name}_labels.png"))


def test_an_image_gives_files_and_a_line(tmp_path, photo, predict):
    status, (line,), err = predict(photo, options=["--background", "wall, floor"])
    assert status == 0
    assert not [line for line in err if "%|" in line]  # no progress of one image
    summary = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert [entry["name"] for entry in summary["classes"]] == ["grass", "water", "red brick", "background"]
    for entry in summary["classes"]:
        assert entry["area"] == pytest.approx((labels(tmp_path) == entry["index"]).mean(), abs=1e-5)
    largest = max(summary["classes"], key=lambda entry: entry["area"])["name"]
    assert re.fullmatch(rf"{re.escape(str(photo))}: {largest} >?\d+ %.* -> out/photo_overlay\.png", line)
    assert Image.open(tmp_path / "out" / "photo_overlay.png").width > 130


def test_a_trained_san_segments(tmp_path, photo, predict, world):
    cfg = world.config("san_cliptrase")
    world.output.mkdir()
    (world.output / "config.yaml").write_text(cfg.dump())
    SafeCheckpointer(world.model("san_cliptrase"), str(world.output)).save("model_0000001")
    assert main(["export", str(world.output), "--output", str(tmp_path / "san.safetensors")]) == 0
    seen = []
    for san in (world.output, tmp_path / "san.safetensors"):
        assert predict(photo, options=["--san", san, "--device", "cpu"], settings=())[0] == 0
        seen.append(labels(tmp_path))
    assert np.array_equal(*seen)


def test_a_vocabulary_file_has_a_class_a_line_and_synonyms_on_demand(tmp_path, photo, predict, monkeypatch):
    asked = []
    (tmp_path / "words.txt").write_text("grass\nsea, ocean\n")
    encode = TextEncoder.forward
    monkeypatch.setattr(TextEncoder, "forward", lambda self, *args: asked.append(self.synonyms) or encode(self, *args))
    for options in ([], ["--synonyms"]):
        assert predict(photo, options=options, vocabulary=("--vocabulary-file", "words.txt"))[0] == 0
        summary = json.loads((tmp_path / "out" / "photo.json").read_text())
        assert [entry["name"] for entry in summary["classes"]] == ["grass", "sea, ocean"]
    assert asked == [False, True]


def test_options_reach_the_segmenter_and_what_is_not_given_is_left_to_it(photo, predict, monkeypatch):
    seen = []
    build = Segmenter.from_clip
    monkeypatch.setattr(Segmenter, "from_clip", lambda **options: seen.append(options) or build(**options))
    more = ["--size", 120, "--eps", 0.3, "--min-samples", 4, "--attention", "v-mlp", "--classify", "mean_logits"]
    more += ["--refine", "pamr", "--flip", "--scales", 1, 1.5]
    for options in ([], more):
        assert predict(photo, options=options)[0] == 0
    given = {"model": "scenes_vit", "pretrained": "", "templates": "none", "device": "cpu"}
    changed = {"size": 120, "eps": 0.3, "min_samples": 4, "attention": "v-mlp", "classify": "mean_logits"}
    changed |= {"refine": "pamr", "flip": True, "scales": [1.0, 1.5]}
    assert seen == [given, given | changed]


def test_help_names_the_defaults_of_the_segmenter(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    known = inspect.signature(Segmenter.from_clip).parameters
    assert {*OF_CLIP, *OF_BOTH} | {"device", "text_cache"} == {*known}
    assert {*OF_BOTH} <= {*inspect.signature(Segmenter.from_san).parameters}
    for name in OF_CLIP:
        option, default = f"--{name.replace('_', '-')} ", known[name].default
        shown = text[text.rindex(option) :].partition("default: ")[2].partition(")")[0]
        assert default in (None, False) or shown == str(default), name


def test_folders_and_patterns_are_searched_and_nothing_is_done_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.JPG", "b/10.png", "b/notes.txt", "b/.hidden.png", "b/c/1.webp", "a.strange", "b/x_labels.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "d.png").mkdir()
    assert [*map(str, find_images(["b"]))] == ["b/10.png", "b/2.JPG", "b/x_labels.png"]
    assert [*map(str, find_images(["a.strange", "b/**/*", "b/2.JPG"]))] == [
        "a.strange",
        "b/10.png",
        "b/2.JPG",
        "b/c/1.webp",
        "b/x_labels.png",
    ]
    (tmp_path / "b" / "x.json").touch()  # so b/x_labels.png is a result
    assert [*map(str, find_images(["b/x_labels.png", "b/*.png"]))] == ["b/x_labels.png", "b/10.png"]
    (tmp_path / "b" / "[2].png").touch()
    assert [*map(str, find_images(["b/[2].png"]))] == ["b/[2].png"]


def test_results_of_images_with_one_name_are_numbered(tmp_path):
    paths = [tmp_path / name for name in ("a/p.png", "b/p.jpg", "p_2.png", "c/P.png", "q.png")]
    assert result_names(paths) == ["p", "p_2", "p_2_2", "P_3", "q"]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("absent.png", "there is no image absent.png"),
        ("absent/photo.png", "there is no folder absent"),
        ("https://example.org/photo.jpg", "is a URL: download it first"),
        ("empty", 'the folder empty has no images .*"empty/\\*\\*/\\*.jpg"'),
        ("*.jpg", "the pattern \\*.jpg matches no file in "),
        ("*.txt", "the pattern \\*.txt matches 1 files, but no image"),
        ("", "there is no image"),
    ],
)
def test_what_holds_no_image_is_told_before_anything_is_loaded(tmp_path, predict, photo, without_weights, image, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").touch()
    status, out, (line,) = predict(photo, image)
    assert (status, out) == (1, [])
    assert line.startswith("error: ")
    assert re.search(said, line)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_told_before_anything_is_loaded(tmp_path, predict, photo, without_weights):
    (tmp_path / "out").touch()
    status, _, (line,) = predict(photo)
    assert status == 1
    assert line == "error: --output out is a file: name a folder"
    status, _, (line,) = predict(photo, options=["--output", "out/below"])
    assert status == 1
    assert line.startswith("error: cannot write into --output out/below: Not a directory")


def test_formats_are_files_that_other_tools_read(tmp_path, photo, predict):
    (tmp_path / "deep").mkdir()
    Image.open(photo).crop((0, 0, 90, 60)).save(tmp_path / "deep" / "coco.png")
    formats = ["--format", "coco, scores,confidence", "--coco-per", "region", "--background", "wall"]
    for _ in range(2):  # the second call replaces what the first one wrote
        status, lines, _ = predict(photo, "deep/coco.png", options=formats, settings=SHIPPED)
        assert status == 0
    assert lines[0].endswith("-> out/photo_scores.npz")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["coco.json"]
        + [name + end for name in ("photo", "coco_2") for end in (".json", "_scores.npz", "_confidence.png")]
    )
    read = COCO(tmp_path / "out" / "coco.json")
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == ["photo.png", "deep/coco.png"]
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == ["grass", "water", "red brick", "background"]
    result = Segmenter.from_clip("scenes_vit", "scenes", templates="none", device="cpu", text_cache="")(
        photo, ["grass", "water", "red brick"], ["wall"]
    )
    expected = list(result.parts("region"))
    found = read.loadAnns(read.getAnnIds(imgIds=[1]))
    assert len(found) == len(expected) > 1
    for annotation, (index, mask) in zip(found, expected, strict=True):
        assert annotation["category_id"] == index + 1
        np.testing.assert_array_equal(read.annToMask(annotation), mask)
    with np.load(tmp_path / "out" / "photo_scores.npz") as stored:
        assert stored["names"].tolist() == list(result.names)
        assert stored["scores"].dtype == np.float16
        np.testing.assert_allclose(stored["scores"], result.scores, atol=1e-3)
    confidence = np.asarray(Image.open(tmp_path / "out" / "photo_confidence.png"))
    np.testing.assert_allclose(confidence / 255, result.confidence, atol=0.5 / 255 + 1e-6)


def test_a_coco_file_that_it_did_not_write_is_told_before_anything_is_loaded(tmp_path, photo, predict, without_weights):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "coco.json").write_text('{"info": {}}')
    status, _, (line,) = predict(photo, options=["--format", "png,coco"])
    assert status == 1
    assert line.startswith("error: not written by san_cliptrase, so not replaced: out/coco.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "png,cocoa"], "unknown format 'cocoa'; did you mean coco"),
        (["--format", ""], "unknown format ''"),
        (["--coco-per", "region"], "--coco-per goes with --format coco"),
        (["--format", "coco", "--coco-per", "region", "--classify", "patches"], "--classify patches has none"),
    ],
)
def test_formats_that_do_not_exist_or_fit_are_refused(photo, predict, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        predict(photo, options=options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_unreadable_images_are_reported_and_the_rest_is_done(tmp_path, photo, predict):
    (tmp_path / "truncated.png").write_bytes(photo.read_bytes()[:-2000])
    (tmp_path / "notes.txt").write_text("no image")
    status, (line,), err = predict("truncated.png", "notes.txt", photo)
    assert status == 1
    errors = [line for line in err if line.startswith("error: ")]
    assert [name in error for name, error in zip(["truncated.png", "notes.txt"], errors, strict=True)] == [True] * 2
    assert "photo_overlay.png" in line
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "photo.json",
        "photo_labels.png",
        "photo_overlay.png",
    ]


def test_a_file_that_it_did_not_write_is_not_replaced(tmp_path, photo, predict):
    Image.open(photo).save(tmp_path / "other.png")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "photo.json"
    mine.write_text("{}")
    status, (line,), err = predict(photo, "other.png")
    assert status == 1
    assert line.startswith("other.png: ")
    (error,) = [line for line in err if line.startswith("error: ")]
    assert "photo.json" in error
    assert mine.read_text() == "{}"
    mine.unlink()
    for _ in range(2):
        assert predict(photo, "other.png")[0] == 0


def test_names_are_safe_for_a_terminal_and_progress_is_shown(tmp_path, photo, predict):
    names = ["a\x1b[31m.png", "b\n.png", "c.png", "d.png"]
    for name in names[:3]:
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / names[3]).write_text("no image")
    status, out, err = predict(*names)
    assert status == 1
    assert len(out) == 3
    text = "\n".join([*out, *err])
    assert r"a\x1b[31m.png: " in text
    assert r"out/a\x1b[31m_overlay.png" in text
    assert r"b\n.png: " in text
    assert all(letter.isprintable() for letter in "".join(out))
    assert "4/4" in text


def test_lines_go_to_a_pipe_whatever_its_encoding(tmp_path, photo, predict, monkeypatch):
    (tmp_path / "Möwe.png").write_bytes(photo.read_bytes())
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ascii_only)
        status = main(["predict", "Möwe.png", "--vocabulary", "grass", "--output", "out", *RANDOM])
    assert status == 0
    assert b"M\\xf6we.png: grass 100 %" in ascii_only.buffer.getvalue()


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        ("", [], "vocabulary is empty"),
        ("grass,,water", [], "no name in word 2 of 3"),
        ("grass, water, grass", [], "'grass' more than once, in words 1 and 3"),
        ("grass", ["--model", "scene_vit"], "unknown CLIP model 'scene_vit'; did you mean:? scenes_vit"),
        ("grass", ["--pretrained", "scene"], "no pretrained tag 'scene'.*scenes"),
        ("grass", ["--size", "7"], "7.* one patch"),
        ("grass", ["--attention", "qq+residual"], r"'qq\+residual': '\+residual' is none of"),
        ("grass", ["--eps", "-1"], "eps > 0"),
        ("grass", ["--device", "abacus"], "device 'abacus' cannot be used"),
        ("grass", ["--regions", "dino"], "unknown source of regions 'dino'"),
    ],
)
def test_wrong_settings_are_one_clear_line(photo, predict, vocabulary, options, message):
    status, out, err = predict(photo, vocabulary=("--vocabulary", vocabulary), options=options)
    assert (status, out) == (1, [])
    (error,) = err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_it_needs_no_detectron2(tmp_path, photo):
    words = ["predict", str(photo), "--output", str(tmp_path / "out"), "--vocabulary", "grass, lava"]
    code = (
        "import sys; sys.modules['detectron2'] = None; from san_cliptrase.commands.main import main; "
        f"sys.exit(main({[*words, '--model', 'scenes_vit', '--pretrained', 'scenes', '--device', 'cpu']!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("photo_overlay.png\n")
