"""The two models in detectron2's registry: dicts of images in, losses or semantic maps out."""

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
from san_cliptrase.meta_arch.cliptrase import CLIPtrase
from san_cliptrase.meta_arch.san import SAN

__all__ = ["SAN", "CLIPtrase"]
