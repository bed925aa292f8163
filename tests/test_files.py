import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from san_cliptrase import locks
from san_cliptrase.errors import ConfigError, OutputError
from san_cliptrase.files import (
    remove_unfinished,
    remove_unfinished_of,
    write_atomically,
    write_whole,
)
from san_cliptrase.locks import one_at_a_time, only_run_in
from tests.conftest import ROOT


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path):
    def half(path):
        path.write_text("half")
        raise OSError("disk full")

    there = tmp_path / "made" / "a.png"
    with pytest.raises(OutputError, match="a.png: disk full"):
        write_whole(there, half)
    assert list(there.parent.iterdir()) == []
    there.write_text("first")
    with pytest.raises(OutputError, match="disk full"):
        write_whole(there, half)
    assert [path.read_text() for path in there.parent.iterdir()] == ["first"]


def test_the_path_to_write_to_ends_like_the_file(tmp_path):
    endings = []
    write_whole(tmp_path / "a.tar.gz", lambda path: (endings.append("".join(path.suffixes)), path.touch()))
    assert endings == [".tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_full_disk_under_weights_is_named(tmp_path, monkeypatch):
    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="model.pth: No space left on device"):
        write_atomically(tmp_path / "model.pth", lambda file: torch.save({"a": torch.zeros(3)}, file))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="cannot write .*taken/a.txt"):
        write_whole(tmp_path / "taken" / "a.txt", lambda path: path.write_text("content"))
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_disk_that_fills_up_under_torch_is_named_and_leaves_the_old_file(tmp_path):
    """torch.save meets the system's error while it writes, and raises another one."""
    path = tmp_path / "model.pth"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="model.pth: File too large"):
            write_atomically(path, lambda file: torch.save({"a": torch.zeros(100_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]
    assert path.read_text() == "old"


def test_other_errors_of_torch_stay_what_they_are(tmp_path):
    def broken(file):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        write_atomically(tmp_path / "model.pth", broken)


def test_unfinished_files_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    for process in (dead.pid, os.getpid(), os.getppid(), 10**30):
        (tmp_path / f".unfinished-{process}-model.pth").touch()
    (tmp_path / ".unfinished-notes").touch()
    written = []
    write_whole(tmp_path / "own", lambda path: written.append(path) or path.touch())
    (tmp_path / "own").rename(written[0])
    elsewhere = tmp_path / f".unfinished-{dead.pid}@other.host-model.pth"
    elsewhere.touch()
    kept = {f".unfinished-{os.getppid()}-model.pth", ".unfinished-notes"}
    remove_unfinished(tmp_path)
    alive = {written[0].name, elsewhere.name, f".unfinished-{os.getpid()}-model.pth"}
    assert {path.name for path in tmp_path.iterdir()} == kept | alive
    remove_unfinished(tmp_path, only_one=True)
    assert {path.name for path in tmp_path.iterdir()} == kept


HOLD = "import sys, time; from pathlib import Path; from san_cliptrase.locks import only_run_in\n"
HOLD += "with only_run_in(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_one_run_works_in_a_folder_and_a_dead_one_blocks_nobody(tmp_path):
    folder = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, cwd=ROOT)
    assert first.stdout.readline() == b"held\n"
    with (
        pytest.raises(ConfigError, match=rf"another process works in .*run.*process {first.pid} on "),
        only_run_in(folder),
    ):
        pass
    first.kill()
    first.wait()
    first.stdout.close()
    with only_run_in(folder):
        assert [path.name for path in folder.iterdir()] == ["lock"]
    assert list(folder.iterdir()) == []


def test_a_file_of_somebody_else_that_is_called_lock_stays(tmp_path):
    (tmp_path / "lock").write_text("my notes")
    with (
        pytest.raises(ConfigError, match="lock is not a run's lock but a file of another origin"),
        only_run_in(tmp_path),
    ):
        pass
    assert (tmp_path / "lock").read_text() == "my notes"
    (tmp_path / "lock").unlink()
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OutputError, match="it is not a regular file but a pipe"), only_run_in(tmp_path):
        pass


def test_what_a_living_process_writes_is_not_removed(tmp_path):
    living, dead = (tmp_path / f".unfinished-{number}-[a].png" for number in (os.getppid(), 2**22 + 1))
    living.touch()
    dead.touch()
    remove_unfinished_of(tmp_path / "[a].png")
    assert list(tmp_path.iterdir()) == [living]


def test_a_change_waits_for_another_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    made = tmp_path / "made"
    with (
        one_at_a_time(made),
        pytest.raises(OutputError, match="another process has been changing"),
        one_at_a_time(made),
    ):
        pass
    with one_at_a_time(made):
        pass


def test_forked_processes_do_not_hold_the_folder(tmp_path):
    with only_run_in(tmp_path):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with only_run_in(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write to OUTPUT_DIR .*file/run: Not a directory"),
        only_run_in(tmp_path / "file" / "run"),
    ):
        pass
