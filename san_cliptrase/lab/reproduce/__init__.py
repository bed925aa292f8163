"""Every table and figure of CLIPtrase's paper by one command each: what is measured here, and what the paper says."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
