"""How fast variants converge: paired runs, what is measured on their curves, and the report."""

import contextlib

# Before anything of detectron2. Where that is not installed, `python -m` must get as far as entry.start, which says so.
with contextlib.suppress(ImportError):
    import san_cliptrase.compat  # noqa: F401
