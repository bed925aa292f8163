"""What the benchmarks share to take time; see ``san_cliptrase.lab.turns``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from san_cliptrase.lab.turns import clock, turns

__all__ = ["add_device", "clock", "turns"]


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: cuda where there is one, else cpu."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
