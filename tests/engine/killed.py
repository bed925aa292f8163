"""Runs in processes of their own that kill themselves at a chosen moment, as a user's ``kill -9`` would."""

import io
import os
import signal

import torch

from san_cliptrase.checkpoints import checkpointer
from san_cliptrase.engine import hooks
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.trainer import Trainer
from tests.conftest import ROOT, register_tiny

CONFIG = ROOT / "configs" / "demo" / "san_cliptrase.yaml"


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(owner, name, number, before=lambda *_: None):
    """The process ends when ``owner.name`` is called for the ``number``-th time, after ``before`` of its arguments."""
    original, calls = getattr(owner, name), []

    def counting(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            before(*args)
            die()
        return original(*args, **kwargs)

    setattr(owner, name, counting)


def write_half(data, file):
    content = io.BytesIO()
    SAVE(data, content)
    file.write(content.getvalue()[: content.tell() // 2])
    file.flush()


def write_half_a_row(hook, row):
    with open(hook.path, "a") as file:
        file.write(f"{row['iteration']},0.1,tiny")
    with open(hook.path.with_name("metrics.json"), "a") as file:
        file.write('{"data_ti')


SAVE = torch.save
# Checkpoints are written after iterations 2 and 4, the final one at once after the latter; evaluations after 0, 2, 4.
MOMENTS = {
    "before the first checkpoint": (torch.optim.AdamW, "step", 2),
    "between the gradients and the step": (torch.optim.AdamW, "step", 4),
    "inside the writing of the second checkpoint": (checkpointer.torch, "save", 2, write_half),
    "before the second checkpoint is named": (checkpointer.SafeCheckpointer, "tag_last_checkpoint", 2),
    "inside an evaluation": (hooks, "evaluate", 3),
    "inside a row of the evaluations": (hooks.EvaluationHook, "_append", 3, write_half_a_row),
    "between the last checkpoint and the final one": (checkpointer.SafeCheckpointer, "save", 3),
}


def train_and_die(data, overrides, moment):
    torch.set_num_threads(1)
    register_tiny(data)
    die_at_call(*MOMENTS[moment])
    torch.manual_seed(0)
    Trainer(load_config(CONFIG, overrides)).train()
