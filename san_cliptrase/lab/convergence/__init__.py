"""How fast variants converge: paired runs, what is measured on their curves, and the report."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
