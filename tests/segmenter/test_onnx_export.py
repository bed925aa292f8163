import json

import numpy as np
import pytest
import torch

from san_cliptrase import Segmenter
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.commands.main import main
from san_cliptrase.errors import OptionError
from san_cliptrase.scenes import make_scene
from san_cliptrase.segmenter import onnx_export

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

WORDS = ["grass", "water", "red brick"]
# The size of the example, the one that CLIP was trained at, and others that divide into nothing.
SIZES = [onnx_export.EXAMPLE, (96, 96), (97, 150), (210, 96)]


def image(height, width):
    return np.ascontiguousarray(make_scene((5, 3), size=220).image[:height, :width])


def compare(path, segmenter, background=()):
    """The graph gives what torch gives, at every size."""
    session = onnxruntime.InferenceSession(str(path))
    about = session.get_modelmeta().custom_metadata_map
    for size in SIZES:
        pixels = image(*size)
        seen = segmenter.method.see(pixels).numpy()
        (scores,) = session.run(["scores"], {"image": seen[None]})
        result = segmenter(np.ascontiguousarray(seen.transpose(1, 2, 0)), WORDS, background)
        assert json.loads(about["names"]) == list(result.names)
        assert int(about["shorter_side"]) == min(seen.shape[1:])
        assert scores.shape == (1, *result.scores.shape)
        np.testing.assert_allclose(scores[0], result.scores, atol=2e-5)  # promised: 1e-4
        assert np.ptp(result.scores, axis=(1, 2)).max() > 1e-3


@pytest.fixture
def run(world):
    """Function of changes: the folder of a SAN's run."""

    def build(**changes):
        cfg, model = world.config("san", **changes), world.model("san", **changes).eval()
        with torch.no_grad():  # the masks of an untrained decoder are the same everywhere
            for parameter in model.network.decoder.parameters():
                parameter.mul_(2)  # with larger ones no mask covers some pixels, where probabilities are 0 / 0
        world.output.mkdir(parents=True, exist_ok=True)
        (world.output / "config.yaml").write_text(cfg.dump())
        SafeCheckpointer(model, str(world.output)).save("model_0000001")
        return world.output

    return build


def test_a_san_gives_in_onnxruntime_what_it_gives_in_torch(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    init = {"name": "tokens_prior+prototypes", "anneal": 0.5, "name_strength": 0.25}
    init = {f"model__san__query_init__{key}": value for key, value in init.items()}
    folder = run(model__clip__resolution=0.5, model__clip__cache_gb=0.1, **init)
    words = ["--vocabulary", ", ".join(WORDS), "--background", "wall, floor"]
    assert main(["export", str(folder), "--format", "onnx", "--output", str(tmp_path / "san.onnx"), *words]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'san.onnx'}\n")
    compare(tmp_path / "san.onnx", Segmenter.from_san(folder, device="cpu", text_cache=""), ["wall", "floor"])


@pytest.mark.slow
def test_a_dense_reading_gives_in_onnxruntime_what_it_gives_in_torch(clip_segmenter, tmp_path):
    segmenter = clip_segmenter(pretrained="scenes", classify="patches", attention="naclip", refine="none", size=96)
    compare(segmenter.export_onnx(tmp_path / "clip", WORDS), segmenter)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reading": "cliptrase"}, "regions come from DBSCAN"),
        ({"classify": "patches", "attention": "scclip", "refine": "none"}, "scclip and cliper"),
        ({"classify": "patches", "flip": True}, "sees an image once"),
    ],
)
def test_what_cannot_be_a_graph_is_refused_with_the_reason(clip_segmenter, tmp_path, options, reason):
    with pytest.raises(OptionError, match=reason):
        clip_segmenter(**options).export_onnx(tmp_path / "clip.onnx", WORDS)
    assert not list(tmp_path.iterdir())


def test_a_san_from_regions_is_refused_with_the_reason(run, tmp_path, capsys):
    folder = run(model__san__query_init__name="tokens_prior")
    given = ["export", str(folder), "--format", "onnx", "--output", str(tmp_path / "san.onnx")]
    assert main([*given, "--vocabulary", "grass"]) == 1
    assert "queries start from regions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["run", "--format", "onnx"], "name them by --vocabulary"),
        (["run", "--format", "onnx", "--vocabulary", "a", "--attention", "sclip"], "does not go with RUN"),
        (["run", "--vocabulary", "a"], "go with --format onnx"),
        ([], "name RUN"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *given, "--output", "x.onnx"])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
