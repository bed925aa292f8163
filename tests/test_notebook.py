"""The notebook's cells run, one after the other, and the file stays small enough to be looked at on the web."""

import json
import re

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_every_cell_runs_and_training_changes_what_san_predicts(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")  # which the notebook sets: put back afterwards
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    scores = [
        float(line.split(": ")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if " after " in line
    ]
    assert len(scores) == 4
    assert scores[0] < scores[1] < min(scores[2:])  # plain SAN learns; from regions it begins, and stays, above that
    assert (tmp_path / "output/first_steps/san_cliptrase/model_final.pth").is_file()


def test_it_is_small_and_shows_what_it_shows(cells):
    assert NOTEBOOK.stat().st_size < 300_000
    kinds = [output["output_type"] for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert kinds.count("execute_result") == 3
    assert "error" not in kinds


def test_its_links_lead_somewhere(cells):
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert targets
    assert not [target for target in targets if not (NOTEBOOK.parent / target).exists()]
