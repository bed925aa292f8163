"""One command at a time works in an output folder."""

import os
import subprocess

import pytest

from san_cliptrase.commands.main import main
from san_cliptrase.locks import only_run_in
from tests.conftest import ROOT

COMMANDS = {
    "demo": ["demo"],
    "convergence": ["convergence", "--config", str(ROOT / "configs" / "demo" / "convergence.yaml")],
    "reproduce": ["reproduce", "figure2"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_in_the_folder_is_refused(tmp_path, capsys, command):
    with only_run_in(tmp_path):
        assert main([*COMMANDS[command], "--output", str(tmp_path)]) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert f"error: another process works in {tmp_path}: wait" in (line := capsys.readouterr().err)
    assert "or name another --output" in line


def test_predict_removes_what_a_dead_process_left_in_its_folder(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "photo.png").touch()
    for process in (dead.pid, os.getppid()):
        (tmp_path / f".unfinished-{process}-photo_overlay.png").touch()
    assert main(["predict", str(tmp_path / "photo.png"), "--output", str(tmp_path), "--vocabulary", ","]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "photo.png",
        f".unfinished-{os.getppid()}-photo_overlay.png",
    }
