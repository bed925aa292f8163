import resource

import pytest
import torch

from san_cliptrase.errors import OutputError
from san_cliptrase.files import write_atomically, write_whole


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
