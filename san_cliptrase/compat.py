"""What detectron2 0.6 (2021) misses on a current Python stack, filled in on import and only where it is missing.

Two gaps keep its modules from being imported:

* ``PIL.Image.LINEAR``, a default argument in ``detectron2/data/transforms/transform.py``. Pillow 10 removed the name,
  an alias of ``BILINEAR``.
* ``detectron2._C``, the compiled operators, imported at the top of ``layers/deform_conv.py``,
  ``layers/rotated_boxes.py`` and ``layers/roi_align_rotated.py``. Semantic segmentation uses none of them, and an
  installation without a C++ build has none. A stand-in satisfies the import and raises where an operator is used.

Import this module before anything of detectron2.
"""

from __future__ import annotations

import importlib.util
import types
import warnings

from PIL import Image

from san_cliptrase.errors import SanCliptraseError


class Detectron2Missing(SanCliptraseError, ImportError):
    """detectron2 is not installed; the message says how to get it."""


class _MissingOperators(types.ModuleType):
    """Stands in for ``detectron2._C`` where it was not built."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"detectron2._C.{name} is a compiled operator, and the installed detectron2 has none. "
            "san_cliptrase needs none; for models that do, build detectron2 from source (docs/install.md)."
        )


def fill_gaps() -> None:
    """Fill the two gaps; existing names are left as they are, so calling it again changes nothing.

    Raises:
        Detectron2Missing: detectron2 is not installed.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise Detectron2Missing(
            "detectron2 is not installed for this Python: run `make setup` in the repository, "
            "or see docs/install.md for other ways.",
            name="detectron2",
        )
    # detectron2 and fvcore script a few functions on import; every run would open with the same warnings.
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR

    import detectron2

    if not hasattr(detectron2, "_C") and importlib.util.find_spec("detectron2._C") is None:
        # An attribute of the package, not an entry in sys.modules: `from detectron2 import _C` finds it, while
        # `import detectron2._C`, with which detectron2's environment report asks for a build, still fails.
        detectron2._C = _MissingOperators("detectron2._C")


fill_gaps()
