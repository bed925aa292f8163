"""``python -m san_cliptrase.convergence``."""

import sys

try:
    from san_cliptrase.convergence.command import main
except ImportError as error:
    if error.name != "detectron2":
        raise
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main())
