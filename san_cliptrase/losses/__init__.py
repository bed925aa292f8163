"""Training losses of SAN: set prediction of classified masks."""

import san_cliptrase.compat  # noqa: F401 -- before anything that imports detectron2
from san_cliptrase.losses.criterion import SetCriterion
from san_cliptrase.losses.matcher import HungarianMatcher
from san_cliptrase.losses.targets import MaskTarget

__all__ = ["HungarianMatcher", "MaskTarget", "SetCriterion"]
