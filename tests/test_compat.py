"""san_cliptrase.compat: detectron2 0.6 imports on a current stack, and what is there already stays."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

USED = [
    *("checkpoint", "config", "data", "data.transforms", "engine", "evaluation", "modeling", "modeling.postprocessing"),
    *("projects.point_rend.point_features", "solver", "structures", "utils.collect_env", "utils.events"),
]


def run(code, *path):
    """Run ``code`` in a fresh Python, with the folders of ``path`` before everything else; returns what it printed."""
    lines = [f"import sys; sys.path[:0] = {[str(p) for p in path]}", code]
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_module_we_use_imports_and_the_environment_report_works():
    code = "import importlib, san_cliptrase.compat\n"
    code += f"for name in {USED}: importlib.import_module('detectron2.' + name)\n"
    code += "from detectron2.utils.collect_env import collect_env_info; print(collect_env_info())"
    assert "detectron2" in run(code)


@pytest.fixture
def stand_in():
    from san_cliptrase import compat

    return compat._MissingOperators("detectron2._C")


def test_a_missing_operator_says_so_when_it_is_used_and_only_then(stand_in):
    assert not hasattr(stand_in, "__file__")
    with pytest.raises(RuntimeError, match=r"detectron2\._C\.deform_conv_forward is a compiled operator"):
        stand_in.deform_conv_forward()


def fake_detectron2(folder, built):
    package = folder / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if built:
        (package / "_C.py").write_text("nms = 'built'\n")
    return folder


def test_a_built_detectron2_and_an_old_pillow_keep_what_they_have(tmp_path):
    code = "from PIL import Image; Image.LINEAR = 'old'\nimport san_cliptrase.compat\n"
    code += "from detectron2 import _C; print(Image.LINEAR, _C.nms)"
    assert run(code, fake_detectron2(tmp_path, built=True)).split() == ["old", "built"]


def test_without_a_build_the_import_form_of_the_report_still_fails(tmp_path):
    code = "from PIL import Image\nimport san_cliptrase.compat as compat; compat.fill_gaps()\n"
    code += "from detectron2 import _C; print(type(_C).__name__, Image.LINEAR == Image.BILINEAR)\n"
    code += "try: import detectron2._C\nexcept ImportError: print('not built')"
    out = run(code, fake_detectron2(tmp_path, built=False))
    assert out.split("\n")[:2] == ["_MissingOperators True", "not built"]


def test_a_missing_detectron2_is_one_sentence_that_says_what_to_do(monkeypatch):
    from san_cliptrase import compat

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        compat.fill_gaps()
    message = str(caught.value)
    assert "make setup" in message and "docs/install.md" in message
    assert "\n" not in message and message.count(". ") == 0
