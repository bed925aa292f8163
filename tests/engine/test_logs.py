"""The files that a run appends to, as kills, power cuts and other programs leave them."""

import csv
import logging

import pytest

from san_cliptrase.engine.logs import append_row, keep_lines, keep_rows, move_earlier_log, note_log
from san_cliptrase.errors import DataError

HEADER = "iteration,seconds,dataset,mIoU\n"


@pytest.mark.parametrize("content", ["", '{"iteration": 0}\n', '{"iteration": 0}\n{"iteration": 1}\n'])
def test_half_a_log_line_goes_wherever_it_stands(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content + '{"iteration": 2, "los')
    keep_lines(path, 2)
    assert path.read_text() == content


@pytest.mark.parametrize(
    "damage",
    ["\0" * 30, "\0" * 30 + "\n", "null\n", "[]\n", "not json\n", '{"iteration": "x"}\n', "{}\n", "\udcff\n"],
)
def test_damaged_log_lines_are_left_out(tmp_path, damage):
    path = tmp_path / "metrics.json"
    whole = b'{"iteration": 0}\n'
    path.write_bytes(whole + damage.encode(errors="surrogateescape") + b'{"iteration": 1}\n')
    keep_lines(path, 9)
    assert path.read_bytes() == whole + b'{"iteration": 1}\n'


@pytest.mark.parametrize("damage", ["\0" * 30 + "\n", "4,0.5\n", "x,0.5,val,9\n", "4,,val,9\n", "4,1,val,9,9\n"])
def test_damaged_rows_are_left_out_with_a_warning(tmp_path, damage, caplog):
    path = tmp_path / "evaluations.csv"
    path.write_text(HEADER + "0,0,val,5\n" + damage + "6,1,val,7\n")
    with caplog.at_level(logging.WARNING):
        assert [row["iteration"] for row in keep_rows(path, 9)] == ["0", "6"]
    assert path.read_text() == HEADER + "0,0,val,5\n6,1,val,7\n"
    assert "\0" in damage or "1 damaged row" in caplog.text


@pytest.mark.parametrize("content", ["a,b,c\n1,2,3\n", "a,b,c\n", "just words\n", '"' + "x" * 200_000 + '"\n'])
def test_another_programs_table_is_named_and_stays(tmp_path, content):
    path = tmp_path / "evaluations.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"evaluations\.csv is not a table of evaluations.*Move it away"):
        keep_rows(path, 9)
    assert path.read_text() == content


def test_rows_of_other_test_sets_have_one_set_of_columns(tmp_path):
    path = tmp_path / "evaluations.csv"
    row = {"iteration": 0, "seconds": 0.0, "dataset": "a", "mIoU": 5.0}
    append_row(path, row)
    append_row(path, {**row, "dataset": "b", "mIoU unseen": 3.0})
    append_row(path, {**row, "iteration": 2})
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["mIoU unseen"] for row in found] == ["nan", "3.0", "nan"]
    assert [row["dataset"] for row in found] == ["a", "b", "a"]


def test_the_log_of_an_earlier_run_moves_and_that_of_this_one_goes_on(tmp_path):
    (tmp_path / "log.txt").write_text("earlier\n")
    (tmp_path / "place").mkdir()
    note_log(tmp_path)
    with open(tmp_path / "log.txt", "a") as log:
        log.write("first\n")
        log.flush()
        move_earlier_log(tmp_path, tmp_path / "place")
        log.write("second\n")
    assert (tmp_path / "place" / "log.txt").read_text() == "earlier\n"
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"
