import json

import pytest
import torch

from san_cliptrase.clip.build import build_clip
from san_cliptrase.lab.pretrain import scenes_clip as pretrain


def test_a_clip_of_another_shape_is_written_as_a_folder_that_open_clip_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pretrain,
        "draw_pictures",
        lambda _kind, count, _workers: (
            torch.randint(256, (count, 3, 96, 96), dtype=torch.uint8),
            [["brick", "snow"]] * count,
        ),
    )
    monkeypatch.setattr(pretrain, "retrieval_accuracy", lambda *_, workers: {"accuracy": 0.5})
    pretrain.main(
        ["--output", str(tmp_path), "--layers", "3", "--width", "64", "--scenes", "9", "--steps", "1", "--batch", "2"]
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["layers"], record["width"], record["steps"], record["accuracy"]) == (3, 64, 1, 0.5)
    clip = build_clip(f"local-dir:{tmp_path}", "")
    assert (clip.visual.depth, clip.visual.width, clip.image_size) == (3, 64, (96, 96))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--width", "100", "--width 100 is no multiple of 64"),
        ("--width", "0", "--width 0 is no multiple of 64"),
        ("--layers", "0", "--layers 0: a tower has at least one block"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(tmp_path, capsys, option, value, said):
    with pytest.raises(SystemExit):
        pretrain.main(["--output", str(tmp_path / "clip"), option, value])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()
