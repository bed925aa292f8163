"""The whole project once through on the embedded world: what ``make demo`` runs."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
