import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from san_cliptrase import Segmenter, builders
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.san.query_init import QUERY_INITS
from san_cliptrase.scenes import CLASS_NAMES, make_scene


def scene(index, height=96, width=96):
    return make_scene((5, index)).image[:height, :width]


@pytest.fixture
def run(world):
    """Function of changes: a run's folder with its configuration and a checkpoint, and the model in it."""

    def build(**changes):
        cfg = world.config("san", **changes)
        model = world.model("san", **changes).eval()
        with torch.no_grad():  # the masks of an untrained decoder are the same everywhere
            for parameter in model.network.decoder.parameters():
                parameter.mul_(2.5)
        world.output.mkdir(parents=True, exist_ok=True)
        (world.output / "config.yaml").write_text(cfg.dump())
        SafeCheckpointer(model, str(world.output)).save("model_0000001")
        return world.output, model

    return build


def load(path):
    return Segmenter.from_san(path, device="cpu", text_cache="")


@pytest.mark.parametrize("name", [name for name in QUERY_INITS if "+" not in name])  # prototypes are another start
def test_a_run_its_export_and_its_hub_folder_segment_as_evaluation_does(run, tmp_path, name):
    names = {"model__san__query_init__name_strength": 0.25 if name == "prior" else 0.0}
    folder, model = run(model__san__query_init__name=name, **names)
    segmenter, image = load(folder), scene(0)
    seen = segmenter.method.see(image)
    entry = {"image": seen, "vocabulary": CLASS_NAMES, "height": 96, "width": 96}
    labels = model.label_maps([entry])[0].numpy()
    with torch.no_grad():
        found = model([{**entry, "height": 64, "width": 64}])[0]["sem_seg"]
    scores = torch.nn.functional.interpolate((found / found.sum(0))[None], (96, 96), mode="bilinear")[0].numpy()
    assert np.ptp(scores, axis=(1, 2)).max() > 1e-4
    file = segmenter.export(tmp_path / "out" / "san")
    assert file == tmp_path / "out" / "san.safetensors"
    segmenter.save_pretrained(tmp_path / "hub")
    for again in (segmenter, load(file), load(tmp_path / "hub"), Segmenter.from_pretrained(tmp_path / "hub")):
        result = again(image, CLASS_NAMES)
        assert np.array_equal(result.labels, labels)

        assert np.allclose(result.scores, scores, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"query_init__name": "tokens_prior", "query_init__anneal": 0.5}, {"pseudo_masks": 1.0}],
    ids=["annealed", "pseudo masks"],
)
def test_where_only_training_needs_regions_their_source_is_not_loaded(run, monkeypatch, changes):
    folder, model = run(**{f"model__san__{key}": value for key, value in changes.items()})
    assert model.region_source is not None
    monkeypatch.setattr(builders, "build_region_source", lambda *_, **__: pytest.fail("it was loaded"))
    assert load(folder)(scene(0), CLASS_NAMES).labels.shape == (96, 96)


def test_scores_and_regions_are_those_of_the_queries(run):
    folder, _ = run()
    segmenter = load(folder)
    result = segmenter(scene(0, 70, 96), CLASS_NAMES)
    assert result.scores.shape == (24, 70, 96)
    np.testing.assert_allclose(result.scores.sum(0), 1, atol=1e-5)
    assert (result.scores.argmax(0) == result.labels).mean() > 0.95  # one is interpolated before, one after the sum
    assert len(result.regions) == 8
    assert 0 <= result.regions.min() <= result.regions.max() <= 1
    result = segmenter(scene(0), CLASS_NAMES[:2], background=CLASS_NAMES[2:5])
    assert result.names[-1] == "background"
    assert len(result.scores) == 3


@pytest.mark.parametrize(("height", "width"), [(96, 96), (50, 90), (91, 33), (64, 200), (7, 9)])
def test_images_are_resized_as_for_evaluation(run, height, width):
    import detectron2.data.transforms as T

    folder, _ = run()
    method = load(folder).method
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = T.ResizeShortestEdge(64, method.longest).get_transform(image).apply_image(image)
    assert np.array_equal(method.see(image).permute(1, 2, 0).numpy(), expected)


def test_a_stream_of_mixed_sizes_gives_what_single_calls_give(run):
    folder, _ = run(model__san__query_init__name="tokens_prior")
    segmenter = load(folder)
    images = [scene(0), scene(1, 64, 96), scene(2), scene(3, 96, 64)]
    for image, result in zip(images, segmenter.stream(images, CLASS_NAMES, batch_size=4), strict=True):
        assert np.array_equal(result.labels, segmenter(image, CLASS_NAMES).labels)


def test_a_panorama_is_segmented_in_windows(run):
    folder, _ = run(input__max_size_test=100)
    segmenter = load(folder)
    panorama = np.concatenate([scene(index) for index in range(4)], axis=1)
    assert segmenter(panorama, CLASS_NAMES).labels.shape == (96, 384)
    assert segmenter.method.is_large(segmenter.method.see(panorama))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, caplog):
    folder, model = run()
    SafeCheckpointer(model, str(folder)).save("model_0000002")
    content = bytearray((folder / "model_0000002.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model_0000002.pth").write_bytes(content)
    assert load(folder)(scene(0), CLASS_NAMES).labels.shape == (96, 96)
    assert "Trying the one before it" in caplog.text
    (folder / "model_0000001.pth").unlink()
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        load(folder)


def test_folders_that_are_no_finished_run_are_told(run, tmp_path):
    with pytest.raises(ValueError, match="there is no .*nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a run: it has neither config.yaml nor model.safetensors"):
        load(tmp_path / "empty")
    folder, _ = run()
    for file in folder.glob("*.pth"):
        file.unlink()
    with pytest.raises(ValueError, match="no finished checkpoint"):
        load(folder)
    config = (folder / "config.yaml").read_text().replace("META_ARCHITECTURE: SAN", "META_ARCHITECTURE: CLIPtrase")
    (folder / "config.yaml").write_text(config)
    with pytest.raises(ValueError):
        load(folder)


def test_files_that_are_no_export_are_told(run, tmp_path):
    folder, _ = run()
    file = load(folder).export(tmp_path / "san.safetensors")
    state = load_file(file)
    save_file(state, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, message in (("foreign", "was not written by"), ("text", "cannot read the model file")):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_told(run, caplog, value):
    folder, model = run()
    with torch.no_grad():
        model.network.decoder.bias_scaling.weight[0] = value
    torch.save({"model": model.state_dict()}, folder / "model_0000001.pth")
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        load(folder)
    assert "NaN or infinity in network.decoder.bias_scaling.weight" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_export_that_is_not_finite_is_told(run, tmp_path, value):
    folder, _ = run()
    file = load(folder).export(tmp_path / "san.safetensors")
    with safe_open(file, "pt") as opened:
        metadata, state = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    state["network.decoder.bias_scaling.weight"][0] = value
    del metadata["digest"]
    save_file(state, file, metadata)
    with pytest.raises(ValueError, match="NaN or infinity in network.decoder.bias_scaling.weight"):
        load(file)


ONE_CLASS = {
    "clip.visual.vision.ln_post.weight": "the features of patches are the same for every image",
    "clip.text.model.text_projection": "the text embedding is the same for every word",
    "network.decoder.query_mlp.4": "same value at all pixels; all queries have the same attention bias",
    "network.decoder.pixel_mlp.4": "every mask has the same value at all pixels",
    "network.decoder.bias_scaling.weight": "all queries have the same attention bias",
    "classifier.background": "the embedding of the learned background is 0",
}


@pytest.mark.parametrize("name", ONE_CLASS)
def test_finite_weights_that_give_one_class_everywhere_are_told(run, tmp_path, caplog, name):
    """In the checkpoint of a run, and in an exported model."""
    folder, _ = run()
    segmenter = load(folder)
    with torch.no_grad():
        for key, value in segmenter.method.model.state_dict().items():
            if key.startswith(name):
                value.zero_()
    file = segmenter.export(tmp_path / "san.safetensors")
    with pytest.raises(ValueError, match=rf"san\.safetensors: the weights .* cannot be used: .*{ONE_CLASS[name]}"):
        load(file)
    torch.save({"model": segmenter.method.model.state_dict()}, folder / "model_0000001.pth")
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        load(folder)
    assert ONE_CLASS[name] in caplog.text


def test_an_export_with_an_altered_byte_is_told(run, tmp_path):
    folder, _ = run()
    file = load(folder).export(tmp_path / "san.safetensors")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"san\.safetensors is not as it was written"):
        load(file)


def test_pipes_are_refused_and_not_waited_for(run, tmp_path):
    folder, _ = run()
    os.mkfifo(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match="is not a run"):
            load(path)
    (folder / "model_0000001.pth").unlink()
    os.mkfifo(folder / "model_0000001.pth")
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        load(folder)


def test_text_weights_are_kept_on_disk(run, tmp_path, monkeypatch):
    folder, _ = run()
    first = Segmenter.from_san(folder, device="cpu", text_cache=str(tmp_path / "text"))(scene(0), ["grass", "lava"])
    monkeypatch.setattr(TextEncoder, "_encode", None)
    again = Segmenter.from_san(folder, device="cpu", text_cache=str(tmp_path / "text"))(scene(0), ["grass", "lava"])
    assert np.array_equal(first.labels, again.labels)


def test_neither_way_to_segment_needs_detectron2(run, tmp_path):
    folder, _ = run(model__san__query_init__name="tokens_prior")
    code = f"""
import json, sys
sys.modules["detectron2"] = None
from san_cliptrase import Segmenter, builders
from san_cliptrase.scenes import make_scene
image = make_scene((5, 0)).image
san = Segmenter.from_san({str(folder)!r}, text_cache="")
clip = Segmenter.from_clip("scenes_vit", "scenes", templates="none", text_cache="")
print(json.dumps([s(image, ["grass", "lava"]).labels.shape for s in (san, clip)]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[192, 192], [192, 192]]


def test_its_scores_are_refined_and_averaged_over_sizes(run):
    folder, _ = run()
    plain = load(folder)(scene(0, 70, 96), CLASS_NAMES)
    options = {"refine": "pamr", "scales": (1, 1.5), "flip": True, "device": "cpu", "text_cache": ""}
    refined = Segmenter.from_san(folder, **options)(scene(0, 70, 96), CLASS_NAMES)
    assert refined.labels.shape == (70, 96)
    np.testing.assert_allclose(refined.scores.sum(0), 1, atol=1e-5)
    assert np.abs(refined.scores - plain.scores).max() > 1e-3


@pytest.mark.parametrize("source", ["truth", "shuffled"])
def test_a_run_whose_regions_come_from_beyond_the_image_is_refused(run, source):
    folder, _ = run(model__san__query_init__name="tokens", model__regions__source=source)
    with pytest.raises(OptionError, match=f"SOURCE {source}.*no ground truth and no batch"):
        load(folder)
