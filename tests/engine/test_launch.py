"""``train_net.py`` as a user calls it."""

import json
import re
import socket

import pytest
import torch
from detectron2.modeling import build_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from san_cliptrase.commands.main import train_net as main
from san_cliptrase.engine import processes
from san_cliptrase.engine.launch import build, run
from san_cliptrase.errors import OptionError
from tests.conftest import ROOT, run_options

CONFIGS = ROOT / "configs"
UNTRAINED = ("MODEL.CLIP.NAME", "scenes_vit", "MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", "cpu")


@pytest.fixture
def fails(monkeypatch, tmp_path, capsys):
    """Function of arguments: runs them, expects status 1 and returns the one line of the error."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nothing"))

    def run(config, *arguments):
        capsys.readouterr()
        path = config if config.is_absolute() else CONFIGS / config
        overrides = [*arguments, "OUTPUT_DIR", str(tmp_path / "run")]
        assert main(["--config", str(path), *overrides]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


def test_evaluation_without_training_writes_metrics(world, capsys):
    arguments = ["--config", str(CONFIGS / "demo" / "cliptrase.yaml"), "--eval-only"]
    assert main([*arguments, *world.overrides(datasets__train="()")]) == 0
    report = json.loads((world.output / "metrics_tiny_val.json").read_text())
    table = capsys.readouterr().out
    for metric in ("pAcc", "mAcc", "fwIoU", "mIoU", "mIoU seen", "mIoU unseen"):
        assert metric in table
        assert 0 <= report["metrics"][metric] <= 100
    events = EventAccumulator(str(world.output / "eval_only"))
    events.Reload()
    assert events.Scalars("tiny_val/mIoU")[0].value == pytest.approx(report["metrics"]["mIoU"], rel=1e-5)


def test_training_then_evaluating_the_checkpoint_gives_the_same_numbers(world, tmp_path):
    config = ["--config", str(CONFIGS / "demo" / "san_cliptrase.yaml")]
    assert main([*config, *world.overrides(solver__max_iter=1)]) == 0
    trained = json.loads((world.output / "metrics_tiny_val.json").read_text())
    again = world.overrides(model__weights=str(world.output / "model_final.pth"), output_dir=str(tmp_path / "again"))
    assert main([*config, "--eval-only", *again]) == 0
    assert json.loads((tmp_path / "again" / "metrics_tiny_val.json").read_text()) == trained


def _process(rank, count, folder, arguments):
    torch.set_num_threads(1)
    place = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": count}
    processes._join_group(rank, count, on_cpu=True, **place)
    run(run_options(arguments))
    torch.distributed.destroy_process_group()


def test_the_processes_of_a_launch_share_the_work_and_give_what_one_gives(world, tmp_path):
    # Forked, which is quicker than the start of new ones by `--num-gpus 2 MODEL.DEVICE cpu`.
    changes = {"datasets__test": "('tiny_val', 'tiny_train')", "datasets__train": "()", "test__batch_size": 2}
    arguments = ["--config", str(CONFIGS / "demo" / "cliptrase.yaml"), "--eval-only"]
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        torch.multiprocessing.start_processes(
            _process,
            args=(count, folder, [*arguments, *world.overrides(**changes, output_dir=str(folder))]),
            nprocs=count,
            start_method="fork",
        )
    for name in ("results.csv", "metrics_tiny_val.json", "metrics_tiny_train.json", "confusions_tiny_train.csv"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    assert not list(tmp_path.rglob("*.state"))


def test_two_launches_never_meet_each_other():
    args = run_options(["--config", "a.yaml", "--num-gpus", "2"])
    with processes._meeting_place(args) as one, processes._meeting_place(args) as other:
        assert one.startswith("file:///")
        assert one != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-gpus", "0"), "--num-gpus 0 .*there is one GPU and one machine at least"),
        (("--num-machines", "0"), "there is one GPU and one machine at least"),
        (("--machine-rank", "1"), "machines are counted from 0"),
        (("--num-machines", "2"), "--num-machines 2: say where they meet, by --dist-url"),
        (("--dist-url", "nowhere"), "'nowhere' is no place to meet"),
        (("--dist-url", "tcp://127.0.0.1:many"), "is no place to meet"),
        (("--dist-url", "tcp://127.0.0.1:{port}"), "cannot listen there .*Choose another port"),
    ],
)
def test_a_place_where_processes_cannot_meet_is_told(capsys, options, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = [option.format(port=taken.getsockname()[1]) for option in options]
        assert main(["--config", "a.yaml", "--num-gpus", "2", *options, "MODEL.DEVICE", "cpu"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ["--config", str(CONFIGS / "demo" / "cliptrase.yaml"), "--eval-only", *UNTRAINED]
    assert main([*arguments, "OUTPUT_DIR", str(tmp_path / "file" / "run")]) == 1
    assert f"cannot write to OUTPUT_DIR {tmp_path / 'file' / 'run'}: Not a directory" in capsys.readouterr().err


def test_missing_data_of_the_real_benchmark(fails, tmp_path):
    line = fails(CONFIGS / "cliptrase.yaml", "--eval-only", *UNTRAINED)
    assert "coco_stuff171_val" in line
    assert str(tmp_path / "nothing") in line
    assert "DETECTRON2_DATASETS" in line


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("san", {"MODEL.SAN.SIDE.WIDTH": 33}),
        ("san", {"MODEL.SAN.SIDE.HEADS": 5}),
        ("san", {"MODEL.SAN.SIDE.IMAGE_SIZE": 63}),
        ("san", {"MODEL.SAN.SIDE.PATCH_SIZE": 12, "MODEL.SAN.SIDE.IMAGE_SIZE": 60}),
        ("san", {"MODEL.SAN.SIDE.SUPERVISED": (1, 3)}),
        ("san", {"MODEL.SAN.SIDE.FUSION": ((0, 0), (2, 3))}),
        ("san", {"MODEL.SAN.SIDE.FUSION": ((0, 0), (20, 1))}),
        ("san", {"MODEL.SAN.SIDE.FUSION": ((0, 0), (1, 1), (2, 1))}),
        ("san", {"MODEL.SAN.RECOGNITION_LAYER": -20}),
        ("san", {"MODEL.SAN.QUERY_INIT.MAP_LAYER": 20}),
        ("san", {"MODEL.CLIP.TRAINABLE": ("position",)}),
        ("san", {"MODEL.CLIP.CACHE_GB": 0.1, "MODEL.CLIP.TRAINABLE": ("positional_embedding",)}),
        ("san", {"MODEL.CLIP.NAME": "ViT-B-61"}),
        ("san", {"MODEL.CLIP.PRETRAINED": "sceens"}),
        ("san_cliptrase", {"MODEL.REGIONS.SOURCE": "timm:vit_nowhere"}),
        ("cliptrase", {"MODEL.CLIPTRASE.ATTENTION": "vv-mlp+dual9+surgery"}),
        ("cliptrase", {"MODEL.CLIPTRASE.CLS_LAYER": -20, "MODEL.CLIPTRASE.CLASSIFY": "cls"}),
        ("cliptrase", {"MODEL.CLIPTRASE.CLASSIFY": "votes"}),
        ("cliptrase", {"MODEL.CLIP.TEMPLATES": "some"}),
        ("cliptrase", {"MODEL.DEVICE": "cpux"}),
    ],
)
def test_what_only_the_model_can_refuse_names_the_key_that_asked_for_it(world, config, changes):
    with pytest.raises(OptionError, match=rf"\b{next(iter(changes))}\b"):
        build(build_model, world.config(config, **changes))


@pytest.mark.parametrize("config", ["cliptrase.yaml", "san.yaml"])
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("MODEL.CLIP.NAME", "ViT-B-61"), ("ViT-B-61", "did you mean", "ViT-B-16")),
        (("MODEL.CLIP.PRETRAINED", "sceens"), ("sceens", "scenes")),
        (("MODEL.META_ARCHITECTURE", "SANN"), ("SANN",)),
        (("MODEL.CLIPTRASE.ATTENTION", "sclop"), ("sclop", "sclip")),
        (("MODEL.CLIPTRASE.CLASSIFY", "votes"), ("votes", "mean_logits")),
    ],
)
def test_what_does_not_exist(fails, config, overrides, expected):
    options = ["--eval-only"] if config == "cliptrase.yaml" else []
    line = fails(CONFIGS / "demo" / config, *options, *UNTRAINED, *overrides)
    assert all(word in line for word in expected), line


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("SOLVER.OPTIMIZER", "SGD"), "AdamW"),
        (("MODEL.SAN.QUERY_INIT.NAME", "tokes"), "tokens_prior"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "nowhere.pth"),
        (("MODEL.CLIP.TRAINABLE", "('position',)"), "position"),
        (("NO.KEY", "1"), "NO.KEY"),
    ],
)
def test_values_that_cannot_be_trained_with(fails, overrides, expected):
    assert expected in fails(CONFIGS / "demo" / "san.yaml", *UNTRAINED, *overrides)


def test_cliptrase_is_not_trained(fails):
    assert "--eval-only" in fails(CONFIGS / "demo" / "cliptrase.yaml", *UNTRAINED)


def test_a_damaged_label_file_ends_training_in_one_line(world, capsys, tiny_data, tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from san_cliptrase.data.datasets import register

    record = {"file_name": str(tiny_data / "tiny_train/images/0.png"), "image_id": "0"}
    record["sem_seg_file_name"] = str(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    register("broken", lambda: [record], ["grass"])
    try:
        arguments = world.overrides(datasets__train=("broken",), test__eval_period=0)
        assert main(["--config", str(CONFIGS / "demo" / "san.yaml"), *arguments]) == 1
    finally:
        DatasetCatalog.remove("broken")
        MetadataCatalog.remove("broken")
    assert "broken.png" in capsys.readouterr().err.splitlines()[-1]
