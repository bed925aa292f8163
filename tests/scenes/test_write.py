import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from san_cliptrase.errors import OutputError
from san_cliptrase.scenes import CLASS_NAMES, make_scene, write


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setitem(write.SPLITS, "train", (1, 2))
    monkeypatch.setitem(write.SPLITS, "val", (2, 3))
    monkeypatch.setitem(write.SPLITS, "tune", (3, 1))
    write.main(["--output", str(tmp_path)])
    return tmp_path


def test_files_lie_as_those_of_real_datasets_do(root):
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    files = {
        f"{kind}/{split}/{index:04d}.png"
        for kind in ("images", "annotations")
        for split, count in (("train", 2), ("val", 3), ("tune", 1))
        for index in range(count)
    }
    assert found == {*files, "classes.txt"}
    assert (root / "classes.txt").read_text().splitlines() == list(CLASS_NAMES)


def test_files_hold_the_scenes_pixel_by_pixel(root):
    for split, seed, index in (("train", 1, 1), ("val", 2, 1), ("tune", 3, 0)):
        scene = make_scene((seed, index), unseen=split != "train")
        assert np.array_equal(np.asarray(Image.open(root / f"images/{split}/{index:04d}.png")), scene.image)
        assert np.array_equal(np.asarray(Image.open(root / f"annotations/{split}/{index:04d}.png")), scene.labels)


def test_a_root_that_cannot_be_written_to_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot draw the demo scenes into .*DETECTRON2_DATASETS"):
        write.draw_split(tmp_path / "file" / "scenes", "val")


def test_an_interrupted_run_is_taken_up_and_leaves_the_rest_alone(root):
    lost, before = root / "annotations/val/0002.png", {}
    lost.unlink()
    for path in root.rglob("*.png"):
        before[path] = (path.stat().st_mtime_ns, path.read_bytes())
    write.draw_split(root, "val")
    assert lost.exists()
    for path, (time, content) in before.items():
        assert path.read_bytes() == content
        if path.stem != "0002":
            assert path.stat().st_mtime_ns == time, path


def test_a_whole_split_is_not_drawn_again(root, monkeypatch):
    monkeypatch.setattr(write, "process_pool", pytest.fail)
    write.draw_split(root, "train")


def test_needs_no_detectron2(tmp_path):
    code = "import sys; sys.modules['detectron2'] = None; import san_cliptrase.scenes.write"
    subprocess.run([sys.executable, "-c", code], check=True)
