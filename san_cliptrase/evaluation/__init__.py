"""What a segmentation is worth: the four metrics from one confusion matrix."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
