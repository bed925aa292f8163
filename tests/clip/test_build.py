import json
import os

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from san_cliptrase.clip import build
from san_cliptrase.clip.build import build_clip
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


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "code"])
def test_a_file_that_is_no_weights_is_told_shortly_and_runs_nothing(weights_of_shipped_model, tmp_path, damage):
    path, made = tmp_path / "clip.pt", tmp_path / "made"
    state = weights_of_shipped_model[1].state_dict()
    torch.save({"state_dict": state, "extra": Evil(made)} if damage == "code" else state, path)
    if damage != "code":
        content = {"cut": path.read_bytes()[:5000], "empty": b"", "text": b"no weights"}[damage]
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"clip\.pt' could not be loaded.*Is a file whole") as caught:
        build_clip("scenes_vit", str(path))
    assert len(str(caught.value)) < 1000
    assert not made.exists()


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


@pytest.mark.parametrize(("tag", "forced"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_openai_weights_get_quick_gelu(monkeypatch, tag, forced):
    calls = []
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: calls.append(kwargs) or tiny_open_clip())
    build_clip("ViT-B/16", tag)
    assert calls[0]["force_quick_gelu"] is forced


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("ViT-B16", "openai", "unknown CLIP model 'ViT-B16'; did you mean: ViT-B-16"),
        ("ViT-B-16", "opnai", "'ViT-B-16' has no pretrained tag 'opnai', and there is no file.*openai"),
        ("scenes_vit", "zzz", "known are: scenes"),
    ],
)
def test_unknown_names_and_tags_suggest_known_ones(name, tag, message):
    with pytest.raises(ValueError, match=message):
        build_clip(name, tag)


def test_weights_that_cannot_be_fetched(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(WeightsError, match="ViT-B-16.*'openai'.*Name or service not known.*path of a downloaded"):
        build_clip("ViT-B-16", "openai")


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
