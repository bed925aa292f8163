import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from san_cliptrase.engine.defaults import enter_folder, load_config, setup
from san_cliptrase.engine.run_folder import RunFolder
from san_cliptrase.errors import ConfigError
from tests.conftest import ROOT, run_options

BASE = ROOT / "configs" / "demo" / "san.yaml"


def write(path, text):
    path.write_text(text)
    return path


def test_files_build_on_files_and_the_command_line_has_the_last_word(tmp_path):
    write(
        tmp_path / "base.yaml", "VERSION: 2\nMODEL: {META_ARCHITECTURE: SAN}\nSEED: 1\nLOG_PERIOD: 1\nVIS_IMAGES: 1\n"
    )
    path = write(tmp_path / "mine.yaml", "_BASE_: base.yaml\nLOG_PERIOD: 2\nVIS_IMAGES: 2\n")
    cfg = load_config(path, ["VIS_IMAGES", "3"])
    assert (cfg.SEED, cfg.LOG_PERIOD, cfg.VIS_IMAGES) == (1, 2, 3)


def test_the_device_is_found(monkeypatch):
    monkeypatch.setattr("torch.empty", lambda *_, device: SimpleNamespace(device=torch.device(device), cpu=list))
    for found, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda found=found: found)
        assert device == load_config(BASE).MODEL.DEVICE
        assert load_config(BASE, ["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"


@pytest.mark.parametrize("name", ["cuda:99", "meta", "nowhere"])
def test_a_device_that_cannot_be_used_is_named(name):
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE: device '{name}' cannot be used"):
        load_config(BASE, ["MODEL.DEVICE", name])


def test_an_unknown_key_of_the_command_line_is_named_with_its_neighbour():
    with pytest.raises(ConfigError, match=r"MODEL\.SAN\.NUM_QUERYS.*did you mean MODEL\.SAN\.NUM_QUERIES") as caught:
        load_config(BASE, ["MODEL.SAN.NUM_QUERYS", "8"])
    assert str(BASE) in str(caught.value)


def test_a_key_that_has_another_name_now_is_named_with_it(tmp_path):
    path = write(tmp_path / "old.yaml", "VERSION: 2\nMODEL:\n  CLIPTRASE:\n    VOTE: False\n")
    for arguments in ((path,), (BASE, ["MODEL.CLIPTRASE.VOTE", "False"])):
        with pytest.raises(ConfigError, match=r"renamed to MODEL\.CLIPTRASE\.CLASSIFY.*False is patches"):
            load_config(*arguments)


def test_an_unknown_key_of_a_file_is_named_with_its_neighbour(tmp_path):
    path = write(tmp_path / "mine.yaml", "VERSION: 2\nSOLVER:\n  BASE_LRR: 0.1\n")
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LRR.*did you mean SOLVER\.BASE_LR"):
        load_config(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SEED"], "odd length"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["DATASETS.TEST", "('coco_stuff171',)"], "unknown dataset 'coco_stuff171'.*coco_stuff171_val"),
        (["SEED", "-1"], "SEED is -1"),
        (
            ["DATASETS.TEST", "street_val"],
            r"a list: DATASETS\.TEST \"\('street_val',\)\".*TEST: \['street_val'\]",
        ),
        (["DATASETS.TEST", "('street_val')"], r"DATASETS\.TEST \"\('street_val',\)\""),
        (["INPUT.MIN_SIZE_TRAIN", "640"], r"it is a list: INPUT\.MIN_SIZE_TRAIN \"\(640,\)\""),
        (
            ["DATASETS.TEST", "('x/../../victim',)"],
            "DATASETS.TEST has 'x/../../victim', which is not the name of a dataset",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(BASE, overrides)


def test_a_message_about_one_value_does_not_repeat_all_others():
    with pytest.raises(ConfigError, match=r"yaml with overrides: Non-existent key: SEEED; did you mean SEED") as error:
        load_config(BASE, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", "x" * 300, "SEEED", "1"])
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "MODEL: [1, 2]\nVERSION: 2\n", "a: [1\nb: {"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, text):
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no configuration file .*nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    path = write(tmp_path / "mine.yaml", "_BASE_: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml.*nowhere\.yaml"):
        load_config(path)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:os.mkdir"])
def test_python_in_yaml_is_refused_and_not_run(tmp_path, tag, hidden):
    made = tmp_path / "made"
    path = write(tmp_path / "evil.yaml", f"VERSION: 2\nOUTPUT_DIR: !!python/{tag} [{made}]\n")
    if hidden:
        path = write(tmp_path / "innocent.yaml", "_BASE_: evil.yaml\nSEED: 1\n")
    with pytest.raises(ConfigError, match=r"not plain YAML.*python/") as caught:
        load_config(path)
    assert "evil.yaml" in str(caught.value)
    assert not made.exists()


def test_a_tuple_tag_is_no_exception(tmp_path):
    path = write(tmp_path / "mine.yaml", "VERSION: 2\nDATASETS:\n  TRAIN: !!python/tuple [demo_scenes_train]\n")
    with pytest.raises(ConfigError, match="not plain YAML"):
        load_config(path)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("relative", "(64, 0.5)", "a share of the image is at most 1"),
        ("relative_range", "(2, 0.5)", "a share of the image is at most 1"),
        ("absolute", "(64, 0.5)", "pixels are whole numbers"),
        ("absolute_range", "(64, 32)", "the shortest side comes first"),
    ],
)
def test_sizes_of_crops_mean_what_the_kind_of_crop_says(world, kind, size, message):
    with pytest.raises(ConfigError, match=rf"INPUT\.CROP\.SIZE is .*{kind}: {message}"):
        world.config(input__crop__type=kind, input__crop__size=size)


def entered(args, begins=False):
    """The configuration of a run that has entered its folder."""
    cfg = setup(args)
    with RunFolder(Path(cfg.OUTPUT_DIR)) as place:
        enter_folder(cfg, args, place)
        if begins:
            place.begin(cfg)
    return cfg


def test_a_run_has_a_folder_with_its_configuration(world):
    args = run_options(["--config", str(BASE), *world.overrides(seed=3)])
    cfg = entered(args, begins=True)
    assert cfg.is_frozen()
    again = load_config(world.output / "config.yaml")
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert "output" in (world.output / "log.txt").read_text()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"side_adapter_network.query_embed": torch.zeros(1)}}, True),
        ({"model": {"network.query_init.content_strength": torch.zeros(())}}, True),
        ({"model": {"network.adapter.query_embed": torch.zeros(1)}}, False),
        ({"model": torch.zeros(1)}, False),
        (torch.zeros(1), False),
        (None, False),
    ],
    ids=["SAN's own format", "begun from that", "ours", "no dictionary of weights", "no dictionary", "no file"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_model_is_built_to_begin_as_plain_san_where_its_weights_need_it(world, tmp_path, content, expected, resume):
    path = tmp_path / "run" / "model_0000001.pth" if resume else tmp_path / "weights.pth"
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        torch.save(content, path)
    if resume:
        (path.parent / "last_checkpoint").write_text(path.name)
    overrides = world.overrides(**({} if resume else {"model__weights": path}))
    arguments = ["--config", str(BASE.with_name("san_cliptrase.yaml")), *(["--resume"] if resume else []), *overrides]
    assert entered(run_options(arguments)).MODEL.SAN.QUERY_INIT.ZERO_INIT is expected


def test_a_damaged_last_checkpoint_leaves_the_start_to_the_one_before_it(world, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"model": {"network.query_init.content_strength": torch.zeros(())}}, run / "model_0000001.pth")
    (run / "model_0000003.pth").write_bytes(b"cut off")
    (run / "last_checkpoint").write_text("model_0000003.pth")
    arguments = ["--config", str(BASE.with_name("san_cliptrase.yaml")), "--resume", *world.overrides(output_dir=run)]
    assert entered(run_options(arguments)).MODEL.SAN.QUERY_INIT.ZERO_INIT


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(ConfigError, match="it is not a regular file but a pipe"):
            load_config(path)


def test_a_short_list_may_have_aliases(tmp_path):
    path = write(
        tmp_path / "mine.yaml",
        "VERSION: 2\nMODEL: {META_ARCHITECTURE: SAN}\nDATASETS:\n  TRAIN: &d [demo_scenes_val]\n  TEST: *d\n",
    )
    assert load_config(path).DATASETS.TEST == ("demo_scenes_val",)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases upon aliases are not read"),
        ("a: &a 1\n" + "".join(f"b{i}: *a\n" for i in range(101)), "aliases upon aliases"),
        ("a: &a [" + 9999 * "x, " + "x]\n" + "".join(f"b{i}: *a\n" for i in range(90)), "repeat more than 262144 char"),
        ("a: &a '" + 9999 * "x" + "'\n" + "".join(f"b{i}: *a\n" for i in range(90)), "repeat more than 262144 char"),
        (
            "a: &a {" + "".join(f"k{i}: x, " for i in range(9999)) + "}\nb:\n  <<: [" + 90 * "*a, " + "]\n",
            "repeat more than",
        ),
        ("SEED: 1\nSEED: 2\n", "the key 'SEED' is there twice"),
        ("SOLVER:\n  BASE_LR: 1.0\n  BASE_LR: 2.0\n", "the key 'BASE_LR' is there twice"),
        ("SOLVER:\n  MAX_ITER: 0x" + "f" * 6000 + "\n", "a whole number of more than 100 characters is not read"),
        ("SEED: " + ":".join(["1"] * 50_000) + "\n", "a whole number of more than 100 characters is not read"),
        ("_BASE_: ~nobody_has_this_name/a.yaml\n", "there is no configuration file .*~nobody_has_this_name"),
        ("_BASE_: mine.yaml\n", "leads back to itself"),
        ("_BASE_: https://example.org/a.yaml\n", "must name a file on this machine"),
        ("_BASE_: [a.yaml]\n", "must name a file on this machine"),
        ("SEED: " + "[" * 5000, "cannot be read as keys and values|not plain YAML"),
        ("SEED: '" + "(" * 500 + "'", "SEED|cannot be read"),
        ("1: 2\n", "with text as keys"),
        ("# " + "x" * 2**20, "more than 1048576 bytes"),
        (
            "MODEL: {META_ARCHITECTURE: SAN}\nDATASETS:\n  TRAIN: [[1], {a: 2}]\n",
            "DATASETS.TRAIN is .* it must be a list",
        ),
    ],
)
def test_what_a_stranger_may_put_into_a_configuration_is_refused(tmp_path, text, message):
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "mine.yaml" in str(caught.value)
