import pytest

from benchmarks import parity
from benchmarks.parity_weights import Row


@pytest.fixture
def fixtures(tmp_path):
    (tmp_path / "meta.json").write_text('{"cliptrase": {}}')
    return tmp_path


@pytest.mark.parametrize(("deviation", "status"), [(1e-5, 0), (1e-4, 0), (1.1e-4, 1), (float("nan"), 1)])
def test_exit_status_and_table(fixtures, monkeypatch, capsys, deviation, status):
    rows = [Row("features", deviation, 1e-4), Row("labels", 0.0, 0.0)]
    monkeypatch.setattr(parity, "CHECKS", {"cliptrase": lambda folder: rows if folder == fixtures else [], "san": None})
    assert parity.main(["--fixtures", str(fixtures)]) == status
    table = capsys.readouterr().out
    assert f"{deviation:.1e}" in table
    assert ("ABOVE TOLERANCE" in table) == bool(status)


def test_a_folder_without_fixtures(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parity.main(["--fixtures", str(tmp_path)])
    assert "has neither a meta.json nor an .npz with an entry meta" in capsys.readouterr().err
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        parity.main(["--fixtures", str(tmp_path)])
    assert "none of the entries cliptrase, san" in capsys.readouterr().err
