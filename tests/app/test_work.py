"""What the page gets to show, without the page: gradio is not needed."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from san_cliptrase.app.offers import CLIPS, EMBEDDED, Offers, examples
from san_cliptrase.app.work import Choice, load_segmenter, show
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.errors import ConfigError, OptionError
from san_cliptrase.patches.view import CORRELATION, SUPPRESSED
from san_cliptrase.scenes import make_scene

WORDS = ["brick", "bubbles", "fish scales", "grass", "lava"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("app") / "my scene.png"
    Image.fromarray(make_scene((2, 25)).image).save(path)
    return path


def quick(**more):
    return Choice(**{"attention": "clip", "size": 48, "device": "cpu", **more})


def data_of(shown):
    return json.loads(re.search(r'application/json">(.*?)</script>', shown.html, re.S)[1])


def test_a_segmentation_becomes_a_page_and_three_files(scene, tmp_path):
    told = []
    shown = show(scene, WORDS, ["sky"], quick(), tmp_path / "new", lambda share, text: told.append((share, text)))
    data = data_of(shown)
    assert [layer["name"] for layer in data["layers"]] == ["segments", "regions", "confidence"]
    assert [map_["name"] for map_ in data["maps"]][:2] == [CORRELATION, SUPPRESSED]
    assert data["grid"] == [6, 6] and all(0 < float(entry["confidence"]) <= 1 for entry in data["legend"])
    assert shown.about.startswith(f"{data['legend'][0]['name']} {data['legend'][0]['area']}")
    assert [path.name for path in (shown.overlay, shown.labels, shown.coco)] == [
        "my scene_overlay.png",
        "my scene_labels.png",
        "my scene_coco.json",
    ]
    labels, coco = Image.open(shown.labels), json.loads(shown.coco.read_text())
    assert labels.mode == "P" and labels.size == (192, 192) and Image.open(shown.overlay).size[0] > 192
    assert [category["name"] for category in coco["categories"]] == [*WORDS, "background"]
    assert sum(annotation["area"] for annotation in coco["annotations"]) == 192 * 192
    assert [share for share, _ in told] == sorted(share for share, _ in told) and len(told) == 5


def test_more_patches_than_can_be_clicked_on_are_told(scene, tmp_path):
    shown = show(scene, WORDS, [], quick(size=8 * 41, classify="patches"), tmp_path, lambda *_: None)
    data = data_of(shown)
    assert data["maps"] == [] and "choose a smaller size" in data["note"]
    assert [layer["name"] for layer in data["layers"]] == ["segments", "confidence"]


def test_without_regions_none_are_shown(scene, tmp_path):
    data = data_of(show(scene, WORDS, [], quick(classify="patches"), tmp_path, lambda *_: None))
    assert [layer["name"] for layer in data["layers"]] == ["segments", "confidence"] and len(data["maps"]) == 4


@pytest.mark.parametrize(
    ("choice", "error", "said"),
    [
        ({"clip": "scenes_vit"}, OptionError, "'scenes_vit' is no CLIP: write MODEL@WEIGHTS"),
        ({"attention": "cliptrace"}, OptionError, "did you mean cliptrase"),
        ({"size": 3}, OptionError, "size 3 is less than one patch"),
        ({"san": "no/such/run"}, ConfigError, "there is no no/such/run"),
    ],
)
def test_what_cannot_be_chosen_is_told(choice, error, said):
    with pytest.raises(error, match=re.escape(said)):
        load_segmenter(quick(**choice))


def test_words_are_looked_at_before_the_model_is_loaded(scene, tmp_path):
    with pytest.raises(OptionError, match="no name in word 2 of 2"):
        show(scene, ["sky", ""], [], quick(clip="no@model"), tmp_path, lambda *_: None)


def test_a_trained_san_is_looked_at_likewise(scene, tmp_path, world):
    world.output.mkdir(parents=True)
    (world.output / "config.yaml").write_text(world.config().dump())
    SafeCheckpointer(world.model().eval(), str(world.output)).save("model_0000001")
    choice = Choice(san=str(world.output), device="cpu")
    data = data_of(show(scene, WORDS, [], choice, tmp_path / "out", lambda *_: None))
    assert len(data["maps"]) == 4 and np.prod(data["grid"]) == len(data["regions"])
    assert [layer["name"] for layer in data["layers"]] == ["segments", "regions", "confidence"]


def test_examples_are_files_with_words(tmp_path):
    found = examples(tmp_path)
    assert [example.about for example in found] == ["lava, grass", "clouds, sand", "temple", "flower"]
    assert all(Image.open(example.path).size >= (192, 192) and example.words for example in found)


def test_names_that_were_not_offered_are_for_this_machine_alone():
    offers = Offers.of(["ViT-B-32@openai", EMBEDDED], ["run"], local=False)
    assert offers == Offers(("ViT-B-32@openai", *CLIPS), ("run",), others=False)
    assert Offers.of([], [], local=True).others
