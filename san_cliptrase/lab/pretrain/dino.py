"""Self-distillation with no labels: a student learns to say of one view of a image what its teacher says of another.

Caron et al., "Emerging properties in self-supervised vision transformers" (DINO), 2021. Only what is needed to train a
small ViT of timm on the embedded scenes, see ``lab/pretrain/scenes_dino.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, CENTRE_MOMENTUM = 0.1, 0.04, 0.9


def distillation_loss(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """Cross-entropy of the student's views with the teacher's other views.

    ``mean over g != v of H(softmax((t_g - c) / 0.04), softmax(s_v / 0.1))`` (DINO, eqs. 2 and 3).

    Args:
        student: (V, B, O) outputs; the first G views are those that the teacher saw.
        teacher: (G, B, O) outputs.
        centre: (O,) running mean of the teacher's outputs, which keeps one output from winning everywhere.
    """
    targets = ((teacher.detach() - centre) / TEACHER_TEMPERATURE).softmax(-1)
    entropy = -torch.einsum("gbo,vbo->gv", targets, (student / STUDENT_TEMPERATURE).log_softmax(-1)) / len(student[0])
    other = ~torch.eye(len(teacher), len(student), dtype=torch.bool, device=entropy.device)
    return entropy[other].mean()


class Projector(nn.Module):
    """A backbone's [CLS] feature to O outputs: three layers, unit length, and a last layer of unit weights."""

    def __init__(self, width: int, outputs: int, hidden: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last = weight_norm(nn.Linear(bottleneck, outputs, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1.0)
        self.last.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) -> (B, O)."""
        return self.last(F.normalize(self.layers(features), dim=-1))


class SelfDistillation(nn.Module):
    """Student, teacher and the teacher's centre.

    Args:
        backbone: Images (B, 3, H, W) of any size -> features (B, C).
        width: C.
        outputs: O.
    """

    def __init__(self, backbone: nn.Module, width: int, outputs: int = 1024) -> None:
        super().__init__()
        self.student = nn.Sequential(backbone, Projector(width, outputs))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(outputs))

    def forward(self, global_views: Sequence[Tensor], local_views: Sequence[Tensor]) -> Tensor:
        """The loss of a batch; the teacher sees the global views alone. Views of one size share a pass."""
        with torch.no_grad():
            teacher = self.teacher(torch.cat(list(global_views))).unflatten(0, (len(global_views), -1))
        passes = [self.student(torch.cat(list(views))) for views in (global_views, local_views) if views]
        student = torch.cat(passes).unflatten(0, (len(global_views) + len(local_views), -1))
        loss = distillation_loss(student, teacher, self.centre)
        self.centre.lerp_(teacher.mean((0, 1)), 1 - CENTRE_MOMENTUM)
        return loss

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teacher becomes ``momentum`` of itself and the rest of the student."""
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)
