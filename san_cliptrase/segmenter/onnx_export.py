"""A segmenter with fixed words as one ONNX graph, which onnxruntime runs on images of any size without PyTorch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from san_cliptrase.clip.layers import LayerReading
from san_cliptrase.cliptrase.voting import Background, pixel_logits
from san_cliptrase.errors import OptionError
from san_cliptrase.files import write_whole
from san_cliptrase.segmenter.method import Method
from san_cliptrase.segmenter.trained_san import TrainedSan
from san_cliptrase.segmenter.training_free import TrainingFree

EXAMPLE = (100, 132)
"""Of the image that the graph is traced with; no size that a model was trained at, which would leave out resampling."""


class Graph(nn.Module):
    """From an image to probabilities, in operations that ONNX has.

    Args:
        method: Copied; its copy is on the CPU, in float32.
        text: (K + background words, E), rows of length 1.
        background: What scores over the words become.
    """

    def __init__(self, method: Method, text: Tensor, background: Background | None) -> None:
        super().__init__()
        self.method, self.background = method, background
        self.register_buffer("text", text.float().cpu())

    @abstractmethod
    def scores(self, image: Tensor) -> Tensor:
        """Scores (K', H, W) of an image (3, H, W) uint8, as :meth:`Method.scores` gives them."""

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (1, classes, H, W) of an image (1, 3, H, W) uint8 RGB, at the size at which it is seen."""
        return self.method.normalise(self.scores(image[0]), self.background)[None]


class SanGraph(Graph):
    """A trained SAN whose queries need no regions."""

    method: TrainedSan

    def __init__(self, method: TrainedSan, text: Tensor, background: Background | None) -> None:
        model = copy.deepcopy(method.model).float().cpu().eval()
        model._cache = None  # looks at the pixels
        super().__init__(TrainedSan(model, method.shorter, method.longest, method.config), text, background)
        self.model = model

    def scores(self, image: Tensor) -> Tensor:
        """See ``Graph``."""
        return next(self.model.scores([image], self.text, [tuple(image.shape[-2:])]))


class DenseGraph(Graph):
    """A training-free reading in which every pixel is classified by itself."""

    method: TrainingFree

    def __init__(self, method: TrainingFree, text: Tensor, background: Background | None) -> None:
        clip, reader = copy.deepcopy((method.clip, method.reader))
        super().__init__(TrainingFree(clip.float().cpu(), reader, method.templates, method.size), text, background)
        self.clip = clip

    def scores(self, image: Tensor) -> Tensor:
        """See ``Graph``."""
        reader = self.method.reader
        features = self.clip.visual(self.clip.normalize(image[None].float() / 255), reader.taps)
        logits = reader.patch_scores(features, self.text)[0]
        canvas = tuple(side * patch for side, patch in zip(features.grid, features.patch_size, strict=True))
        return pixel_logits(logits.unflatten(0, features.grid), canvas, tuple(image.shape[-2:]))


def export_onnx(method: Method, names: Sequence[str], text: Tensor, background: Background | None, path: Path) -> Path:
    """Write ``method`` with fixed words as an ONNX file, whole or not at all.

    Input ``image``: (1, 3, H, W) uint8 RGB, H and W free. Output ``scores``: (1, K, H, W), probabilities of the
    classes. The metadata hold ``names``, a JSON list, and ``shorter_side``, to which images are to be resized.

    Args:
        method: What segments.
        names: Of the K classes.
        text: (K + background words, E), rows of length 1.
        background: What scores over the words become.
        path: The file; ".onnx" is added where it has no ending.

    Returns:
        The path that was written.

    Raises:
        OptionError: The method cannot be written as a graph of ONNX; the message says why. Or onnx or onnxscript is
            not installed: ``pip install 'san_cliptrase[onnx]'``.
        OutputError: The file cannot be written.
    """
    graph = _graph(method, text, background)
    try:
        import onnxscript  # noqa: F401  (an extra of the package, which torch's exporter imports)
    except ImportError as error:
        raise OptionError(
            "ONNX needs the packages onnx and onnxscript: pip install 'san_cliptrase[onnx]' (in a clone: '.[onnx]')"
        ) from error
    image = torch.zeros(1, 3, *EXAMPLE, dtype=torch.uint8)
    free = {"image": {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}}
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of torch, about its own exporter
        program = torch.onnx.export(
            graph,
            (image,),
            dynamo=True,
            dynamic_shapes=free,
            input_names=["image"],
            output_names=["scores"],
            verbose=False,
            optimize=False,  # onnxruntime does it; onnxscript's optimiser fails on SAN
        )
    program.model.metadata_props.update(
        names=json.dumps(list(names)), shorter_side=str(min(method.seen_size((1, 1)))), producer="san_cliptrase"
    )
    path = path if path.suffix else path.with_suffix(".onnx")
    write_whole(path, lambda temporary: program.save(temporary))
    return path


def _graph(method: Method, text: Tensor, background: Background | None) -> Graph:
    if not method.scoring.is_plain:
        raise OptionError("an ONNX graph sees an image once: leave out refine, scales and flip")
    if isinstance(method, TrainedSan):
        if method.model.network.query_init.needs_regions:
            raise OptionError(
                "this SAN's queries start from regions, which DBSCAN or another search finds: ONNX has no operator for "
                "it. Plain SAN, prototypes (MODEL.SAN.QUERY_INIT.NAME off, prototypes) and a SAN trained with "
                "QUERY_INIT.ANNEAL can be written"
            )
        return SanGraph(method, text, background)
    if method.reader.uses_regions:
        raise OptionError(
            "regions come from DBSCAN or another search, and ONNX has no operator for it: classify every pixel by "
            "itself, classify 'patches'"
        )
    if isinstance(method.reader.rule, LayerReading):
        raise OptionError(
            "scclip and cliper choose patches and heads by the image's own statistics, "
            "whose number an ONNX graph would "
            "keep from one size of image: choose a rule of the last block, such as sclip or clip_surgery"
        )
    return DenseGraph(method, text, background)
