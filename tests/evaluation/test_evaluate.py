"""Evaluations as users run them: protocols, several processes, kills, bad files and full disks."""

import csv
import errno
import io
import json
import logging
import os
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from san_cliptrase import builders
from san_cliptrase.commands.main import main as command
from san_cliptrase.commands.main import train_net as main
from san_cliptrase.data.datasets import load_pairs, register
from san_cliptrase.errors import ConfigError, NotFiniteError, StateError
from san_cliptrase.evaluation import evaluate as evaluation
from san_cliptrase.evaluation import pictures
from san_cliptrase.evaluation.evaluate import evaluate, evaluate_only
from san_cliptrase.evaluation.paper import paper_numbers
from san_cliptrase.evaluation.results import Evaluated, show
from san_cliptrase.evaluation.state import StateFile
from san_cliptrase.protocols import OTHER, WINDOW_PROTOCOLS
from san_cliptrase.scenes import CLASS_NAMES, UNSEEN_CLASSES
from tests.conftest import ROOT, write_scenes

PATCHES = {"model__cliptrase__classify": "patches"}
CLIPER_ON_VOC = {"model__cliptrase__attention": "cliper", "datasets__test": ("voc20_val", "voc21_val")}
SMALL = {"test__size": 64, "test__slide__side": 64, "test__slide__window": 48, "test__slide__stride": 24}
ONE_BY_ONE = {"test__batch_size": 1, "test__save_seconds": 0.0}
RESULTS = ("metrics_tiny_val.json", "classes_tiny_val.csv", "confusions_tiny_val.csv", "results.csv")


class Killed(BaseException):
    pass


def counted(path):
    """The report without what differs between machines that share the work."""
    return json.loads((path / "metrics_tiny_val.json").read_text())


def evaluate_tiny(world, folder, name="cliptrase", resume=False, kill_after=None, **changes):
    """One evaluation in a folder; returns how many images the model saw. ``kill_after`` breaks off after as many."""
    cfg = world.config(name, output_dir=str(folder), **{**ONE_BY_ONE, **changes})
    torch.manual_seed(0)
    model, seen = build_model(cfg), []
    label_maps = model.label_maps

    def watched(inputs):
        if len(seen) == kill_after:
            raise Killed
        seen.extend(entry["image_id"] for entry in inputs)
        return label_maps(inputs)

    model.label_maps = watched
    evaluate_only(cfg, model, resume)
    return seen


@pytest.mark.parametrize("protocol", ["whole", "cliptrase", "slide", "unsupervised"])
def test_the_command_line_runs_a_protocol_and_names_it(world, capsys, protocol):
    changes = {**SMALL, "test__protocol": protocol, "test__unsupervised__clusters": 3, "datasets__train": "()"}
    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--eval-only"]
    assert main([*config, *world.overrides(**changes)]) == 0
    table = capsys.readouterr().out
    assert f"protocol {protocol}: " in table
    assert "pAcc" in table
    report = counted(world.output)
    assert report["protocol"] == protocol
    assert report["images"] == 3
    assert ("mIoU (CLIPtrase script)" in report["metrics"]) == (protocol == "cliptrase")
    # Squares hold size^2 pixels at most; whole images all of theirs.
    pixels = sum(row["pixels"] for row in report["classes"])
    assert pixels == (3 * 64**2 if protocol in ("cliptrase", "unsupervised") else 96 * 96 + 96 * 72 + 64 * 96)
    with open(world.output / "classes_tiny_val.csv", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == list(CLASS_NAMES)
    assert not list(world.output.glob("*.state"))


def test_pictures_show_images_beside_their_predictions(world, monkeypatch):
    drawn, draw = [], pictures.draw_comparison
    monkeypatch.setattr(pictures, "draw_comparison", lambda *given: drawn.append(given) or draw(*given))
    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--pictures", "2"]
    assert command(["evaluate", *config, *world.overrides(**PATCHES, datasets__train="()")]) == 0
    files = sorted((world.output / "pictures" / "tiny_val").iterdir())
    assert [path.name for path in files] == ["00000_0.png", "00002_2.png"]  # the first and the last of three
    for path, (image, prediction, truth, names, *_) in zip(files, drawn, strict=True):
        record = next(one for one in DatasetCatalog.get("tiny_val") if path.stem.endswith(f"_{one['image_id']}"))
        np.testing.assert_array_equal(truth, np.asarray(Image.open(record["sem_seg_file_name"])))
        assert image.shape == (*truth.shape, 3) and prediction.shape == truth.shape
        assert np.abs(image - np.asarray(Image.open(record["file_name"])).astype(int)).mean() < 20
        assert names == list(CLASS_NAMES)
        Image.open(path).verify()
    with pytest.raises(ConfigError, match="TEST.PICTURES shows classes"):
        world.config("cliptrase", test__protocol="unsupervised", test__pictures=1)


def test_masks_of_queries_are_scored_beside_the_classes(world):
    changes = {**SMALL, "test__masks": True}
    found = evaluate(world.config("san_cliptrase", **changes), world.model("san_cliptrase", **changes), None)
    plain = evaluate(world.config("san_cliptrase", **SMALL), world.model("san_cliptrase", **SMALL), None)
    metrics = found["tiny_val"]
    assert {name: value for name, value in metrics.items() if "masks" not in name} == pytest.approx(
        plain["tiny_val"], nan_ok=True
    )
    assert metrics["mIoU of masks"] > metrics["mIoU"]
    for name, wrong in (("cliptrase", {}), ("san", {"test__flip": True})):
        with pytest.raises(ConfigError, match="TEST.MASKS scores the masks"):
            world.config(name, test__masks=True, **wrong)


@pytest.mark.parametrize(("protocol", "name"), [("cliptrase", "cliptrase"), ("whole", "san"), ("slide", "san")])
def test_the_size_of_batches_changes_nothing(world, tmp_path, protocol, name):
    changes = {**SMALL, "test__protocol": protocol}
    scores = [
        evaluate(world.config(name, test__batch_size=n, **changes), world.model(name, **changes), None)["tiny_val"]
        for n in (1, 3)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.05, nan_ok=True)


def test_published_radius_and_core_size_belong_to_the_square_and_the_clip(world):
    def settled(name, size):
        changes = {"test__size": size, "model__clip__name": name, "model__regions__eps": 0.3}
        node = world.config("cliptrase", test__protocol="cliptrase", **changes).MODEL.REGIONS
        return node.EPS, node.MIN_SAMPLES

    assert [settled("ViT-B/16", size) for size in (224, 336)] == [(0.7, 3), (1.1, 7)]
    assert settled("ViT-B-16", 64) == settled("ViT-L-14", 224) == settled("ViT-L-14-336", 336) == (0.3, 2)


def test_the_papers_row_is_named_as_the_papers(world, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(evaluation, "paper_numbers", lambda *_: {"pAcc": 12.34})
    evaluate_tiny(world, tmp_path)
    line = next(line for line in caplog.text.splitlines() if "12.34" in line)
    assert "tiny_val, the paper's" in line
    assert "supplement; table 3" in caplog.text
    monkeypatch.setattr(evaluation, "paper_numbers", paper_numbers)
    caplog.clear()
    evaluate_tiny(world, tmp_path)
    assert "the paper's" not in caplog.text


def _process(rank, count, folder, world):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    evaluate_tiny(world, folder)
    torch.distributed.destroy_process_group()


def test_two_processes_count_what_one_counts(world, tmp_path):
    evaluate_tiny(world, tmp_path / "one")
    (tmp_path / "two").mkdir()
    context = torch.multiprocessing.start_processes(
        _process, args=(2, tmp_path / "two", world), nprocs=2, start_method="fork"
    )
    assert context is None  # joined, and no process failed
    assert counted(tmp_path / "two") == counted(tmp_path / "one")
    assert not list((tmp_path / "two").glob("*.state"))


def test_several_datasets_in_one_command_are_one_table(world, capsys):
    changes = {**SMALL, "test__protocol": "cliptrase", "datasets__test": "('tiny_val', 'tiny_train')"}
    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--eval-only"]
    assert main([*config, *world.overrides(**changes, datasets__train="()")]) == 0
    title, head, *rows = capsys.readouterr().out.split("results\n")[-1].splitlines()[:4]
    assert title == "protocol cliptrase: central squares of 64 pixels, image and labels"
    assert head.split()[:7] == ["protocol", "words", "thresholds", "pAcc", "mAcc", "fwIoU", "mIoU"]
    assert [row.split()[0] for row in rows] == ["tiny_val", "tiny_train"]
    with open(world.output / "results.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert [row["dataset"] for row in (first, second)] == ["tiny_val", "tiny_train"]
    assert [row["images"] for row in (first, second)] == ["3", "6"]
    assert f"protocol {first['protocol']}" == title
    assert float(first["mIoU"]) == counted(world.output)["metrics"]["mIoU"]
    assert (first["numbers"], first["words"], first["thresholds"]) == ("measured", "class names", "none")


@pytest.mark.parametrize("protocol", WINDOW_PROTOCOLS)
def test_a_papers_windows_from_files_to_a_table_that_says_how(world, capsys, protocol):
    changes = {"test__protocol": protocol, "model__cliptrase__classify": "patches", "datasets__train": "()"}
    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--eval-only"]
    assert main([*config, *world.overrides(**changes)]) == 0
    rules = WINDOW_PROTOCOLS[protocol][OTHER]
    row = capsys.readouterr().out.split("results\n")[-1].splitlines()[2]
    assert f"{protocol}, {rules.side}, windows {rules.window} every {rules.stride}" in row
    assert f"class names  scale {rules.scale:g}, probability 0, area 0" in row
    assert counted(world.output)["images"] == 3


def test_two_protocols_do_not_share_a_table(world):
    cfg = world.config("cliptrase")
    protocols = {"tiny_val": "slide, 336", "tiny_train": "sclip, 336"}
    reports = {
        name: {"metrics": {"mIoU": 1.0}, "paper": None, "row": {"protocol": protocol}}
        for name, protocol in protocols.items()
    }
    with pytest.raises(ConfigError, match="protocols sclip and slide do not belong in one table"):
        show(cfg, Evaluated(reports), show_classes=False)


def test_batches_hold_pictures_of_one_shape(world, tmp_path):
    # 96x96, 96x72 and 64x96, in this order in their folder
    assert evaluate_tiny(world, tmp_path, test__batch_size=2) == ["2", "0", "1"]
    assert evaluate_tiny(world, tmp_path, test__batch_size=1) == ["0", "1", "2"]


@pytest.mark.parametrize("changes", [{}, {"test__batch_size": 2}, {"test__protocol": "cliptrase", "test__size": 64}])
def test_a_killed_evaluation_goes_on_where_it_was(world, tmp_path, changes):
    whole = evaluate_tiny(world, tmp_path / "whole", **changes)
    with pytest.raises(Killed):
        evaluate_tiny(world, tmp_path / "killed", kill_after=2, **changes)
    assert not (tmp_path / "killed" / "metrics_tiny_val.json").exists()
    assert evaluate_tiny(world, tmp_path / "killed", resume=True, **changes) == whole[2:]
    for name in RESULTS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_without_resume_it_begins_anew(world, tmp_path):
    with pytest.raises(Killed):
        evaluate_tiny(world, tmp_path, kill_after=2)
    assert len(evaluate_tiny(world, tmp_path)) == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"test__protocol": "cliptrase"}, "TEST.PROTOCOL was whole, is cliptrase"),
        ({"model__regions__eps": 0.5}, "MODEL.REGIONS.EPS was 0.8, is 0.5"),
        ({"test__max_images": 2}, "images was"),
    ],
)
def test_what_another_configuration_has_counted_is_refused(world, tmp_path, changes, named):
    with pytest.raises(Killed):
        evaluate_tiny(world, tmp_path, kill_after=1)
    with pytest.raises(StateError, match=named):
        evaluate_tiny(world, tmp_path, resume=True, **changes)


def test_other_weights_and_damaged_states_are_refused(world, tmp_path):
    with pytest.raises(Killed):
        evaluate_tiny(world, tmp_path, kill_after=1)
    cfg = world.config("cliptrase", output_dir=str(tmp_path), **ONE_BY_ONE)
    torch.manual_seed(1)
    with pytest.raises(StateError, match="weights was"):
        evaluate_only(cfg, build_model(cfg), resume=True)
    (state,) = tmp_path.glob("*.state")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(StateError, match="cannot read .*tiny_val"):
        evaluate_tiny(world, tmp_path, resume=True)


def test_a_state_of_which_one_byte_is_not_as_it_was_written_is_refused(world, tmp_path):
    with pytest.raises(Killed):
        evaluate_tiny(world, tmp_path, kill_after=1)
    (path,) = tmp_path.glob("*.state")
    content = path.read_bytes()
    state = StateFile(path, torch.load(io.BytesIO(content[59:]), weights_only=True)["settings"], 0.0)
    assert state.load()["done"] == 1
    drawn = random.Random(0)
    for _ in range(300):
        altered, place = bytearray(content), drawn.randrange(len(content))
        kind = drawn.choice(("flip", "cut", "drop", "add"))
        if kind == "flip":
            altered[place] ^= 1 << drawn.randrange(8)
        else:
            altered[place : len(content) if kind == "cut" else place + (kind == "drop")] = (
                b"" if kind != "add" else b"x"
            )
        path.write_bytes(altered)
        if altered != content:
            with pytest.raises(StateError, match=r"cannot read .*\.state: .*without --resume to begin anew"):
                state.load()
    with pytest.raises(StateError, match="cannot read"):
        evaluate_tiny(world, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("san", {}),
        ("san", {**SMALL, "test__protocol": "slide"}),
        ("cliptrase", {}),
        ("cliptrase", {"model__cliptrase__classify": "patches"}),
        ("cliptrase", {"model__cliptrase__classify": "pooled"}),
        ("cliptrase", {**SMALL, "test__protocol": "slide"}),
        ("cliptrase", {**SMALL, "test__protocol": "unsupervised", "test__unsupervised__clusters": 3}),
    ],
)
def test_scores_that_are_not_finite_are_no_class(world, name, changes):
    cfg, model = world.config(name, **changes), world.model(name, **changes)
    model.clip.visual.vision.ln_post.weight.data[0] = float("nan")
    with pytest.raises(NotFiniteError, match="are NaN or infinite") as caught:
        evaluate(cfg, model, None)
    assert "unsupervised" in changes.values() or "0.png" in str(caught.value)


@pytest.fixture
def damaged(tmp_path):
    """A dataset of four images: the second cannot be read, the labels of the third have another size."""
    folder = tmp_path / "data"
    write_scenes(folder, 73, 4, True)
    (folder / "images" / "1.png").write_bytes(b"no picture")
    Image.new("L", (7, 5)).save(folder / "labels" / "2.png")
    register("damaged", lambda: load_pairs("damaged", folder / "images", folder / "labels"), CLASS_NAMES)
    yield "damaged"
    DatasetCatalog.remove("damaged")
    MetadataCatalog.remove("damaged")
    evaluation.dataset_records.cache_clear()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_bad_file_ends_it_in_one_line(world, damaged, capsys, workers):
    changes = {"datasets__test": (damaged,), "datasets__train": "()", "dataloader__num_workers": workers}
    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--eval-only"]
    assert main([*config, *world.overrides(**changes)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: cannot read the image ")
    assert "1.png" in last
    assert "--skip-bad" in last


def test_bad_files_are_left_out_counted_and_named(world, damaged, capsys):
    changes = {"datasets__test": (damaged,), "datasets__train": "()"}
    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--eval-only", "--skip-bad"]
    assert main([*config, *world.overrides(**changes)]) == 0
    report = json.loads((world.output / "metrics_damaged.json").read_text())
    assert report["images"] == 2
    first, second = report["skipped"]
    assert "1.png" in first
    assert "2.png" in second
    assert "5x7" in second
    shown = capsys.readouterr().out
    assert "2 image(s) left out" in shown
    assert "1.png" in shown


@pytest.mark.parametrize("options", [("cliptrase.yaml", "--eval-only"), ("san.yaml",)])
def test_a_test_set_without_any_label_is_told_before_a_model_is_built(world, damaged, capsys, monkeypatch, options):
    monkeypatch.setattr(builders, "build_clip", lambda *args: pytest.fail("a CLIP was built"))
    for record in evaluation.dataset_records(damaged):
        with Image.open(record["sem_seg_file_name"]) as labels:
            Image.new("L", labels.size, 255).save(record["sem_seg_file_name"])
    config, *mode = options
    changes = world.overrides(datasets__test=(damaged,), **({"datasets__train": "()"} if mode else {}))
    assert main(["--config", str(ROOT / "configs" / "demo" / config), *mode, *changes]) == 1
    assert "error: no pixel of the test set damaged has a label" in capsys.readouterr().err.splitlines()[-1]
    assert not world.output.exists()


def test_on_a_full_disk_the_numbers_are_shown_and_the_file_is_named(world, capsys, monkeypatch):
    def full(source, target, replace=os.replace):
        if target.name != "config.yaml":  # the first file still had room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    config = ["--config", str(ROOT / "configs" / "demo" / "cliptrase.yaml"), "--eval-only"]
    monkeypatch.setattr("san_cliptrase.files.os.replace", full)
    assert main([*config, *world.overrides(datasets__train="()", test__save_seconds=0.0)]) == 1
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert "metrics_tiny_val.json" in last
    assert "No space left on device" in last
    assert "mIoU unseen" in captured.out.split("results\n")[-1]
    assert "cannot be resumed" in captured.out
    assert sorted(path.name for path in world.output.iterdir()) == ["config.yaml", "log.txt"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"test__protocol": "sliding"},
            "TEST.PROTOCOL is 'sliding'; it must be one of: whole, .*sclip, naclip",
        ),
        ({"test__background": "none"}, "TEST.BACKGROUND is 'none'; it must be one of: words"),
        ({"test__background": "learned"}, "CLIPtrase learns none"),
        ({"test__protocol": "sclip"}, "a vote has none.*TEST.PROTOCOL slide.*such as patches"),
        ({"test__protocol": "sclip", **PATCHES, "test__slide__side": 224}, "SLIDE.SIDE is 224.*leave it at 0"),
        ({"test__protocol": "naclip", **PATCHES, "test__vocabulary": "san"}, "VOCABULARY is 'san'.*words.*of its own"),
        ({"test__slide__stride": 300}, "TEST.SLIDE.STRIDE is 300, WINDOW 224"),
        ({"test__background": "threshold", "test__background_threshold": 1.5}, "BACKGROUND_THRESHOLD is 1.5"),
        ({"test__protocol": "unsupervised", "model__regions__source": "sam"}, "SOURCE is 'sam'"),
        ({"test__protocol": "unsupervised", "model__regions__refine": "pamr"}, "REFINE is 'pamr': leave it at 'none'"),
        ({"test__background": "threshold", "model__cliptrase__attention": "cliper"}, "made of cosines, .* are none"),
        (
            {"test__protocol": "sclip", **PATCHES, **CLIPER_ON_VOC},
            "finds the background of voc21_val by a probability made of cosines",
        ),
    ],
)
def test_values_that_mean_nothing_are_refused(world, changes, named):
    with pytest.raises(ValueError, match=named):
        world.config("cliptrase", **changes)


def test_a_threshold_without_a_background_is_said_to_change_nothing(world, tmp_path, caplog):
    evaluate_tiny(world, tmp_path, test__background="threshold")
    assert "TEST.BACKGROUND threshold changes nothing for tiny_val" in caplog.text


@pytest.mark.parametrize(("kind", "named"), [("words", "words"), ("threshold", "threshold 0.5")])
def test_background_is_named_in_the_table(world, tmp_path, caplog, kind, named):
    caplog.set_level(logging.INFO)
    classes = [*CLASS_NAMES, "background"]
    register("with_background", DatasetCatalog["tiny_val"], classes, UNSEEN_CLASSES, background=("sky", "wall"))
    try:
        evaluate_tiny(world, tmp_path, datasets__test=("with_background",), test__background=kind)
    finally:
        DatasetCatalog.remove("with_background")
        MetadataCatalog.remove("with_background")
        evaluation.dataset_records.cache_clear()
    assert f"with_background (background by {named})" in caplog.text
