"""docs/own_data.md: its commands run as they stand there, in fewer iterations, and print what is shown."""

import re
import runpy
import shlex
import sys

import pytest

from san_cliptrase.commands.main import main
from san_cliptrase.data.own import OWN
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8").partition("## With your photographs")[0]
COMMANDS = [
    shlex.split(line)
    for line in PAGE.replace("\\\n", " ").splitlines()
    if line.startswith("    ") and line.split()[0] in ("san-cliptrase", "python")
]
FEWER = {"SOLVER.MAX_ITER": "2", "SOLVER.IMS_PER_BATCH": "2"}


def shortened(words):
    for key, value in FEWER.items():
        if key in words:
            words = [*words[: words.index(key) + 1], value, *words[words.index(key) + 2 :]]
    return words


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder in the place of the repository's; what is registered is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    yield tmp_path
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in [*OWN]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        del OWN[name]


def test_its_commands_run_and_print_what_is_shown(place, monkeypatch, capsys):
    said = ""
    for program, *words in COMMANDS:
        if program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            assert main(shortened(words)) == 0, words
        said += capsys.readouterr().out
    for shown in re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE):
        if not re.search(r"\d\.\d|%", shown):  # scores and shares are those of the whole training
            assert shown in said
    assert {path.name for path in place.glob("output/*")} == {"town_cliptrase", "town", "town_eval"}
    assert (place / "town.safetensors").is_file()
    assert (place / "out/photo_overlay.png").is_file()
    assert len((place / "output/town/evaluations.csv").read_text().splitlines()) == 3


def test_the_page_shows_every_step():
    assert [words[1] for words in COMMANDS] == [
        "examples/make_town.py",
        *("data", "data", "evaluate", "train", "evaluate", "predict", "predict", "export"),
    ]
