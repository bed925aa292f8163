"""``python -m san_cliptrase``: the same as the command ``san-cliptrase``."""

import sys

from san_cliptrase.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
