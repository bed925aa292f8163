"""CLIPtrase, training-free: regions and segmentation from a frozen CLIP. Knows no text, no config, no detectron2."""

from san_cliptrase.cliptrase.pooling import mask_average_pool
from san_cliptrase.cliptrase.segmenter import Cliptrase

__all__ = ["Cliptrase", "mask_average_pool"]
