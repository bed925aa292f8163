"""What the benchmarks share to take time; see ``san_cliptrase.lab.turns``."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from san_cliptrase.lab.turns import clock, turns

__all__ = ["add_device", "clock", "ratio", "turns"]


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: cuda where there is one, else cpu."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")


def ratio(seconds: Sequence[float], plain: Sequence[float]) -> str:
    """Seconds of rounds by those of the plain form in the same rounds: the median, the least and the largest."""
    ratios = [own / base for own, base in zip(seconds, plain, strict=True)]
    return f"{statistics.median(ratios):6.2f} x [{min(ratios):.2f}, {max(ratios):.2f}]"
