import open_clip
import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.clip import text as text_module
from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.clip.templates import load_templates
from san_cliptrase.clip.text_tower import prompt_lengths
from tests.clip.tiny import TEXT, VISION, tiny_clip


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
    monkeypatch.setattr(text_module, "PROMPTS_AT_ONCE", 4)  # two classes, of unlike numbers of names, at a time
    weights = clip.text(["cat", "sea, ocean ,deep water", "dog"], templates=templates)
    prompts = [template.replace("{}", name) for name in ("sea", "ocean", "deep water") for template in templates]
    with torch.no_grad():
        single = F.normalize(clip.text.model.encode_text(clip.text.tokenizer(prompts)), dim=-1)
    torch.testing.assert_close(weights[1], F.normalize(single.mean(0), dim=0))
    torch.testing.assert_close(weights[[0, 2]], tiny_clip().text(["cat", "dog"], templates=templates))
    assert not torch.allclose(weights[1], tiny_clip().text(["sea, ocean ,deep water"], templates=templates)[0])


def test_a_class_of_commas_alone_is_refused():
    with pytest.raises(ValueError, match="no name in word 2"):
        tiny_clip(synonyms=True).text(["cat", " , "])


def test_batches_do_not_change_the_result(clip, monkeypatch):
    words = [f"word {i}" for i in range(7)]
    once = tiny_clip().text(words, templates="vild")
    monkeypatch.setattr(text_module, "PROMPTS_PER_BATCH", 5)
    monkeypatch.setattr(text_module, "PROMPTS_AT_ONCE", 30)
    torch.testing.assert_close(clip.text(words, templates="vild"), once)


def custom_text(**text) -> FrozenClip:
    """A CLIP of the class that open_clip builds where a configuration says ``custom_text``."""
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(16, VISION, {**TEXT, **text}).eval()
    return FrozenClip(model, open_clip.SimpleTokenizer(context_length=TEXT["context_length"]))


def plain(**text) -> FrozenClip:
    torch.manual_seed(0)
    model = open_clip.CLIP(16, VISION, {**TEXT, "layers": 3, **text}).eval()
    return FrozenClip(model, open_clip.SimpleTokenizer(context_length=TEXT["context_length"]))


END = 49407  # the end token of the tokenizer
LONG = "a very long name of a thing that goes on and on until it does not fit the context of the tower any more at all"


@pytest.mark.parametrize(
    ("build", "cut"),
    [
        (plain, True),
        (lambda: build_clip("scenes_vit", "scenes"), True),
        (lambda: plain(pool_type="eos", eos_id=END), True),
        (lambda: plain(pool_type="eos", eos_id=5), True),  # no prompt has it
        (lambda: plain(proj_bias=True), True),
        (lambda: plain(block_type="custom", qk_norm=True), True),
        (custom_text, True),
        (lambda: custom_text(pool_type="eos", eos_id=END), True),
        (lambda: plain(pool_type="last"), False),
        (lambda: plain(pool_type="first"), False),
        (lambda: plain(no_causal_mask=True), False),
        (lambda: custom_text(no_causal_mask=True, pool_type="last", pad_id=1), False),
        (lambda: custom_text(embed_cls=True), False),
    ],
)
def test_prompts_at_their_own_length_give_what_the_whole_context_gives(build, cut):
    clip, sentences = build(), load_templates("vild")
    words = ["cat", "sea, ocean", LONG, "traffic light"]
    tokens = clip.text.tokenizer([sentence.replace("{}", word) for word in words for sentence in sentences])
    assert (prompt_lengths(clip.text.model, tokens) is not None) is cut
    with torch.no_grad():
        whole = F.normalize(clip.text.model.encode_text(tokens).float(), dim=-1)
    expected = F.normalize(whole.unflatten(0, (-1, len(sentences))).mean(1), dim=-1)
    torch.testing.assert_close(clip.text(words, "vild"), expected, atol=1e-6, rtol=0)


def test_a_mask_of_the_padding_keeps_the_whole_context():
    clip = custom_text(no_causal_mask=True)
    clip.text.model.text.use_pad_mask = True
    tokens = clip.text.tokenizer(["cat", "traffic light"])
    assert prompt_lengths(clip.text.model, tokens) is None


def test_the_tower_runs_no_longer_than_its_prompts(monkeypatch):
    clip, lengths = tiny_clip(), []
    clip.text.model.transformer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    monkeypatch.setattr(text_module, "PROMPTS_PER_BATCH", 2)
    clip.text(["cat", "a cat on a mat", "dog", "the dog of the house"], "none")
    assert lengths == [3, 7]  # start, words, end
    assert clip.text.model.attn_mask.shape == (24, 24) and len(clip.text.model.positional_embedding) == 24


def test_progress_is_shown_only_where_it_takes_long(monkeypatch, capsys):
    tiny_clip().text(["cat"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(text_module, "PROGRESS_AFTER", 0)
    tiny_clip().text(["cat"])
    captured = capsys.readouterr()
    assert "text weights" in captured.err and "80" in captured.err and captured.out == ""


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


def test_a_background_word_that_is_a_class_for_clip_is_left_out(clip):
    assert len(clip.text(["cat", "dog"], "none", background=["Cat", "wall", "WALL"])) == 3
    with pytest.raises(ValueError, match="no background word is left"):
        clip.text(["cat", "dog"], "none", background=["DOG", " "])


def test_a_word_that_is_cut_off_is_named_once(clip, caplog):
    clip.text(["cat", LONG], "vild")
    clip.text(["dog", LONG], "none")
    (record,) = caplog.records
    assert "24 tokens" in record.message and LONG in record.message


def test_words_up_to_the_context_length_are_not_told(clip, caplog):
    fits = " ".join("a" * 22)  # and the prompt's two ends
    clip.text([fits], "none")
    assert not caplog.records
    clip.text([f"{fits} a"], "none")
    assert len(caplog.records) == 1


def test_words_that_differ_where_they_are_cut_off_are_refused(clip):
    with pytest.raises(ValueError, match="words 1 and 3: they differ where their ends are cut off"):
        clip.text([f"{LONG} and snow", "cat", f"{LONG} and lava"], "none")


def test_synonyms_in_another_order_are_refused():
    with pytest.raises(ValueError, match="words 1 and 2: the order of synonyms"):
        tiny_clip(synonyms=True).text(["sea, ocean", "Ocean, sea"], "none")
    tiny_clip().text(["sea, ocean", "ocean, sea"], "none")


@pytest.mark.parametrize(
    ("vocabulary", "error", "message"),
    [
        ([], ValueError, "vocabulary is empty"),
        (["cat", " ", "dog"], ValueError, "no name in word 2 of 3"),
        (["cat", "dog", "cat "], ValueError, "names 'cat' more than once, in words 1 and 3"),
        (["cat", "dog", "Cat"], ValueError, "same for CLIP, 'cat' and 'Cat', in words 1 and 3"),
        (["salt & pepper", "salt &amp; pepper"], ValueError, "same for CLIP"),
        (["cat", "\udcff"], ValueError, "word 2, which is not text"),
        (["cat", 3], TypeError, "list of words, got 3"),
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
