import pytest
import torch

from san_cliptrase.clip.text_cache import cache_folder, tower_digest
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


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_a_damaged_file_is_made_anew_with_a_warning(cached, tmp_path, caplog, content):
    expected = cached().text(WORDS, "none")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] if content is None else content)
    assert torch.equal(cached().text(WORDS, "none"), expected)
    assert str(path) in caplog.text
    assert path.read_bytes() == whole


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("auto") == tmp_path / "san_cliptrase" / "text"
    assert cache_folder("") is None
    assert cache_folder("here").name == "here"
