"""Files in OpenAI's formats, made here: a state dictionary, and a TorchScript archive as OpenAI published them."""

import hashlib

import open_clip
import pytest
import torch
from torch import nn

from san_cliptrase.clip import openai_files
from san_cliptrase.clip.build import build_clip, register_shipped_models
from san_cliptrase.clip.openai_files import published_sha256
from san_cliptrase.errors import WeightsError

NAME = "scenes_vit"  # an open_clip model that is small; here with other weights, and with QuickGELU


class Scripted(nn.Module):
    """Holds parameters under any names, and can be scripted, which is all that matters of OpenAI's archives here."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            *path, last = key.split(".")
            parent = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.register_buffer(last, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def model():
    register_shipped_models()
    torch.manual_seed(5)
    config = open_clip.get_model_config(NAME)
    return open_clip.CLIP(**{**config, "quick_gelu": True}).eval()


@pytest.fixture(scope="module")
def state(model):
    """As in OpenAI's files: half precision, and three numbers among the weights."""
    numbers = {"input_resolution": 96, "context_length": 77, "vocab_size": 49408}
    weights = {key: value.half() for key, value in model.state_dict().items() if key != "attn_mask"}
    return weights | {key: torch.tensor(value) for key, value in numbers.items()}


def assert_is(clip, model):
    """Same weights to half precision, and the same image features, which tell GELU from QuickGELU."""
    assert clip.quick_gelu
    pixels = torch.randn(1, 3, *clip.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = clip.visual.head(clip.visual(pixels, [clip.visual.depth]).tokens[clip.visual.depth])[:, 0]
        torch.testing.assert_close(found, model.visual(pixels), atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(clip.visual.vision.proj, model.visual.proj, atol=1e-3, rtol=1e-3)
    assert all(parameter.dtype == torch.float32 for parameter in clip.parameters())


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 1}])
def test_a_state_dictionary_of_openais_format(tmp_path, model, state, wrap):
    torch.save(wrap(state), tmp_path / "clip.pt")
    assert_is(build_clip(NAME, str(tmp_path / "clip.pt")), model)


def test_openais_format_of_another_model_is_refused(tmp_path, state):
    narrow = {key: value[:7] if value.ndim else value for key, value in state.items()}
    torch.save(narrow, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=rf"{NAME} with weights .*clip\.pt.*Check that the weights file") as caught:
        build_clip(NAME, str(tmp_path / "clip.pt"))
    assert "size mismatch" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.fixture
def archive(tmp_path, state):
    path = tmp_path / "clip.pt"
    torch.jit.script(Scripted(state)).save(str(path))
    return path


def test_an_archive_that_openai_did_not_publish_is_not_opened(archive, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("it was opened"))
    with pytest.raises(WeightsError, match=r"clip\.pt is a TorchScript archive.*torch\.save\(torch\.jit\.load"):
        build_clip(NAME, str(archive))
    with pytest.raises(WeightsError, match=rf"that OpenAI published for it .{published_sha256('ViT-B-16')}"):
        build_clip("ViT-B-16", str(archive))


def test_the_archive_that_openai_published_is_read(archive, model, monkeypatch):
    published = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(openai_files, "published_sha256", lambda name: published if name == NAME else "")
    assert_is(build_clip(NAME, str(archive)), model)


def test_what_the_refusal_says_to_do_works(archive, model, tmp_path):
    torch.save(torch.jit.load(archive, map_location="cpu").state_dict(), tmp_path / "weights.pt")
    assert_is(build_clip(NAME, str(tmp_path / "weights.pt")), model)


def test_the_hashes_are_those_in_openais_addresses():
    expected = {"ViT-B-16": "5806e77cd80f8b59890b7e101eabd078", "ViT-L-14-336": "3035c92b350959924f9f002134992086"}
    for name, start in expected.items():
        assert published_sha256(name).startswith(start)
        assert published_sha256(f"{name}-quickgelu") == published_sha256(name)
    assert published_sha256(NAME) == ""
