import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
