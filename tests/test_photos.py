"""``make photos``, with a weights file in the place of the published one."""

import os
import subprocess
import sys

import open_clip
import torch

from san_cliptrase.clip.build import register_shipped_models
from tests.conftest import ROOT


def test_the_photographs_are_segmented_with_a_weights_file(tmp_path):
    register_shipped_models()
    torch.save(open_clip.create_model("scenes_vit").state_dict(), tmp_path / "weights.pt")
    settings = [f"VENV={sys.prefix}", "CLIP=scenes_vit", f"WEIGHTS={tmp_path / 'weights.pt'}"]
    set_up = ["-o", f"{sys.prefix}/.san_cliptrase_setup"]
    done = subprocess.run(
        # Run by `make test`, it would name its folders too.
        ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *set_up, "photos", *settings],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(": ")[0].rpartition("/")[2] for line in done.stdout.splitlines()] == [
        "china.jpg",
        "flower.jpg",
    ]
    assert (tmp_path / "output/photos/flower_overlay.png").exists()
