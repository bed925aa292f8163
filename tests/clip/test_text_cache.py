import os
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from san_cliptrase.clip import text as text_module
from san_cliptrase.clip import text_cache
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.clip.text_cache import TextCache, cache_folder, tower_digest
from tests.clip.tiny import tiny_clip

WORDS = ["cat", "sea, ocean"]


@pytest.fixture
def cached(tmp_path):
    """Function: a new CLIP whose text weights are kept in ``tmp_path/text``."""

    def build():
        clip = tiny_clip()
        clip.text.cache = tmp_path / "text"
        return clip

    return build


def files(tmp_path):
    return sorted((tmp_path / "text").glob("*"))


def test_the_next_process_reads_what_this_one_encoded(cached, tmp_path, monkeypatch):
    first = cached().text(WORDS, "vild")
    again = cached()
    monkeypatch.setattr(again.text.model, "encode_text", None)
    assert torch.equal(again.text(WORDS, "vild"), first)
    assert torch.equal(first, tiny_clip().text(WORDS, "vild"))
    assert len(files(tmp_path)) == 1


def test_new_words_are_added_and_other_templates_are_apart(cached, tmp_path, monkeypatch):
    cached().text(WORDS, "vild")
    cached().text(["dog"], "vild")
    cached().text(WORDS, "none")
    assert len(files(tmp_path)) == 2
    again = cached()
    monkeypatch.setattr(again.text.model, "encode_text", None)
    assert again.text([*WORDS, "dog"], "vild").shape == (3, 16)
    with pytest.raises(TypeError):
        again.text(["dog"], "none")


def test_other_weights_are_another_tower(cached, tmp_path):
    cached().text(WORDS, "none")
    other = cached()
    with torch.no_grad():
        other.text.model.text_projection += 0.1
    fresh = other.text(WORDS, "none")
    assert not torch.equal(fresh, tiny_clip().text(WORDS, "none"))
    assert len(files(tmp_path)) == 2
    assert tower_digest(tiny_clip().text.model) == tower_digest(tiny_clip().text.model)


def altered(content: bytes, kind: str) -> bytes:
    middle = len(content) - 8  # in the numbers
    if kind == "one byte":
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    if kind == "two words swapped":
        swapped = content.replace(b"cat", b"CAT").replace(b"dog", b"cat").replace(b"CAT", b"dog")
        assert swapped != content
        return swapped
    return {"cut": content[:-3], "empty": b"", "no weights": b"no weights"}[kind]


@pytest.mark.parametrize("kind", ["one byte", "two words swapped", "cut", "empty", "no weights"])
def test_an_altered_file_is_made_anew_with_a_warning(cached, tmp_path, caplog, kind):
    expected = cached().text(["cat", "dog"], "none")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(altered(whole, kind))
    assert torch.equal(cached().text(["cat", "dog"], "none"), expected)
    assert str(path) in caplog.text and "made anew" in caplog.text
    caplog.clear()
    assert torch.equal(cached().text(["cat", "dog"], "none"), expected)
    assert not caplog.text


def test_the_file_of_other_templates_is_not_trusted(cached, tmp_path, caplog):
    cached().text(WORDS, "none")
    (first,) = files(tmp_path)
    expected = cached().text(WORDS, "vild")
    (second,) = set(files(tmp_path)) - {first}
    second.write_bytes(first.read_bytes())
    assert torch.equal(cached().text(WORDS, "vild"), expected)
    assert "made anew" in caplog.text


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.full((1, 16), torch.nan), "not finite"),
        (torch.ones(1, 16), "not of length 1"),
        (torch.eye(16)[:2], "one row of float32 for each word"),
        (torch.eye(16)[:1].double(), "one row of float32 for each word"),
    ],
)
def test_wrong_numbers_with_a_right_digest_are_refused(cached, tmp_path, caplog, matrix, message):
    expected = cached().text(["cat"], "none")
    (path,) = files(tmp_path)
    record = {"words": '["cat"]', "digest": text_cache._content_digest('["cat"]', matrix, path.stem)}
    save_file({"weights": matrix}, path, record)
    assert torch.equal(cached().text(["cat"], "none"), expected)
    assert message in caplog.text


def test_a_file_of_an_earlier_version_is_made_anew_quietly(cached, tmp_path, caplog):
    expected = cached().text(["cat"], "none")
    (path,) = files(tmp_path)
    save_file({"cat": torch.ones(16)}, path)
    assert torch.equal(cached().text(["cat"], "none"), expected)
    assert not caplog.text
    with safe_open(path, "pt") as file:
        assert file.metadata()["words"] == '["cat"]'


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_regular_file_is_not_read(cached, tmp_path, caplog, make):
    expected = cached().text(["cat"], "none")
    (path,) = files(tmp_path)
    path.unlink()
    make(path)
    assert torch.equal(cached().text(["cat"], "none"), expected)
    assert "not a regular file" in caplog.text


def test_what_was_encoded_before_an_interruption_is_kept(cached, tmp_path, monkeypatch):
    interrupted, encode = cached(), TextEncoder._encode
    monkeypatch.setattr(text_module, "PROMPTS_AT_ONCE", 1)

    def encode_one(self, words, *args):
        if words == ["dog"]:
            raise KeyboardInterrupt
        encode(self, words, *args)

    monkeypatch.setattr(TextEncoder, "_encode", encode_one)
    with pytest.raises(KeyboardInterrupt):
        interrupted.text(["cat", "dog"], "none")
    again = cached()
    monkeypatch.setattr(again.text.model, "encode_text", None)
    assert again.text(["cat"], "none").shape == (1, 16)


def test_two_processes_that_save_at_once_leave_a_whole_file(cached, caplog, monkeypatch):
    first, second, expected = cached(), cached(), tiny_clip().text(["cat", "dog"], "none")
    write = text_cache.write_atomically

    def write_late(*args):
        monkeypatch.setattr(text_cache, "write_atomically", write)
        second.text(["dog"], "none")  # after the first has read the file, and before it writes
        write(*args)

    monkeypatch.setattr(text_cache, "write_atomically", write_late)
    first.text(["cat"], "none")
    torch.testing.assert_close(cached().text(["cat", "dog"], "none"), expected)
    assert not caplog.text


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("auto") == tmp_path / "san_cliptrase" / "text"
    assert cache_folder("") is None
    assert cache_folder("here").name == "here"


def test_a_file_that_a_dead_process_left_half_written_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left_over = tmp_path / f".unfinished-{dead.pid}-weights.safetensors"
    left_over.touch()
    TextCache(tmp_path, torch.nn.Linear(3, 2))
    assert not left_over.exists()
