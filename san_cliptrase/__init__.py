"""Open-vocabulary semantic segmentation: training-free CLIPtrase, and SAN trained from its regions."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module; imported when asked for, because torch and open_clip take seconds.
_PUBLIC = {
    "FailedImage": "san_cliptrase.segmenter",
    "Segmentation": "san_cliptrase.segmentation",
    "Segmenter": "san_cliptrase.segmenter",
}
__all__ = ["FailedImage", "Segmentation", "Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
