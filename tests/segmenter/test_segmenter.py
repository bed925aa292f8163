import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from san_cliptrase import FailedImage, Segmentation, Segmenter
from san_cliptrase.choices import DEFAULT_READING, READINGS
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.scenes import CLASS_NAMES, make_scene
from san_cliptrase.segmenter import training_free

WORDS = ["grass", "water", "red brick"]


def scene(index, height=96, width=96):
    return make_scene((5, index)).image[:height, :width]


def test_an_image_may_be_a_path_an_image_an_array_or_a_tensor(tmp_path, clip_segmenter):
    array = scene(0, 70, 130)
    Image.fromarray(array).save(tmp_path / "photo.png")
    kinds = [tmp_path / "photo.png", Image.fromarray(array), array, torch.from_numpy(array).permute(2, 0, 1)]
    segmenter = clip_segmenter()
    results = [segmenter(image, WORDS) for image in kinds]
    for result in results:
        assert isinstance(result, Segmentation)
        assert result.labels.shape == (70, 130)
        assert result.labels.dtype == np.int64
        assert np.array_equal(result.labels, results[0].labels)
        assert result.names == tuple(WORDS)


@pytest.mark.parametrize("classify", CLASSIFY)
@pytest.mark.parametrize("background", [(), ("wall", "floor")])
def test_scores_are_probabilities_that_agree_with_the_labels(clip_segmenter, classify, background):
    segmenter = clip_segmenter(classify=classify)
    result = segmenter(scene(1), WORDS, background=background)
    classes = len(WORDS) + bool(background)
    assert result.names == (*WORDS, "background")[:classes]
    assert result.scores.shape == (classes, 96, 96)
    assert result.scores.dtype == np.float32
    assert (result.scores >= 0).all()
    np.testing.assert_allclose(result.scores.sum(0), 1, atol=1e-5)
    # At CLIP's own size nothing is resampled.
    assert np.array_equal(result.scores.argmax(0), result.labels)
    np.testing.assert_allclose(result.confidence, result.scores.max(0))


def test_scores_are_computed_only_when_they_are_asked_for(clip_segmenter, monkeypatch):
    segmenter, asked = clip_segmenter(), []
    found = segmenter.method.scores
    monkeypatch.setattr(segmenter.method, "scores", lambda *given: asked.append(1) or found(*given))
    result = segmenter(scene(0), WORDS)
    assert not asked
    assert result.scores is result.scores
    assert len(asked) == 1


def test_regions_are_masks_that_cover_the_image(clip_segmenter):
    result = clip_segmenter()(scene(0), WORDS)
    assert result.regions.shape[1:] == (12, 12)
    assert (result.regions.sum(0) == 1).all()
    assert clip_segmenter(classify="patches")(scene(0), WORDS).regions.shape == (0, 12, 12)


def test_other_words_cost_their_text_weights_only(clip_segmenter, monkeypatch):
    segmenter, encoded = clip_segmenter(), []
    encode = TextEncoder._encode
    monkeypatch.setattr(
        TextEncoder, "_encode", lambda self, words, *rest: encoded.append(words) or encode(self, words, *rest)
    )
    segmenter(scene(0), ["grass", "water"])
    segmenter(scene(0), ["water", "lava"])
    segmenter(scene(0), ["lava", "grass"])
    assert [word for words in encoded for word in words] == ["grass", "water", "lava"]


def test_text_weights_are_kept_on_disk(tmp_path, clip_segmenter, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = clip_segmenter(text_cache="auto")(scene(0), WORDS)
    monkeypatch.setattr(TextEncoder, "_encode", None)
    again = clip_segmenter(text_cache="auto")(scene(0), WORDS)
    assert np.array_equal(first.labels, again.labels)


def test_a_stream_gives_what_single_calls_give_in_order_and_goes_on_after_a_bad_image(tmp_path, clip_segmenter):
    (tmp_path / "bad.png").write_text("no image")
    images = [scene(0), tmp_path / "bad.png", scene(1, 70, 96), 7, scene(2, 96, 50), scene(3)]
    segmenter = clip_segmenter()
    results = list(segmenter.stream(iter(images), WORDS, batch_size=2))
    assert [type(result) for result in results] == [
        Segmentation, FailedImage, Segmentation, FailedImage, Segmentation, Segmentation,
    ]  # fmt: skip
    assert results[1].image == tmp_path / "bad.png"
    assert "bad.png" in str(results[1].error)
    for image, result in zip(images, results, strict=True):
        if isinstance(result, Segmentation):
            assert np.array_equal(result.labels, segmenter(image, WORDS).labels)


def test_a_stream_reads_two_batches_ahead_and_no_further(clip_segmenter):
    given = []

    def images():
        for index in range(100):
            given.append(index)
            yield scene(0)

    stream = clip_segmenter().stream(images(), WORDS, batch_size=3)
    for done in range(1, 8):
        next(stream)
        assert len(given) <= done + 6
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-image") and thread.daemon]


@pytest.mark.parametrize("shape", [(96, 96 * 5), (96 * 5, 96)])
def test_an_image_of_many_patches_is_segmented_in_windows(clip_segmenter, monkeypatch, shape):
    scenes = [make_scene((5, index), size=96) for index in range(5)]
    tiles, truths = [scene.image for scene in scenes], [scene.labels for scene in scenes]
    image = np.concatenate(tiles, axis=int(shape[1] > shape[0]))
    segmenter = clip_segmenter(pretrained="scenes", classify="cls")
    whole = segmenter(image, CLASS_NAMES)
    monkeypatch.setattr(training_free, "MOST_PATCHES", 12 * 12)
    result = segmenter(image, CLASS_NAMES)
    assert result.labels.shape == shape == result.scores.shape[1:]
    assert not np.array_equal(result.labels, whole.labels)
    # The first window is the first tile, of which half lies under no other window.
    first = segmenter(tiles[0], CLASS_NAMES).labels[:48, :48]
    assert np.array_equal(result.labels[:48, :48], first)
    assert (result.labels == np.concatenate(truths, axis=int(shape[1] > shape[0]))).mean() > 0.5
    with pytest.raises(ValueError, match="windows"):
        result.regions  # noqa: B018
    streamed = list(segmenter.stream([image, tiles[0]], CLASS_NAMES))
    assert np.array_equal(streamed[0].labels, result.labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reading": "cliptrace"}, "unknown reading 'cliptrace'; did you mean:? cliptrase"),
        ({"attention": "clap"}, "unknown attention rule"),
        ({"classify": "votes"}, "unknown way to classify"),
        ({"regions": "dino"}, "unknown source of regions"),
        ({"refine": "crf"}, "unknown refinement 'crf'; choose one of: none, pamr, pamr_half, laplacian"),
        ({"scales": (1, 0)}, r"scales is \(1, 0\); numbers above 0"),
        ({"size": 7}, "size 7 is less than one patch"),
        ({"eps": -1.0}, "eps > 0"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"templates": "imagenet80"}, "unknown templates"),
    ],
)
def test_options_that_do_not_exist_are_told(clip_segmenter, change, message):
    with pytest.raises(ValueError, match=message):
        clip_segmenter(**change)(scene(0), WORDS)


@pytest.mark.parametrize(
    ("words", "background", "error", "message"),
    [
        ("grass, water", (), TypeError, "must be a list of words"),
        ([], (), ValueError, "empty"),
        (["grass", "grass"], (), ValueError, "more than once"),
        (["grass"], "wall", TypeError, "background must be a list"),
    ],
)
def test_words_that_cannot_be_used_are_told(clip_segmenter, words, background, error, message):
    segmenter = clip_segmenter()
    with pytest.raises(error, match=message):
        segmenter(scene(0), words, background)
    with pytest.raises(error, match=message):
        segmenter.stream([scene(0)], words, background=background)


def test_an_image_as_thin_as_a_line_does_not_fill_the_memory(clip_segmenter):
    line = np.zeros((1, 10**7, 3), np.uint8)
    with pytest.raises(ValueError, match="an image of 10000000x1 pixels would be seen at .* cut it"):
        clip_segmenter()(line, ["grass"])


def test_there_is_nothing_to_export_without_training(tmp_path, clip_segmenter):
    with pytest.raises(ValueError, match="nothing to export"):
        clip_segmenter().export(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="batch_size is 0"):
        clip_segmenter().stream([], WORDS, batch_size=0)


def test_the_package_is_imported_without_its_libraries():
    code = (
        "import sys, json; before = set(sys.modules); import san_cliptrase; "
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})), dir(san_cliptrase))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = json.loads(done.stdout.partition("]")[0] + "]")
    assert not set(modules) & {"torch", "numpy", "PIL", "open_clip", "detectron2", "huggingface_hub"}
    assert "Segmenter" in done.stdout
    with pytest.raises(AttributeError, match="Segmentor"):
        import san_cliptrase

        san_cliptrase.Segmentor  # noqa: B018
    assert Segmenter is san_cliptrase.Segmenter


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_is_its_parts_and_the_default_is_one(clip_segmenter, name):
    image, parts = scene(0), READINGS[name]._asdict()
    del parts["about"]
    found = [
        clip_segmenter(pretrained="scenes", **options)(image, CLASS_NAMES) for options in ({"reading": name}, parts)
    ]
    assert np.array_equal(found[0].labels, found[1].labels)
    assert np.array_equal(found[0].scores, found[1].scores)


def test_who_says_nothing_gets_the_default_reading():
    options = {"templates": "none", "device": "cpu", "text_cache": ""}
    silent = Segmenter.from_clip("scenes_vit", "scenes", **options)
    spoken = Segmenter.from_clip("scenes_vit", "scenes", reading=DEFAULT_READING, **options)
    published = Segmenter.from_clip("scenes_vit", "scenes", reading="cliptrase", **options)
    labels = [segmenter(scene(0), CLASS_NAMES).labels for segmenter in (silent, spoken, published)]
    assert np.array_equal(labels[0], labels[1]) and not np.array_equal(labels[0], labels[2])


@pytest.mark.parametrize(
    ("attention", "classify"),
    [("cliptrase", "vote"), ("cliptrase", "patches"), ("cliptrase", "cls"), ("cliper", "patches")],
)
def test_refined_scores_and_labels_belong_together(clip_segmenter, monkeypatch, attention, classify):
    image = make_scene((5, 0), size=96).image
    options = {"pretrained": "scenes", "attention": attention, "classify": classify, "scales": (1, 1.25), "flip": True}
    plain, refined = (clip_segmenter(**options, refine=name)(image, CLASS_NAMES) for name in ("none", "pamr"))
    assert not np.array_equal(plain.labels, refined.labels)
    assert refined.scores.shape == (len(CLASS_NAMES), 96, 96)
    np.testing.assert_allclose(refined.scores.sum(0), 1, atol=1e-5)
    assert np.array_equal(refined.scores.argmax(0), refined.labels)
    monkeypatch.setattr(training_free, "MOST_PATCHES", 8 * 8)
    in_windows = clip_segmenter(**options, refine="laplacian")(image, CLASS_NAMES)
    assert np.array_equal(in_windows.scores.argmax(0), in_windows.labels)
