#!/usr/bin/env python
"""Train or evaluate: python train_net.py --config configs/demo/san_cliptrase.yaml [--eval-only] [--resume] [KEY VALUE ...]"""

import sys

try:
    from san_cliptrase.engine.launch import main
except ImportError as error:
    if type(error).__name__ != "Detectron2Missing":
        raise
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main())
