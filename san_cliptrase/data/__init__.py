"""Datasets: registration with detectron2, reading, augmentation and loading."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
