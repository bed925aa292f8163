"""A checkpoint in SAN's own format from load to save: the parity weights, whose predictions the official code made."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file

from benchmarks.parity_weights import draw_weights
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.official_keys import from_official
from san_cliptrase.commands.main import main
from san_cliptrase.engine.defaults import load_config
from tests.checkpoints.official_keys import official_shapes
from tests.conftest import ROOT
from tests.san.test_parity import CLIP, WORDS

REGION_MODES = ["map_add", "map_replace", "tokens", "prior", "tokens_prior", "prototypes"]


@pytest.fixture(scope="module")
def official():
    """The state as the official SAN saves it: drawn parameters, and the two buffers that it recomputes."""
    shapes = official_shapes("parity")
    weights = draw_weights({k: v for k, v in shapes.items() if not k.endswith(("attn_mask", "empty_weight"))}, seed=1)
    classes = torch.ones(shapes["criterion.empty_weight"])
    classes[-1] = 0.1
    mask = torch.full(shapes["ov_classifier.attn_mask"], -torch.inf).triu(1)
    return {**weights, "criterion.empty_weight": classes, "ov_classifier.attn_mask": mask}


@pytest.fixture(scope="module")
def folder(official, tmp_path_factory):
    """A release, and the CLIP that it was trained on as open_clip saves one."""
    root = tmp_path_factory.mktemp("release")
    torch.save({"model": official, "iteration": 59999}, root / "san.pth")
    ours = from_official(official)
    vision = {key.replace("clip.visual.vision.", "visual."): v for key, v in ours.items() if "clip.visual." in key}
    text = {key.removeprefix("clip.text.model."): v for key, v in ours.items() if "clip.text." in key}
    (root / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP}))
    save_file({key: v.contiguous() for key, v in {**vision, **text}.items()}, root / "open_clip_model.safetensors")
    return root


@pytest.fixture(scope="module")
def reference(official):
    return np.load(ROOT / "tests" / "fixtures" / "san_parity.npz")


def overrides(folder, **more):
    values = {
        "MODEL.DEVICE": "cpu",
        "MODEL.CLIP.NAME": f"local-dir:{folder}",
        "MODEL.SAN.SIDE.IMAGE_SIZE": 160,
        **more,
    }
    return [str(part) for pair in values.items() for part in pair]


def loaded(folder, config, *more, weights="san.pth"):
    cfg = load_config(
        ROOT / "configs" / f"{config}.yaml", [*overrides(folder), "MODEL.WEIGHTS", str(folder / weights), *more]
    )
    model = build_model(cfg).eval()
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def predict(model, reference):
    image = torch.from_numpy(reference["image"]).permute(2, 0, 1)
    with torch.no_grad():
        return model([{"image": image, "vocabulary": WORDS}])[0]["sem_seg"]


@pytest.fixture(scope="module")
def plain(folder, reference):
    return predict(loaded(folder, "san_vit_b16"), reference)


def test_a_release_predicts_what_the_official_code_predicts(plain, reference):
    assert (plain.argmax(0).numpy() != reference["sem_seg_argmax"]).mean() <= 1e-3


@pytest.mark.parametrize("name", REGION_MODES)
def test_in_every_mode_a_release_first_predicts_what_plain_san_does(folder, reference, plain, name):
    keys = {"NAME": name, "NAME_STRENGTH": "0.25" if "prior" in name else "0"}
    overrides = [part for key, value in keys.items() for part in (f"MODEL.SAN.QUERY_INIT.{key}", value)]
    model = loaded(folder, "san_cliptrase_vit_b16", *overrides)
    assert model.region_source is not None
    assert torch.equal(predict(model, reference), plain)


def test_a_run_that_began_so_is_read_again_as_it_was(folder, reference, plain):
    model = loaded(folder, "san_cliptrase_vit_b16")
    model.network.query_init.content_strength.data.fill_(0.5)
    torch.save({"model": model.state_dict()}, folder / "trained.pth")
    again = loaded(folder, "san_cliptrase_vit_b16", weights="trained.pth")
    found = predict(again, reference)
    assert torch.equal(found, predict(model, reference))
    assert not torch.equal(found, plain)


def export(weights, output, config="", *more):
    named = ["--config", str(ROOT / "configs" / f"{config}.yaml")] if config else []
    return main(["export", str(weights), "--format", "san", "--output", str(output), *named, *more])


def test_the_official_format_comes_back_bit_for_bit(folder, official, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    SafeCheckpointer(loaded(folder, "san_vit_b16"), str(run)).save("model_0000001")
    cfg = load_config(ROOT / "configs" / "san_vit_b16.yaml", overrides(folder))
    (run / "config.yaml").write_text(cfg.dump())
    arguments = (run / "model_0000001.pth", tmp_path / "of_file.pth", "san_vit_b16", *overrides(folder))
    assert export(*arguments) == 0
    printed = capsys.readouterr().out
    for line in ('FUSION_MAP ["0->0", "3->1", "6->2", "9->3"]', "FEATURE_LAST_LAYER_IDX 9", "NUM_HEADS 2"):
        assert line in printed
    # The run's folder alone says the same; its last checkpoint is cut off, so the one before it is taken.
    (run / "model_0000002.pth").write_bytes((run / "model_0000001.pth").read_bytes()[:1000])
    (run / "last_checkpoint").write_text("model_0000002.pth")
    assert export(run, tmp_path / "of_run.pth") == 0
    annealed = overrides(folder, **{"MODEL.SAN.QUERY_INIT.ANNEAL": 0.5})
    assert export(folder / "san.pth", tmp_path / "of_annealed.pth", "san_cliptrase_vit_b16", *annealed) == 0
    for name in ("of_file.pth", "of_run.pth", "of_annealed.pth"):
        saved = torch.load(tmp_path / name, weights_only=True)
        assert saved.keys() == {"model"}
        assert saved["model"].keys() == official.keys()
        for key, value in official.items():
            assert saved["model"][key].dtype == value.dtype, key
            assert torch.equal(saved["model"][key], value), key


@pytest.mark.parametrize(
    ("weights", "config", "more", "message"),
    [
        ("san.pth", "san_cliptrase_vit_b16", {}, "SAN's own format has no regions"),
        ("san.pth", "san_vit_b16", {"DATASETS.TRAIN": "()"}, "name DATASETS.TRAIN"),
        ("san.pth", "cliptrase", {}, "describes CLIPtrase"),
        ("san.pth", "san_vit_b16", {"MODEL.SAN.RECOGNITION_LAYER": "-4"}, "RECOGNITION_LAYER -3"),
        ("san.pth", "", {}, "there is no configuration"),
        ("", "san_vit_b16", {}, "has no checkpoint"),
        ("nowhere.pth", "san_vit_b16", {}, "nowhere.pth"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_is_written(
    folder, tmp_path, capsys, weights, config, more, message
):
    output = tmp_path / "out.pth"
    assert export(folder / weights, output, config, *overrides(folder, **more)) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_checkpoint_is_not_exported_over_itself(folder, capsys):
    before = (folder / "san.pth").read_bytes()
    assert export(folder / "san.pth", folder / "san.pth", "san_vit_b16", *overrides(folder)) == 1
    assert "choose another name" in capsys.readouterr().err
    assert (folder / "san.pth").read_bytes() == before
