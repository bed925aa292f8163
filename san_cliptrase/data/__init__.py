"""Datasets: registration with detectron2, reading, augmentation and loading."""

import contextlib

# Before anything of detectron2. Where that is not installed, `python -m` must get as far as entry.start, which says so.
with contextlib.suppress(ImportError):
    import san_cliptrase.compat  # noqa: F401
