"""The Python API: images and words in, segmentations out, with a frozen CLIP alone or with a trained SAN."""

from san_cliptrase.segmenter.segmenter import Segmenter
from san_cliptrase.segmenter.stream import FailedImage

__all__ = ["FailedImage", "Segmenter"]
