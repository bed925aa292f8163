"""``python -m san_cliptrase.demo``."""

import sys

try:
    from san_cliptrase.demo.run import main
except ImportError as error:
    if error.name != "detectron2":
        raise
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main())
