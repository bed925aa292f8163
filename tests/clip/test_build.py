import json
import logging
import os
import time

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from san_cliptrase.clip import build, hub
from san_cliptrase.clip.build import build_clip
from san_cliptrase.clip.probe import useless_clip
from san_cliptrase.errors import WeightsError
from tests.clip.tiny import TEXT, VISION, tiny_clip, tiny_open_clip


@pytest.fixture
def weights_of_shipped_model(tmp_path):
    build.register_shipped_models()
    torch.manual_seed(3)
    model = open_clip.create_model("scenes_vit")
    path = tmp_path / "weights.safetensors"
    save_file({key: value.clone() for key, value in model.state_dict().items() if key != "attn_mask"}, path)
    return path, model


def test_the_shipped_model_takes_open_clips_own_path(weights_of_shipped_model, monkeypatch):
    path, model = weights_of_shipped_model
    monkeypatch.setitem(build.SHIPPED_WEIGHTS, ("scenes_vit", "scenes"), path)
    clip = build_clip("scenes_vit", "scenes")
    pixels = torch.randn(1, 3, *clip.image_size)
    expected = model.eval().visual(pixels)
    features = clip.visual(pixels, [clip.visual.depth])
    torch.testing.assert_close(clip.visual.head(features.tokens[clip.visual.depth])[:, 0], expected)
    torch.testing.assert_close(clip.logit_scale, model.logit_scale.exp())
    assert clip.text.tokenizer.context_length == model.context_length


def test_weights_may_be_a_file(weights_of_shipped_model):
    path, model = weights_of_shipped_model
    clip = build_clip("scenes_vit", str(path))
    torch.testing.assert_close(clip.visual.vision.proj, model.visual.proj)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "name": "run", "optimizer": {"state": {}}, "state_dict": state},
        lambda state: {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["bare", "training", "distributed training"],
)
def test_weights_may_be_a_checkpoint_of_open_clip(weights_of_shipped_model, tmp_path, wrap):
    model = weights_of_shipped_model[1]
    torch.save(wrap(model.state_dict()), tmp_path / "epoch_3.pt")
    clip = build_clip("scenes_vit", str(tmp_path / "epoch_3.pt"))
    torch.testing.assert_close(clip.visual.vision.proj, model.visual.proj)
    assert not clip.quick_gelu  # a file of open_clip does not say; the model's name does
    assert (clip.name, clip.pretrained) == ("scenes_vit", str(tmp_path / "epoch_3.pt"))


class Evil:
    def __init__(self, made):
        self.made = str(made)

    def __reduce__(self):
        return os.mkdir, (self.made,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "is not whole"),
        ("empty", "is empty"),
        ("text", "is a text, not a weights file; it begins 'no weights'"),
        ("code", r"holds Python objects \(\w+\.mkdir\), not weights alone"),
        ("transformers", "is a file of transformers .*take open_clip_model.safetensors of the same repository"),
        ("nested", "has its weights under 'model', where open_clip does not look"),
        ("list", "holds no weights by name, but a list"),
        ("numbers", "holds no weights: there are no tensors in it"),
    ],
)
def test_a_file_that_is_no_weights_is_told_shortly_and_runs_nothing(
    weights_of_shipped_model, tmp_path, damage, message
):
    path, made = tmp_path / "clip.pt", tmp_path / "made"
    state = weights_of_shipped_model[1].state_dict()
    torch.save(
        {
            "code": {"state_dict": state, "extra": Evil(made)},
            "transformers": {"text_model.a": torch.zeros(2), "vision_model.b": torch.zeros(2)},
            "nested": {"epoch": 3, "model": state},
            "list": [torch.zeros(2)],
            "numbers": {"epoch": 3},
        }.get(damage, state),
        path,
    )
    if damage in ("cut", "empty", "text"):
        path.write_bytes({"cut": path.read_bytes()[:5000], "empty": b"", "text": b"no weights"}[damage])
    with pytest.raises(WeightsError, match=rf"clip\.pt' {message}") as caught:
        build_clip("scenes_vit", str(path))
    assert_one_plain_line(str(caught.value))
    assert not made.exists()


def assert_one_plain_line(message):
    assert len(message) < 500
    assert message.isprintable()  # neither line ends nor terminal codes
    assert "weights_only" not in message  # torch advises to run what is in the file


def test_a_safetensors_file_of_transformers(tmp_path):
    save_file({"vision_model.b": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors' is a file of transformers"):
        build_clip("scenes_vit", str(tmp_path / "model.safetensors"))


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(WeightsError, match=r"pipe\.pt' is a named pipe, not a weights file"):
        build_clip("scenes_vit", str(tmp_path / "pipe.pt"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
@pytest.mark.parametrize("name", ["visual.ln_post.weight", "token_embedding.weight"])
def test_weights_that_are_not_finite_are_refused(weights_of_shipped_model, tmp_path, name, value):
    state = {key: tensor.clone() for key, tensor in weights_of_shipped_model[1].state_dict().items()}
    state[name] = state[name].double()  # 1e300 is finite there, and not as the model has it
    state[name].view(-1)[7] = value
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=rf"clip\.pt' cannot be used: 1 of the \d+ numbers in {name} are NaN or inf"):
        build_clip("scenes_vit", str(tmp_path / "clip.pt"))


ONE_CLASS = {
    "visual.ln_post.weight": (0, "the feature of .CLS. is the same for every image"),
    "visual.proj": (0, "the features of patches are the same for every image"),
    "visual.conv1.weight": (0, "the feature of .CLS. is the same for every image"),
    "visual.ln_pre.weight": (1e-12, "the feature of .CLS. is the same for every image"),
    "text_projection": (0, "the text embedding is the same for every word"),
    "ln_final.weight": (0, "the text embedding is the same for every word"),
    "token_embedding.weight": (0, "the text embedding is the same for every word"),
    "logit_scale": (-1000, "the scale of the logits is 0"),
    "logit_scale, too large": (1000, "the scale of the logits is inf"),
}


@pytest.mark.parametrize("name", ONE_CLASS)
def test_finite_weights_that_give_one_class_everywhere_are_refused(weights_of_shipped_model, tmp_path, name):
    state = {key: tensor.clone() for key, tensor in weights_of_shipped_model[1].state_dict().items()}
    value, message = ONE_CLASS[name]
    state[name.partition(",")[0]].fill_(value)
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=rf"clip\.pt' cannot be used: .*{message}.* finite, but every pixel"):
        build_clip("scenes_vit", str(tmp_path / "clip.pt"))


def test_looking_for_useless_weights_draws_nothing_from_the_run():
    clip, before = build_clip("scenes_vit", "scenes"), torch.get_rng_state()
    assert not useless_clip(clip)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
def test_weights_that_are_no_real_numbers_are_not_rounded(weights_of_shipped_model, tmp_path, name, kind):
    state = {key: tensor.clone() for key, tensor in weights_of_shipped_model[1].state_dict().items()}
    state["visual.proj"] = state["visual.proj"].to(kind)
    torch.save(state, tmp_path / name) if name.endswith("pt") else save_file(state, tmp_path / name)
    with pytest.raises(WeightsError, match=rf"{name}' cannot be used: visual\.proj does not hold real numbers"):
        build_clip("scenes_vit", str(tmp_path / name))


def test_a_folder_is_a_model_and_no_weights(tmp_path):
    with pytest.raises(ValueError, match=rf"is a folder.*name it as the model, local-dir:{tmp_path}"):
        build_clip("ViT-B-16", str(tmp_path))


def test_a_local_folder(tmp_path):
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({**config, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}))
    model = tiny_open_clip()
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    clip = build_clip(f"local-dir:{tmp_path}", None)
    assert clip.mean == (0.1, 0.2, 0.3)
    torch.testing.assert_close(clip.visual.vision.proj, model.visual.proj)


def test_random_weights_are_announced(caplog):
    build_clip("scenes_vit", None)
    assert "random weights" in caplog.text


def test_a_local_folder_of_pointers(tmp_path):
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors' is a Git LFS pointer"):
        build_clip(f"local-dir:{tmp_path}", None)


def test_a_local_folder_with_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "open_clip_config.json")
    with pytest.raises(WeightsError, match="not a regular file but a pipe"):
        build_clip(f"local-dir:{tmp_path}", None)


def test_a_local_folder_without_a_configuration(tmp_path):
    with pytest.raises(WeightsError, match=r"its configuration could not be loaded.*open_clip_config\.json"):
        build_clip(f"local-dir:{tmp_path}", None)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 16}}')
    with pytest.raises(WeightsError, match="it has no vision_cfg or no text_cfg"):
        build_clip(f"local-dir:{tmp_path}", None)


@pytest.fixture
def network(monkeypatch, weights_of_shipped_model):
    """A hub that answers; where a tag is downloaded, it is this file."""
    monkeypatch.setattr(hub, "why_unreachable", lambda: None)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: str(weights_of_shipped_model[0]))


@pytest.mark.parametrize(("tag", "forced"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_openai_weights_get_quick_gelu(monkeypatch, network, tag, forced):
    calls = []
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: calls.append(kwargs) or tiny_open_clip())
    tokenizer = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenizer)
    build_clip("ViT-B/16", tag)
    assert calls[0]["force_quick_gelu"] is forced


@pytest.mark.parametrize(
    ("name", "tower"),
    [
        ("ViT-B-16-SigLIP", "TimmModel .vit_base_patch16_siglip_224. is not supported"),
        ("convnext_base", "TimmModel .convnext_base. is not supported"),
        ("EVA02-B-16", "TimmModel .eva02_base_patch16_clip_224. is not supported"),
        ("RN50", "ModifiedResNet is not supported"),
        ("coca_ViT-B-32", "VisionTransformer is not supported: it pools by attention"),
        ("ViT-L-14-CLIPA", "is not its .CLS. token"),
        ("local-dir:FOLDER", "block.* do not attend with standard multi-head attention"),
    ],
)
def test_an_unsupported_tower_is_refused_before_anything_is_fetched(monkeypatch, tmp_path, name, tower):
    config = {"embed_dim": 16, "vision_cfg": {**VISION, "qk_norm": True}, "text_cfg": TEXT}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    for where, function in ((hub, "why_unreachable"), (open_clip, "get_tokenizer"), (open_clip, "create_model")):
        monkeypatch.setattr(where, function, lambda *args, **kwargs: pytest.fail("it went on"))
    tags = open_clip.list_pretrained_tags_by_model(name) or [None]
    with pytest.raises(ValueError, match=f"image tower .*{tower}"):
        build_clip(name.replace("FOLDER", str(tmp_path)), tags[0])


def test_an_unsupported_tower_on_the_hub_costs_its_configuration_alone(monkeypatch, network):
    config = {"embed_dim": 16, "vision_cfg": {"layers": [3, 4, 6, 3]}, "text_cfg": TEXT}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: pytest.fail("it went on"))
    with pytest.raises(ValueError, match="ModifiedResNet is not supported"):
        build_clip("hf-hub:someone/resnet", None)


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("ViT-B16", "openai", "unknown CLIP model 'ViT-B16'; did you mean ViT-B-16"),
        ("ViT-B-16", "opnai", "'ViT-B-16' has no pretrained tag 'opnai', and there is no file.*openai"),
        ("scenes_vit", "zzz", "known are: scenes"),
    ],
)
def test_unknown_names_and_tags_suggest_known_ones(name, tag, message):
    with pytest.raises(ValueError, match=message):
        build_clip(name, tag)


def test_weights_that_cannot_be_fetched(monkeypatch, network):
    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(WeightsError, match="ViT-B-16.*'openai'.*the disk is full.*path of a downloaded"):
        build_clip("ViT-B-16", "openai")


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("ViT-B-16", "openai", "ViT-B-16: its weights 'openai' .*path of a downloaded weights file"),
        ("ViT-B-16", "laion2b_s34b_b88k", "ViT-B-16: its weights 'laion2b_s34b_b88k' .*path of a downloaded"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "its tokenizer .*Build it once where there is a network"),
        ("hf-hub:someone/clip", None, "its configuration .*Build it once where there is a network"),
    ],
)
def test_without_a_network_one_line_says_so_at_once(monkeypatch, caplog, capfd, tmp_path, name, tag, message):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://localhost:9")  # nothing listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for another try"))
    with pytest.raises(WeightsError, match=message) as caught:
        build_clip(name, tag)
    assert "localhost cannot be reached" in str(caught.value)
    assert_one_plain_line(str(caught.value))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_model(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(tiny_open_clip().state_dict(), path)
    with pytest.raises(WeightsError, match="scenes_vit with weights .*could not be loaded"):
        build_clip("scenes_vit", str(path))


def test_normalize_is_open_clips():
    clip = tiny_clip()
    image = torch.rand(3, 4, 5)
    expected = (image[1] - open_clip.OPENAI_DATASET_MEAN[1]) / open_clip.OPENAI_DATASET_STD[1]
    torch.testing.assert_close(clip.normalize(image)[1], expected)
