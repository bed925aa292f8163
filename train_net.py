#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config FILE [--eval-only] [--resume] [KEY VALUE ...]``."""

from san_cliptrase.entry import start

if __name__ == "__main__":
    start("san_cliptrase.engine.launch")
