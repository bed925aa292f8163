"""How the commands start that need detectron2."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn


def start(module: str) -> NoReturn:
    """Runs a module's ``main()`` and exits with what it returns; without detectron2, with how to get it.

    Args:
        module: dotted name.
    """
    try:
        importlib.import_module("san_cliptrase.compat")
        main = importlib.import_module(module).main
    except ImportError as error:
        if error.name != "detectron2":
            raise
        sys.exit(str(error))
    sys.exit(main())
