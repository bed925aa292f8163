"""The README's Python prints what the README says that it prints, and its text is short enough to be read."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from san_cliptrase.commands.main import main
from san_cliptrase.scenes import CLASS_NAMES, make_scene
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Text weights are kept on disk by default: not in the user's cache here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_offline_snippet_prints_what_stands_below_it(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = re.search(r"^```text\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)[1]
    exec(compile(SNIPPETS[1], "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out == printed


def test_the_first_command_segments_the_image_that_comes_along(tmp_path, monkeypatch, capsys):
    (command,) = re.findall(r"^ +san-cliptrase (predict examples/.*)", README, flags=re.MULTILINE)
    monkeypatch.chdir(ROOT)
    assert main([str(tmp_path) if word == "out" else word for word in shlex.split(command)]) == 0
    truth = make_scene((2, 25)).labels
    labels = np.asarray(Image.open(tmp_path / "scene_labels.png"))
    assert labels.shape == truth.shape
    assert (labels == truth).mean() > 0.7
    assert "lava" in capsys.readouterr().out


def test_the_image_that_comes_along_is_a_demo_scene():
    scene = make_scene((2, 25))
    assert np.abs(np.asarray(Image.open(ROOT / "examples/scene.png")).astype(int) - scene.image).max() <= 1
    assert (ROOT / "examples/words.txt").read_text().splitlines() == list(CLASS_NAMES)


def test_the_three_lines_segment_a_photograph(tmp_path, monkeypatch):
    """As they stand, but for the weights: random ones of the small CLIP, in the place of ViT-B/16's from the hub."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 32)).save("photo.jpg")
    lines = SNIPPETS[0].replace('"ViT-B-16", "openai"', '"scenes_vit", "", templates="none"')
    assert lines != SNIPPETS[0]
    exec(compile(lines, "README.md", "exec"), {"__name__": "readme"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "photo.json",
        "photo_labels.png",
        "photo_overlay.png",
    ]


def test_it_stays_short():
    assert len(README.split()) <= 900
