import json

import pytest

from san_cliptrase.commands.main import main
from san_cliptrase.errors import ConfigError
from san_cliptrase.evaluation.paper import paper_table
from san_cliptrase.lab.convergence.curves_file import table_of
from san_cliptrase.lab.reproduce import figure1, global_patches, patch_view, scoring
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row, render
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.locks import only_run_in
from tests.conftest import ROOT
from tests.lab.convergence.made_up import ramp, study


def run(*arguments):
    return main(["reproduce", *map(str, arguments)])


def cells(text):
    """The first three cells of the rows of a Markdown text's tables."""
    return [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("|")]


@pytest.fixture(scope="module")
def table5(tmp_path_factory):
    output = tmp_path_factory.mktemp("table5")
    assert run("table5", "--output", output, "TEST.MAX_IMAGES", 8, "MODEL.DEVICE", "cpu") == 0
    return output


def test_a_table_is_written_as_text_numbers_and_picture_with_the_papers_beside(table5):
    report = json.loads((table5 / "table5.json").read_text())
    rows = {row["name"]: row["metrics"] for row in report["measured"]}
    assert len(rows) == 2
    text = (table5 / "table5.md").read_text()
    measured, papers = text.split("## The paper's numbers")
    for name, metrics in rows.items():
        assert set(metrics) >= {"pAcc", "mAcc", "fwIoU", "mIoU", "mIoU seen", "mIoU unseen"}
        assert [name, "demo_scenes_val", f"{metrics['pAcc']:.2f}"] in cells(measured)
    assert ["STEGO", "coco_stuff27_curated_val", "24.50"] in cells(papers)
    assert "protocol unsupervised" in measured
    assert (table5 / "table5.png").stat().st_size > 1000


def test_finished_rows_are_kept_only_on_request_and_only_with_the_same_settings(table5, monkeypatch, capsys):
    before = json.loads((table5 / "table5.json").read_text())["measured"]
    built = []
    monkeypatch.setattr(scoring, "build_model", lambda cfg: built.append(cfg) or pytest.fail("computed again"))
    same = ("table5", "--output", table5, "TEST.MAX_IMAGES", 8, "MODEL.DEVICE", "cpu")
    assert run(*same, "--resume") == 0
    assert json.loads((table5 / "table5.json").read_text())["measured"] == before
    scores = min(table5.glob("rows/*/scores.json"))
    kept = scores.read_text()
    for strange in ("[1]", '{"a": 1}', '{"a": {"mIoU": "b"}}', "cut o"):
        scores.write_text(strange)
        assert run(*same, "--resume") == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert str(scores) in line
        assert "Remove it" in line
    scores.write_text(kept)
    for changed in (same, (*same, "--resume", "TEST.SIZE", 48)):
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            run(*changed)
    assert len(built) == 2


RUNS = {0: ramp(80, 40), 1: ramp(80, 41)}, {0: ramp(40, 43), 1: ramp(40, 44)}
CURVES = study(dict(zip(("san", "v"), RUNS, strict=True)))
FRONTIER = study(dict(zip(("san_100", "regions_100"), RUNS, strict=True)))


def test_figure1_shows_the_frontier_that_comes_along(tmp_path):
    assert run("figure1", "--output", tmp_path) == 0
    text = (tmp_path / "figure1.md").read_text()
    assert ["from regions, 75 iterations", "demo_scenes_val"] in [row[:2] for row in cells(text)]
    assert "- from regions, 75 iterations, against plain SAN, 300: mIoU of all" in text
    assert (tmp_path / "figure1_frontier.png").stat().st_size > 10000


def test_figure1_shows_the_curves_of_a_table(tmp_path):
    table = tmp_path / "curves.csv"
    table.write_text(table_of(CURVES))
    assert run("figure1", "--config", table, "--output", tmp_path) == 0
    assert "the v** ends +3.0 [+3.0, +3.0] mIoU against the san" in (tmp_path / "figure1.md").read_text()
    assert (tmp_path / "figure1_curves.png").stat().st_size > 10000


@pytest.mark.parametrize(("found", "row"), [(CURVES, "the v"), (FRONTIER, "the regions, 100 iterations")])
def test_figure1_runs_an_experiment_first(found, row, tmp_path, capsys, monkeypatch):
    asked = ("figure1", "--config", ROOT / "configs" / "demo" / "frontier.yaml", "--output", tmp_path)
    monkeypatch.setattr(figure1, "study_of_experiment", lambda experiment: found)
    monkeypatch.setattr(figure1, "run_experiment", lambda *_, **__: 1)
    assert run(*asked) == 1
    assert "did not finish" in capsys.readouterr().err
    monkeypatch.setattr(figure1, "run_experiment", lambda *_, **__: 0)
    assert run(*asked) == 0
    assert [row, "demo"] in [cell[:2] for cell in cells((tmp_path / "figure1.md").read_text())]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("table3", "--config", "configs/demo/san.yaml"), "needs CLIPtrase"),
        (("table3", "--config", "configs/tables/cliptrase_224.yaml"), "expects the folder"),
        (("global_patches", "--config", "configs/tables/cliptrase_224.yaml"), "expects the folder"),
        (("figure2", "--config", "configs/tables/cliptrase_224.yaml"), "expects the folder"),
        (("table3", "DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
        (("table3", "MODEL.CLIPTRACE.EPS", "1"), "did you mean"),
        (("figure1", "--config", "configs/demo/absent.yaml"), "absent.yaml"),
        (("figure1", "--config", "README.md"), "README.md"),
        (("figure1", "--config", "san_cliptrase/lab/reproduce/other_papers.json"), "other_papers.json"),
        (("figure1", "--config", "absent.csv"), "absent.csv"),
    ],
)
def test_bad_requests_are_refused_in_one_line_before_a_model_is_built(arguments, said, tmp_path, capsys, monkeypatch):
    for room in (scoring, patch_view, global_patches):
        monkeypatch.setattr(room, "build", lambda *_: pytest.fail("a model was built"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert run(*arguments, "--output", tmp_path) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_rows_of_two_protocols_are_refused_before_a_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "build", lambda *_: pytest.fail("a model was built"))
    request = Request(ROOT / "configs" / "demo" / "cliptrase.yaml", (), tmp_path)
    rows = {"whole": (), "windows": ("TEST.PROTOCOL", "slide")}
    with pytest.raises(ConfigError, match="protocols slide and whole do not belong in one table"):
        scoring.score_rows(request, rows)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [("demo_scenes_val", "None of its data sets is in the table above"), ("voc20_val", "In both tables: voc20_val.")],
)
def test_what_can_be_compared_with_the_paper_is_said(dataset, said):
    """Names of rows with angle brackets are no HTML."""
    exhibit = Exhibit("table1", "Table 1", [Row("<x_i, x_j>", dataset, {"mIoU": 1.0})], paper="table1")
    measured, papers = render(exhibit, [], "today").split("## The paper's numbers")
    assert said in papers
    assert ["\\<x_i, x_j>", dataset, "1.00"] in cells(measured)
    published = paper_table("table1").rows["<x_i, x_j>"]["ade150_val"]["mIoU"]
    assert ["\\<x_i, x_j>", "ade150_val", str(published)] in cells(papers)


def test_table2_has_a_row_for_every_source_and_says_what_is_random(tmp_path):
    few = ("TEST.MAX_IMAGES", 2, "MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "none")
    few = (*few, "MODEL.REGIONS.PRETRAINED", "random")
    source = "timm:test_vit"
    assert run("table2", "--output", tmp_path, "--source", source, *few) == 0
    text = (tmp_path / "table2.md").read_text()
    measured, papers = text.split("## The paper's numbers")
    rows = [row[:2] for row in cells(measured)]
    assert ["Ours + test_vit (random weights: a path check, no result)", "demo_scenes_val"] in rows
    assert ["Ours + DINOv2", "voc20_val", "80.23"] in cells(papers)


def test_sources_whose_weights_are_missing_are_refused_in_one_line(tmp_path, capsys):
    empty = tmp_path / "sam"
    empty.mkdir()
    absent = ("--source", f"timm:local-dir:{empty}")
    for exhibit, more in (("table2", absent), ("sam", ("MODEL.REGIONS.SAM_MODEL", empty))):
        assert run(exhibit, "--output", tmp_path, *more, "MODEL.DEVICE", "cpu", "TEST.MAX_IMAGES", 1) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")


def test_two_at_once_do_not_write_into_one_folder(tmp_path, capsys):
    with only_run_in(tmp_path):
        assert run("table3", "--output", tmp_path) == 1
        assert main(["demo", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count(f"another process works in {tmp_path}") == 2
