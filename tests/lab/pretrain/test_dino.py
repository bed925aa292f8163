import json
import math

import pytest
import timm
import torch

from san_cliptrase.lab.pretrain import scenes_dino as pretrain
from san_cliptrase.lab.pretrain.dino import SelfDistillation, distillation_loss


def test_the_loss_is_the_cross_entropy_of_other_views():
    student = torch.tensor([[[0.1, 0.0]], [[0.0, 0.3]], [[0.2, 0.2]]])  # three views of one picture
    teacher = torch.tensor([[[0.04, 0.0]], [[0.0, 0.08]]])
    expected, pairs = 0.0, [(0, 1), (0, 2), (1, 0), (1, 2)]
    for g, v in pairs:
        weights = [math.exp(x / 0.04) for x in (teacher[g, 0] - torch.tensor([0.01, 0.0])).tolist()]
        logits = [math.exp(x / 0.1) for x in student[v, 0].tolist()]
        for a, b in zip(weights, logits, strict=True):
            expected -= a / sum(weights) * math.log(b / sum(logits)) / len(pairs)
    assert abs(distillation_loss(student, teacher, torch.tensor([0.01, 0.0])).item() - expected) < 1e-5


def test_the_teacher_follows_the_student_and_learns_nothing_itself():
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model = SelfDistillation(torch.nn.Sequential(*backbone, torch.nn.Linear(3, 8)), 8, 16)
    model(list(torch.rand(2, 4, 3, 8, 8)), list(torch.rand(2, 4, 3, 4, 4))).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    with torch.no_grad():
        for p in model.student.parameters():
            p += 1
    before = [p.clone() for p in model.teacher.parameters()]
    model.follow(0.75)
    for old, new in zip(before, model.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_training_writes_a_folder_that_timm_loads(tmp_path, monkeypatch):
    pictures = torch.randint(256, (4, 3, 96, 96), dtype=torch.uint8)
    monkeypatch.setattr(pretrain, "draw_pictures", lambda _kind, _count, _workers: (pictures, []))
    pretrain.main(["--output", str(tmp_path), "--steps", "10", "--batch", "2", "--width", "32", "--depth", "1"])
    assert json.loads((tmp_path / "record.json").read_text())["steps"] == 10
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert (model.embed_dim, len(model.blocks), model.patch_embed.patch_size) == (32, 1, (8, 8))


@pytest.mark.parametrize("option", ["--steps", "--batch", "--scenes", "--depth", "--save-every"])
def test_nothing_is_less_than_one(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        pretrain.main(["--output", str(tmp_path / "out"), option, "0"])
    assert f"{option} 0 is less than 1" in capsys.readouterr().err
