import pytest
import torch

from san_cliptrase.segmenter import Segmenter


@pytest.fixture
def clip_segmenter():
    """Function of options: a training-free segmenter on the shipped architecture with fixed random weights."""

    def build(**options):
        torch.manual_seed(0)
        common = {"reading": "cliptrase", "templates": "none", "device": "cpu"}
        common |= {"text_cache": "", "eps": 0.7, "min_samples": 2}
        return Segmenter.from_clip("scenes_vit", **{"pretrained": "", **common, **options})

    return build
