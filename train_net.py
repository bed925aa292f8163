#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config FILE [--eval-only] [--resume] [KEY VALUE ...]``."""

import sys

from san_cliptrase.commands.main import train_net

if __name__ == "__main__":
    sys.exit(train_net())
