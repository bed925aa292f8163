"""Files from strangers: whatever is in them, nothing but our own errors comes out.

A few inputs of each kind, always the same ones; FUZZ=20000 tries so many new ones of each kind (docs/reliability.md).
"""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from san_cliptrase import config
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.files import names_in
from san_cliptrase.class_lists import read_class_list, same_for_clip
from san_cliptrase.clip.text_cache import TextCache
from san_cliptrase.data import own
from san_cliptrase.data.mapper import read_labels
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.launch import build
from san_cliptrase.engine.logs import keep_lines, keep_rows
from san_cliptrase.engine.solver import PolynomialSchedule
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.evaluation.state import StateFile
from san_cliptrase.files import is_plain_name
from san_cliptrase.images import read_image, read_values
from san_cliptrase.segmenter.model_files import read_model_file, write_model_file
from tests.conftest import ROOT, TINY
from tests.data.label_files import png as make_png
from tests.data.label_files import tiff as make_tiff

FUZZ = int(os.environ.get("FUZZ", "0"))
IMAGE = torch.arange(3 * 64 * 64).view(3, 64, 64).mul(37).remainder(256).to(torch.uint8)
CONFIG = ROOT / "configs" / "demo" / "san_cliptrase.yaml"


def tries(number):
    return settings(
        max_examples=FUZZ or number,
        derandomize=not FUZZ,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=20), st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
STRANGE = st.sampled_from(
    (
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "&a [*a]",
        "[" * 2000,
        "9" * 5000,
        "'" + "(" * 300 + "'",
        "'" + "-" * 3000 + "1'",
        "_BASE_: ../../../../etc/passwd",
        "_BASE_: https://localhost:1/a.yaml",
        "_BASE_: .",
        "2001-99-99",
        "? [a]\n: b",
        "\0",
        "1: {2: 3}",
    )
)


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def nested(values):
    tree = {}
    for name, value in values.items():
        *above, last = name.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


@st.composite
def edited(draw, content, most=4):
    """Bytes that were some file's content before a few cuts, insertions and altered bytes."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(("cut", "insert", "alter", "end")))
        if kind == "insert":
            content[place:place] = draw(st.binary(max_size=12))
        elif kind == "alter":
            new = draw(st.binary(min_size=1, max_size=4))
            content[place : place + len(new)] = new
        else:
            del content[place : len(content) if kind == "end" else place + draw(st.integers(1, 40))]
    return bytes(content)


KEYS = sorted(leaves(load_config(CONFIG)))
MODEL_KEYS = [key for key in config.KEYS if key.startswith("MODEL.")]
MODEL_VALUES = st.one_of(st.integers(-3, 9), st.floats(), st.text(max_size=9), VALUES)
CONFIGS = st.one_of(
    edited(CONFIG.read_bytes()),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4).map(lambda found: yaml.dump(nested(found)).encode()),
    st.tuples(st.sampled_from(KEYS), STRANGE).map(lambda pair: f"{pair[0].replace('.', ': {')}: {pair[1]}".encode()),
    STRANGE.map(str.encode),
    st.binary(max_size=60),
)


@tries(60)
@given(content=CONFIGS)
def test_configurations(tiny_data, tmp_path, content):
    path = tmp_path / "strange.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except SanCliptraseError as error:
        assert str(error)


@tries(8)
@given(changes=st.dictionaries(st.sampled_from(MODEL_KEYS), MODEL_VALUES, min_size=1, max_size=3))
def test_models_of_strange_values(tiny_data, tmp_path, changes):
    """What is accepted is built, and segments an image."""
    path = tmp_path / "strange.yaml"
    for key, value in changes.items():  # numbers that ask for more memory than there is are the user's to choose
        if isinstance(value, int) and abs(value) > 70:
            changes[key] = 70
    tree = nested({**{name: list(v) if isinstance(v, tuple) else v for name, v in TINY.items()}, **changes})
    path.write_text(yaml.safe_dump({"_BASE_": str(CONFIG), **tree}))
    entry = {"image": IMAGE, "vocabulary": ("grass", "sky"), "height": 64, "width": 64}
    try:
        labels = build(build_model, load_config(path)).eval().label_maps([entry])[0]
    except SanCliptraseError as error:
        assert str(error)
    else:
        assert labels.shape == (64, 64)
        assert 0 <= labels.min() <= labels.max() < 2


WHOLE_ENTRY = {"images": "a", "labels": "b", "classes": ["c", "d"]}
CHANGES = st.dictionaries(st.sampled_from((*WHOLE_ENTRY, "ignore", "background", "colour")), VALUES)
NAMES = st.sampled_from(("mine", "x/../victim", "..", "\x1b[31m")) | SCALARS
ENTRIES = st.dictionaries(NAMES, VALUES | CHANGES.map(lambda changes: {**WHOLE_ENTRY, **changes}), max_size=3)
NAMED_VALUES = st.dictionaries(st.text(max_size=8), VALUES)


@tries(30)
@given(content=st.one_of(CONFIGS, (ENTRIES | NAMED_VALUES).map(lambda found: yaml.dump(found).encode())))
def test_registries_of_datasets(tmp_path, content):
    (tmp_path / "datasets.yaml").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        try:
            entries = own.read_registry()
        except SanCliptraseError as error:
            assert str(error).isprintable() or "\n" in str(error)
            return
    for name, entry in entries.items():
        assert is_plain_name(name)
        assert len({same_for_clip(word) for word in entry.classes}) == len(entry.classes) > 0
        assert entry.ignore not in range(len(entry.classes))


def png(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def whole_state(path):
    state = StateFile(path, {"dataset": "val"}, 0.0)
    state.save({"done": 3, "counts": {"confusion": torch.arange(9).view(3, 3), "images": 3, "bad": []}})
    return state, path.read_bytes()


@tries(60)
@given(data=st.data())
def test_states_of_evaluations(tmp_path, data):
    state, whole = whole_state(tmp_path / "val.state")
    content = data.draw(edited(whole) | st.binary(max_size=60))
    state.path.write_bytes(content)
    if content == whole:
        return
    with pytest.raises(SanCliptraseError, match=r"val\.state"):
        state.load()


class _Clip:
    """What ``write_model_file`` asks of a model's CLIP."""

    name, quick_gelu, mean, std = "scenes_vit", False, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@tries(60)
@given(data=st.data())
def test_exported_models(tmp_path, data):
    model = torch.nn.Linear(3, 2)
    model.clip = _Clip()
    path = write_model_file(tmp_path / "san.safetensors", model, {"MODEL": {"META_ARCHITECTURE": "SAN"}})
    config, clip, state = read_model_file(path)
    path.write_bytes(data.draw(edited(path.read_bytes()) | st.binary(max_size=60)))
    try:
        found = read_model_file(path)
    except SanCliptraseError as error:
        assert str(path) in str(error)
    else:
        assert found[:2] == (config, clip)
        assert all(torch.equal(found[2][name], value) for name, value in state.items())


@tries(60)
@given(data=st.data())
def test_text_caches(tmp_path, data):
    cache, rows = TextCache(tmp_path, torch.nn.Linear(3, 2)), torch.eye(3)
    path = cache.path(("a {}.",))
    path.unlink(missing_ok=True)
    cache.save(("a {}.",), {"sky": rows[0], "sea": rows[1]})
    path.write_bytes(data.draw(edited(path.read_bytes()) | st.binary(max_size=60)))
    found = cache.load(("a {}.",))
    assert not found or (list(found) == ["sky", "sea"] and torch.equal(torch.stack([*found.values()]), rows[:2]))


LINES = b'{"iteration": 0, "total_loss": 1.5}\n{"iteration": 1, "val/mIoU": 5.0}\n'
ROWS = b"iteration,seconds,dataset,mIoU\n0,0,val,5\n2,1.5,val,7\n"


@tries(60)
@given(lines=edited(LINES) | st.binary(max_size=60), rows=edited(ROWS) | st.binary(max_size=60))
def test_logs_of_a_run(tmp_path, lines, rows):
    (tmp_path / "metrics.json").write_bytes(lines)
    (tmp_path / "evaluations.csv").write_bytes(rows)
    keep_lines(tmp_path / "metrics.json", 2)
    for line in (tmp_path / "metrics.json").read_text().splitlines():
        assert json.loads(line)["iteration"] < 2
    try:
        kept = keep_rows(tmp_path / "evaluations.csv", 2)
    except SanCliptraseError as error:
        assert "evaluations.csv" in str(error)
    else:
        assert all(int(row["iteration"]) <= 2 for row in kept)


PICTURES = [
    png(np.arange(96, dtype=np.uint8).reshape(8, 12)),
    png(np.arange(96, dtype=np.uint16).reshape(8, 12)),
    png(np.zeros((8, 12, 3), np.uint8)),
    png(np.zeros((8, 12, 3), np.uint8), "JPEG"),
    png(np.arange(96, dtype=np.uint16).reshape(8, 12), "TIFF"),
]


@tries(60)
@given(content=st.sampled_from(PICTURES).flatmap(edited) | st.binary(max_size=60), classes=st.integers(1, 300))
def test_label_maps_and_images(tmp_path, content, classes):
    path = tmp_path / "strange.png"
    path.write_bytes(content)
    for read in (lambda: read_labels(str(path), classes, 255, (8, 12)), lambda: read_image(path)):
        try:
            read()
        except SanCliptraseError as error:
            assert str(path) in str(error)


@st.composite
def label_files(draw):
    """A PNG or TIFF file, the values that are in it, and whether it was damaged."""
    bits = draw(st.sampled_from((1, 2, 4, 8, 16)))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 11)))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**bits, shape)
    if draw(st.booleans()):
        cut = draw(st.just(0) | st.integers(1, 9))
        kind = {"palette": bits < 16 and draw(st.booleans()), "interlaced": draw(st.booleans())}
        return make_png(values, bits, cut=cut, **kind), values, cut > 0
    values = values.astype(np.uint16 if bits == 16 else np.uint8)
    rows, order = draw(st.none() | st.integers(1, 9)), draw(st.sampled_from("<>"))
    return make_tiff(values, bits, order, draw(st.sampled_from((1, 8))), rows), values, False


@tries(60)
@given(file=label_files(), data=st.data())
def test_values_of_label_files(tmp_path, file, data):
    """Read as they were written; of a PNG, whose parts have check sums, no damage is taken for labels."""
    content, values, short = file
    path = tmp_path / "strange.png"
    damaged = data.draw(edited(content), label="damaged") if content.startswith(b"\x89PNG") else content
    for written, whole in ((content, not short), (damaged, False)):
        path.write_bytes(written)
        try:
            found = read_values(path)
        except SanCliptraseError as error:
            assert not whole
            assert str(path) in str(error)
        else:
            assert not short
            np.testing.assert_array_equal(found, values)


TIFF_TAGS = st.dictionaries(
    st.sampled_from(
        [f"t{tag}" for tag in (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 322, 323, 324, 325, 339)]
    ),
    st.none() | st.integers(0, 9) | st.integers(0, 2**32 - 1) | st.lists(st.integers(0, 300), max_size=4),
    min_size=1,
    max_size=3,
)


@tries(60)
@given(tags=TIFF_TAGS, bits=st.sampled_from((1, 4, 8)), compression=st.sampled_from((1, 8)))
def test_tags_of_tiff_label_files(tmp_path, tags, bits, compression):
    path = tmp_path / "strange.tif"
    path.write_bytes(make_tiff(np.zeros((8, 12), np.uint8), bits, compression=compression, **tags))
    try:
        read_values(path)
    except SanCliptraseError as error:
        assert str(path) in str(error)


@tries(60)
@given(content=st.binary(max_size=60) | edited(b"grass\nsky, air\nwater\n") | st.text(max_size=60).map(str.encode))
def test_vocabularies(tmp_path, content):
    path = tmp_path / "strange.txt"
    path.write_bytes(content)
    try:
        names = read_class_list(path)
    except SanCliptraseError as error:
        assert str(path) in str(error)
    else:
        assert names and len(set(map(same_for_clip, names))) == len(names)


def small_trainer(model):
    """What loads a training state, without the rest of a run."""
    trainer = Trainer.__new__(Trainer)
    trainer._hooks, trainer.amp = [], False
    trainer.optimizer = torch.optim.AdamW(model.parameters())
    trainer.scheduler = PolynomialSchedule(trainer.optimizer, 0.9, 8)
    return trainer


def whole_checkpoint():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    state = {"iteration": 3, "optimizer": optimizer.state_dict(), "grad_scaler": {}, "hooks": {}}
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "trainer": state, "iteration": 3}, file)
    return file.getvalue()


WHOLE = whole_checkpoint()


def with_pickle(content):
    """The checkpoint with another pickle in it, and check sums that fit."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as old, zipfile.ZipFile(file, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, content if member.filename.endswith("data.pkl") else old.read(member))
    return file.getvalue()


with zipfile.ZipFile(io.BytesIO(WHOLE)) as _archive:
    PICKLE = _archive.read(next(name for name in _archive.namelist() if name.endswith("data.pkl")))
TENSORS = st.sampled_from(
    (
        torch.zeros(2, 3),
        torch.zeros(2),
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3, dtype=torch.int8),
    )
)


def saved(data):
    file = io.BytesIO()
    torch.save(data, file)
    return file.getvalue()


CHECKPOINTS = st.one_of(
    edited(WHOLE),
    edited(PICKLE).map(with_pickle),
    VALUES.map(pickle.dumps).map(with_pickle),
    VALUES.map(pickle.dumps),
    st.fixed_dictionaries({"weight": TENSORS | VALUES, "bias": TENSORS}).map(lambda model: saved({"model": model})),
    st.dictionaries(
        st.sampled_from(("model", "iteration", "optimizer", "weight", "bias")) | st.text(max_size=5), VALUES
    )
    .map(lambda state: {"model": torch.nn.Linear(3, 2).state_dict(), "trainer": state})
    .map(saved),
    VALUES.map(lambda value: saved({"model": value, "trainer": value})),
)


def test_the_checkpoint_that_is_altered_below_loads(tmp_path):
    (tmp_path / "whole.pth").write_bytes(WHOLE)
    model = torch.nn.Linear(3, 2)
    trainer = small_trainer(model)
    SafeCheckpointer(model, str(tmp_path), trainer=trainer).load(str(tmp_path / "whole.pth"))
    assert trainer.iter == 3


@tries(80)
@given(content=CHECKPOINTS)
def test_checkpoints(tmp_path, content):
    (tmp_path / "model_0000001.pth").write_bytes(content)
    (tmp_path / "last_checkpoint").write_bytes(b"model_0000001.pth")
    assert all(isinstance(name, str) for name in names_in(tmp_path / "model_0000001.pth"))
    model = torch.nn.Linear(3, 2)
    try:
        SafeCheckpointer(model, str(tmp_path), trainer=small_trainer(model)).resume_or_load("", resume=True)
    except SanCliptraseError as error:
        assert str(tmp_path) in str(error)
