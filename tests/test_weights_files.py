import gzip
import os
import pickle
import re
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from san_cliptrase.texts import one_line
from san_cliptrase.weights_files import describe_wrong_file

WEIGHTS = {"a": torch.zeros(200)}


def write(path, content):
    path.write_bytes(content)


def zip_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")


def packed(path):
    torch.save(WEIGHTS, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + b"\0" * 10**8 * name.endswith("data.pkl"))


def altered(path, change):
    whole = path.with_name(f"whole{path.suffix}")
    save_file(WEIGHTS, whole) if path.suffix == ".safetensors" else torch.save(WEIGHTS, whole)
    path.write_bytes(change(whole.read_bytes()))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.pt", lambda path: None, "cannot be read: No such file or directory"),
        ("a.pt", os.mkdir, "is a folder"),
        ("a.pt", os.mkfifo, "is a named pipe"),
        ("a.pt", lambda path: path.symlink_to("/dev/zero"), "is a device"),
        ("a.pt", lambda path: write(path, b""), "is empty"),
        ("a.bin", lambda path: write(path, b"version https://git-lfs.github.com/spec/v1\noid"), "is a Git LFS pointer"),
        ("a.safetensors", lambda path: write(path, b"version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
        ("a.bin", lambda path: write(path, b"\xef\xbb\xbf\n<!DOCTYPE html><p>404"), "is a web page"),
        ("a.bin", lambda path: write(path, b"<html>404</html>"), "is a web page"),
        ("a.bin", lambda path: write(path, "Eintrag für Gewichte fehlt".encode()), "is a text.* 'Eintrag für Gew"),
        ("a.pt", lambda path: write(path, b"\x00\x01\x02" * 99), "is not a weights file of PyTorch or safetensors"),
        ("a.pt", lambda path: write(path, gzip.compress(b"0" * 99)), "is a gzip archive"),
        ("a.pt", zip_archive, "is not a whole weights file of PyTorch"),
        ("a.pt", packed, "is a compressed archive, which torch.save never writes"),
        ("a.safetensors", lambda path: save_file({}, path), "holds no weights: there are no tensors in it"),
        ("a.pt", lambda path: altered(path, lambda content: content[:-9]), "is not whole"),
        ("a.pt", lambda path: torch.save(torch.nn.Linear(2, 2), path), r"holds Python objects \(torch.nn.*Linear\)"),
        ("a.pt", lambda path: write(path, pickle.dumps({"a": 1})), "holds Python objects, not weights alone"),
        ("a.pt", lambda path: save_file(WEIGHTS, path), "is in the safetensors format: .* ends in .safetensors"),
        ("a.safetensors", lambda path: torch.save(WEIGHTS, path), "a file of torch.save: .* ends in .pt"),
        ("a.safetensors", lambda path: altered(path, lambda content: content[:-9]), "not a whole safetensors file"),
    ],
)
def test_wrong_files_are_told_for_what_they_are(tmp_path, name, make, message):
    make(tmp_path / name)
    described = describe_wrong_file(tmp_path / name)
    assert described is not None
    assert re.search(message, described), described
    assert described.isprintable() and len(described) < 300 and "weights_only" not in described


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.pt", lambda path: torch.save(WEIGHTS, path)),
        ("a.bin", lambda path: torch.save({"epoch": 3, "state_dict": WEIGHTS}, path)),
        ("old.pt", lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)),
        ("a.safetensors", lambda path: save_file(WEIGHTS, path)),
        ("a.pt", lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))),
    ],
)
def test_weights_are_not_complained_about(tmp_path, name, make):
    make(tmp_path / name)
    assert describe_wrong_file(tmp_path / name) is None


def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"a": Evil()}, tmp_path / "a.pt")
    assert "mkdir" in describe_wrong_file(tmp_path / "a.pt")
    assert not (tmp_path / "made").exists()


def test_text_of_others_becomes_one_plain_line():
    assert one_line("\x1b[1mdo \x1b]0;title\x07it\x1b[0m.\n\n  Now\r") == r"do \x1b]0;title\x07it. Now"
    assert len(one_line("word " * 200, 400)) <= 400
