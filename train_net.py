#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config FILE [--eval-only] [--resume] [KEY VALUE ...]``."""

import sys

try:
    from san_cliptrase.engine.launch import main
except ImportError as error:
    if error.name != "detectron2":
        raise
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main())
