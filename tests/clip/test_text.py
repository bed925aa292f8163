import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.clip import text as text_module
from tests.clip.tiny import tiny_clip


@pytest.fixture
def clip():
    return tiny_clip()


def test_is_the_normalised_mean_of_normalised_prompts(clip):
    weights = clip.text(["cat", "sea, ocean"], templates=["a {}.", "the {} there"])
    prompts = ["a sea, ocean.", "the sea, ocean there"]
    with torch.no_grad():
        single = F.normalize(clip.text.model.encode_text(clip.text.tokenizer(prompts)), dim=-1)
    torch.testing.assert_close(weights[1], F.normalize(single.mean(0), dim=0))
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(2))


def test_synonyms_are_averaged_over_names_and_templates(monkeypatch):
    clip, templates = tiny_clip(synonyms=True), ["a {}.", "the {} there"]
    monkeypatch.setattr(text_module, "PROMPTS_PER_BATCH", 4)  # two classes, of unlike numbers of names, at a time
    weights = clip.text(["cat", "sea, ocean ,deep water", "dog"], templates=templates)
    prompts = [template.replace("{}", name) for name in ("sea", "ocean", "deep water") for template in templates]
    with torch.no_grad():
        single = F.normalize(clip.text.model.encode_text(clip.text.tokenizer(prompts)), dim=-1)
    torch.testing.assert_close(weights[1], F.normalize(single.mean(0), dim=0))
    torch.testing.assert_close(weights[[0, 2]], tiny_clip().text(["cat", "dog"], templates=templates))
    assert not torch.allclose(weights[1], tiny_clip().text(["sea, ocean ,deep water"], templates=templates)[0])


def test_a_class_of_commas_alone_is_refused():
    with pytest.raises(ValueError, match="',' has no name"):
        tiny_clip(synonyms=True).text(["cat", " , "])


def test_batches_do_not_change_the_result(clip, monkeypatch):
    words = [f"word {i}" for i in range(7)]
    once = tiny_clip().text(words, templates="vild")
    monkeypatch.setattr(text_module, "PROMPTS_PER_BATCH", 30)
    torch.testing.assert_close(clip.text(words, templates="vild"), once)


def test_words_are_encoded_once(clip, monkeypatch):
    clip.text(["cat", "dog"], templates="vild")
    monkeypatch.setattr(clip.text.model, "encode_text", None)
    assert clip.text(["dog", " cat "], templates="vild").shape == (2, 16)
    with pytest.raises(TypeError):
        clip.text(["cat"], templates="none")


def test_mixed_precision_does_not_enter_the_cache(clip):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = clip.text(["cat", "dog"], templates="vild")
    assert first.dtype == torch.float32
    assert torch.equal(first, tiny_clip().text(["cat", "dog"], templates="vild"))


def test_other_weights_empty_the_cache(clip):
    before = clip.text(["cat"], templates="none")
    clip.load_state_dict({key: value + 0.1 * torch.randn_like(value) for key, value in clip.state_dict().items()})
    assert not torch.allclose(clip.text(["cat"], templates="none"), before)


def test_background_words_follow_without_repetition(clip):
    weights = clip.text(["cat", "dog"], templates="none", background=["wall", "cat", "bed", "bed", "wall "])
    torch.testing.assert_close(weights, clip.text(["cat", "dog", "wall", "bed"], templates="none"))


@pytest.mark.parametrize(
    ("vocabulary", "error", "message"),
    [
        ([], ValueError, "vocabulary is empty"),
        (["cat", " ", "dog"], ValueError, "empty word at position 1 of 3"),
        (["cat", "dog", "cat "], ValueError, "more than once: cat"),
        ("cat", TypeError, "list of words"),
    ],
)
def test_bad_vocabularies(clip, vocabulary, error, message):
    with pytest.raises(error, match=message):
        clip.text(vocabulary)


def test_stays_frozen(clip):
    clip.train()
    assert not clip.text.training
    assert not any(p.requires_grad for p in clip.parameters())
