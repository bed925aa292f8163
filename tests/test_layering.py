"""The direction of imports: downward only, and each heavy library in its one room."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "san_cliptrase"
LEVELS = [  # rooms of one level do not know each other
    {"texts"},
    {"errors", "colors", "choices", "protocols"},
    {"files", "lettering", "structures", "terminal", "weights_files", "raster_files", "pools"},
    {"__init__", "class_lists", "config", "compat", "coco", "device", "images", "drawing", "scenes"}
    | {"locks", "text_tables", "yaml_files"},
    {"clip", "refine"},
    {"regions"},
    {"windows", "strips", "patches"},
    {"scoring"},
    {"cliptrase", "san"},
    {"builders"},
    {"losses", "data"},
    {"segmentation", "meta_arch", "checkpoints"},
    {"segmenter"},
    {"evaluation"},
    {"engine"},
    {"commands"},
    {"app", "lab", "__main__", "train_net"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# library -> the only places (rooms, or files as room/file) that import it
HOMES = {
    "open_clip": {"clip", "lab/pretrain/contrastive", "lab/pretrain/scenes_clip", "lab/pretrain/photo_clip"},
    "timm": {"san/side_adapter", "regions/timm_vit", "lab/pretrain/dino", "lab/pretrain/scenes_dino"},
    "transformers": {"regions/sam"},
    "tabulate": {"text_tables"},
    "sklearn": {"app/offers", "engine/prototypes", "evaluation/unsupervised"},
    "gradio": {"app"},
    "pycocotools": {"coco"},
    "supervision": {"segmentation"},
    "onnxscript": {"segmenter/onnx_export"},
    "detectron2": {
        "compat",
        "losses",
        "data",
        "evaluation",
        "meta_arch",
        "engine",
        "lab",
        "train_net",
    },
}
# What the training-free core must not know.
UNKNOWN_TO_CLIPTRASE = ("san_cliptrase.clip.text", "san_cliptrase.config")


def place(path):
    """room/file of a source file, or its name if it lies at the top: ("clip", "clip/blocks")."""
    inside = path.relative_to(PACKAGE if PACKAGE in path.parents else ROOT).with_suffix("")
    return inside.parts[0], inside.as_posix()


def imported(path, tree):
    """Dotted names of everything that a file imports; relative ones resolved, imported names appended."""
    package = ("san_cliptrase", *path.relative_to(PACKAGE).parts[:-1]) if PACKAGE in path.parents else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parts = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def violations(path, source):
    room, file = place(path)
    if room not in LEVEL:
        yield f"the room {room} has no level in this test"
        return
    tree = ast.parse(source)
    for name in imported(path, tree):
        library, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if library in HOMES and not {room, file} & HOMES[library]:
            yield f"imports {name}: {library} belongs to {sorted(HOMES[library])}"
        if library == "san_cliptrase" and target and not target.startswith("__") and target != room:
            if target not in LEVEL or LEVEL[target] >= LEVEL[room]:
                yield f"imports {name}, which is not below it"
            if room in {"regions", "cliptrase"} and name.startswith(UNKNOWN_TO_CLIPTRASE):
                yield f"imports {name}, which the training-free core does not know"
    if room in {"clip", "cliptrase", "san", "losses", "regions"}:
        names = {getattr(node, "arg", getattr(node, "id", None)) for node in ast.walk(tree)}
        if "cfg" in names:
            yield "reads cfg, which only config, from_config and engine see"


@pytest.mark.parametrize(
    "path", [*sorted(PACKAGE.rglob("*.py")), *ROOT.glob("train_net.py")], ids=lambda p: place(p)[1]
)
def test_imports_run_downward(path):
    assert list(violations(path, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("san/network.py", "from san_cliptrase.cliptrase import regions"),
        ("san/network.py", "from ..cliptrase.regions import Regions"),
        ("san/network.py", "def f():\n    import timm.layers"),
        ("clip/blocks.py", "from san_cliptrase import cliptrase"),
        ("regions/maps.py", "from san_cliptrase.clip.text import encode"),
        ("regions/maps.py", "def f(cfg): ..."),
        ("losses/matcher.py", "from san_cliptrase.data import mapper"),
        ("segmentation.py", "from detectron2.config import get_cfg"),
        ("utils/misc.py", ""),
    ],
)
def test_a_wrong_import_is_seen(file, source):
    assert list(violations(PACKAGE / file, source))
