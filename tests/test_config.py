import random

import pytest
from detectron2.config import CfgNode, get_cfg

from san_cliptrase.config import KEYS, MODEL_KEYS, REMOVED, RENAMED, model_config, plain, render_page
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import ConfigError, SanCliptraseError
from tests.conftest import ROOT


def flat(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_every_key_of_this_project_has_a_rule_that_its_default_fits(world):
    cfg, usual = world.config(), dict(flat(get_cfg()))
    assert not [name for name, _ in flat(cfg) if name not in usual and name not in KEYS]
    for name, key in KEYS.items():
        default = usual[name] if key.default is None else key.default
        if name not in ("MODEL.META_ARCHITECTURE", "MODEL.DEVICE", "OUTPUT_DIR"):  # set by every file
            assert key.rule.holds(default), name


def test_the_page_of_keys_is_made_of_the_table():
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == render_page()


@pytest.mark.parametrize("old", [*RENAMED, *REMOVED])
def test_keys_of_earlier_versions_are_refused_with_what_to_do(tiny_overrides, old):
    with pytest.raises(ConfigError) as caught:
        load_config(ROOT / "configs" / "demo" / "san.yaml", [*tiny_overrides(), old, "1"])
    assert (RENAMED.get(old) or REMOVED[old]) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "1e39"),
        ("SOLVER.BASE_LR", "-0.1"),
        ("SOLVER.WEIGHT_DECAY", "float('nan')"),
        ("SOLVER.CHECKPOINT_PERIOD", "0"),
        ("SOLVER.MAX_ITER", "-5"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-1.0"),
        ("TEST.BATCH_SIZE", "0"),
        ("SEED", str(2**32)),
        ("MODEL.SAN.NUM_QUERIES", "0"),
        ("MODEL.CLIP.RESOLUTION", "-1.0"),
        ("MODEL.CLIP.RESOLUTION", "1e9"),
        ("MODEL.REGIONS.EPS", "-1.0"),
        ("INPUT.MIN_SIZE_TRAIN", "(-64,)"),
        ("INPUT.MIN_SIZE_TRAIN", "('a',)"),
        ("DATASETS.TEST", "tiny_val"),
        ("DATASETS.TEST", "('tiny_val', 'tiny_val')"),
        ("DATASETS.TRAIN", "('tiny_train', 'tiny_val')"),
        ("SOLVER.MAX_ITER", str(2**63)),
        ("SEED", "0x" + "f" * 6000),
        ("INPUT.CROP.SIZE", "[0x" + "f" * 6000 + ", 64]"),
        ("SOLVER.MOMENTUM", "0.5"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    ],
)
def test_a_value_out_of_range_or_without_effect_is_refused_by_its_name(tiny_overrides, key, value):
    with pytest.raises(ConfigError, match=key):
        load_config(ROOT / "configs" / "demo" / "san.yaml", [*tiny_overrides(), key, value])


def test_a_single_data_set_is_told_how_to_write_it(tiny_overrides):
    with pytest.raises(ConfigError, match=r"""it is a list: DATASETS.TEST "\('tiny_val',\)".*TEST: \['tiny_val'\]"""):
        load_config(ROOT / "configs" / "demo" / "san.yaml", [*tiny_overrides(), "DATASETS.TEST", "tiny_val"])


VALUES = [
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "-0.5",
    "1e39",
    "1e-9",
    "float('nan')",
    ".nan",
    ".inf",
    "None",
    "True",
    "[]",
    "()",
]
VALUES += [
    "(0,)",
    "(-1,)",
    "((1, 2), 3)",
    "'a'",
    "''",
    "a",
    "~/x",
    "\x00",
    "{}",
    "[[[[1]]]]",
    str(2**31),
    str(2**64),
    "auto",
]


@pytest.mark.parametrize("seed", range(4))
def test_any_value_of_any_key_is_taken_or_refused_by_our_own_error(tiny_overrides, seed):
    rng, common = random.Random(seed), tiny_overrides()
    names = [name for name in KEYS if name != "MODEL.DEVICE"]
    rng.shuffle(names)
    for name in names[seed::4]:
        for value in rng.sample(VALUES, 6):
            try:
                load_config(ROOT / "configs" / "demo" / "san.yaml", [*common, name, value])
            except SanCliptraseError as error:
                assert str(error)


def test_a_run_of_an_earlier_version_is_read(world):
    saved = plain(CfgNode.load_cfg(world.config("san_cliptrase").dump()))
    saved["MODEL"]["CLIPTRASE"].update(EPS=0.31, MIN_SAMPLES=4, REGIONS="cliptrase", CORRELATION="cosine")
    saved["MODEL"]["SAN"]["QUERY_INIT"].update(SOURCE="grid", SCALES=[1.0], GRID_SIDE=4)
    saved["MODEL"]["SAN"].update(SIZE_DIVISIBILITY=32, BIAS_HEADS=0)
    del saved["MODEL"]["REGIONS"]
    cfg = model_config(saved)
    assert (cfg.MODEL.REGIONS.EPS, cfg.MODEL.REGIONS.MIN_SAMPLES, cfg.MODEL.REGIONS.SOURCE) == (0.31, 4, "grid")
    assert {name for name, _ in flat(cfg)} >= set(MODEL_KEYS)
    assert "BIAS_HEADS" not in cfg.MODEL.SAN
    with pytest.raises(ConfigError, match="META_ARCHITECTURE"):
        model_config({"MODEL": {}})
