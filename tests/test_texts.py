import csv
import io

import pytest
from matplotlib.figure import Figure

from san_cliptrase.errors import DataError, MissingFilesError
from san_cliptrase.evaluation.evaluator import csv_text
from san_cliptrase.evaluation.tables import format_classes, format_confusions
from san_cliptrase.files import named_file
from san_cliptrase.texts import chart_label, csv_cell, escaped, exact, markdown

ESCAPE = "\x1b]0;pwned\x07\x1b[2J\u202egrass\r\x9b1m\udcff"
SAFE = "\\x1b]0;pwned\\x07\\x1b[2J\\u202egrass\\r\\x9b1m\\udcff"


def test_control_characters_are_written_out_and_all_else_stays():
    assert escaped(ESCAPE) == SAFE
    for plain in ("Gr\u00e4s  \u8349\u539f\n\tx", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a\u00a0b", ""):
        assert escaped(plain) == plain


def test_names_of_files_are_shown_as_they_are_on_one_line():
    assert exact(f"{ESCAPE}\n\t \u00e4.png") == f"{SAFE}\\n\\t \u00e4.png"


def test_names_in_markdown_make_no_link_and_no_html():
    assert markdown("![a_b](http://x) <b>|`\n# c") == r"\!\[a_b\](http://x) \<b\>\|\` # c"


def test_names_in_charts_are_no_formulas():
    figure = Figure()
    figure.text(0, 0, chart_label("$\\frac{$ \x1b 5$"))
    figure.canvas.draw()  # a formula that cannot be read is an error here


@pytest.mark.parametrize("kind", [DataError, MissingFilesError])
def test_messages_of_errors_have_no_character_that_a_terminal_obeys(kind):
    assert str(kind(f"cannot read {ESCAPE}")) == f"cannot read {SAFE}"
    assert f"{kind(ESCAPE)}" == SAFE


def test_tables_of_classes_have_none():
    row = {"class": ESCAPE, "IoU": 1.0, "recall": 1.0, "precision": 1.0, "pixels": 5}
    shown = format_classes([row]) + format_confusions([{"share": 1.0, "truth": ESCAPE, "predicted": ESCAPE}])
    assert shown.count(SAFE) == 3
    assert "\x1b" not in shown
    shown = format_classes([row | {"class": "snow\nfield"}])
    assert "snow\\nfield" in shown.splitlines()[-1]


@pytest.mark.parametrize("start", "=+-@\t\r\uff1d")
def test_no_cell_is_a_formula(start):
    name = f"{start}cmd|' /C calc'!A0"
    (row,) = csv.DictReader(io.StringIO(csv_text([{"class": name, "IoU": -1.5, "pixels": 3}])))
    assert row == {"class": escaped(f"'{name}"), "IoU": "-1.5", "pixels": "3"}


def test_other_cells_stay_as_they_are():
    assert [csv_cell(value) for value in ("sea, ocean", 3, -2.5, None, "a=b")] == ["sea, ocean", 3, -2.5, None, "a=b"]


@pytest.mark.parametrize("name", ["x/../../../../victim", "..", "", "/etc/passwd", "a\0b", "a b", "-x", "a" * 101])
def test_files_named_after_data_lie_in_their_folder(tmp_path, name):
    assert named_file(tmp_path, "metrics", "town_val.v2", ".json") == tmp_path / "metrics_town_val.v2.json"
    with pytest.raises(RuntimeError, match="cannot be part of the name of a file"):
        named_file(tmp_path, "metrics", name, ".json")
