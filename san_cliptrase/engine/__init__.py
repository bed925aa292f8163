"""Runs: from a configuration file and a command line to a training or an evaluation."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
