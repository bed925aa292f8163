"""Training-free segmentation with a frozen CLIP: the steps of CLIPtrase in their order. No mathematics in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from san_cliptrase.clip.attention import attention_rule
from san_cliptrase.clip.dense import dense_taps, read_densely
from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase.classify import EMBEDDED, classification_blocks, embed_regions, mean_logits, patch_masks
from san_cliptrase.cliptrase.voting import (
    Background,
    decide_pixels,
    majority_vote,
    patch_logits,
    pixel_logits,
    vote_shares,
)
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.maps import image_grids, numbered_regions
from san_cliptrase.structures import ClipFeatures, Size


class Cliptrase(RegionFinder):
    """CLIPtrase (Shao et al., 2024) on top of a frozen CLIP image tower: regions, and what their pixels show.

    Args:
        visual: See ``RegionFinder``, and ``eps``, ``min_samples``, ``correlation``.
        attention: How CLIP is read densely: a name or a combination, see ``clip.attention``.
        classify: How the class of a region is found, see ``classify.CLASSIFY``; ``patches``: there are no regions, as
            in MaskCLIP and SCLIP.
        cls_layer: ``cls``: the first block that the regions' [CLS] tokens pass, see ``resolve_layer``.
        cls_prior: See ``patch_logits``.

    Attributes:
        taps: Block inputs to ask of the encoder: those of the second-to-last and the last block, more where the
            attention rule has a second path, and with ``cls`` those of all blocks that the regions' [CLS] tokens pass.

    Raises:
        ValueError: Unknown attention rule, correlation or way to classify, parameters of DBSCAN out of range, or a
            tower of fewer blocks than are needed.
    """

    taps: tuple[int, ...] = (-2, -1)

    def __init__(
        self,
        visual: ClipVisualEncoder,
        eps: float | None = None,
        min_samples: int | None = None,
        attention: str = "cliptrase",
        classify: str = "vote",
        cls_layer: int = -6,
        cls_prior: bool = False,
        correlation: str = "cosine",
    ) -> None:
        super().__init__(visual, eps, min_samples, correlation)
        self.rule = attention_rule(attention)
        self.classify = classify
        self.cls_blocks = classification_blocks(visual, classify, cls_layer)
        of_regions = recognition_taps(visual, self.cls_blocks) if self.cls_blocks else ()
        self.taps = tuple(sorted({*Cliptrase.taps, *dense_taps(visual, self.rule), *of_regions}))
        self.cls_prior = cls_prior

    @torch.no_grad()
    def dense(self, features: ClipFeatures, classes: Tensor | None = None) -> Tensor:
        """Tokens in the joint space after the last block under the attention rule: (B, T, E), rows of length 1.

        Args:
            features: With ``taps``.
            classes: (B, L), the true class of each patch, for a rule with ``truth``.
        """
        return F.normalize(self.visual.head(read_densely(self.visual, features, self.rule, classes)), dim=-1)

    @torch.no_grad()
    def segment(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        sizes: Sequence[Size],
        num_classes: int | None = None,
        background: Background | None = None,
        cls_prior: bool | None = None,
        true_classes: Tensor | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> list[Tensor]:
        """Segment every image of a batch, each as if it were alone.

        Args:
            features: With ``taps``.
            text_weights: (K + background words, E), rows of length 1.
            sizes: True (height, width) of each image in pixels, as given to the encoder.
            num_classes: K; words from there on mean background, which becomes class K. None: no background words.
            background: The same with a threshold on the probability; in place of ``num_classes``.
            cls_prior: In place of the one that the object was made with, if it is not None.
            true_classes: (B, L), see :meth:`dense`.
            regions: Of another source: per image (H, W) int64, the region of each pixel, numbered in any way, or None
                where it has none. None: those of :meth:`partitions`.

        Returns:
            Per image (H, W) int64 class indices.

        Raises:
            ValueError: Regions of another source have not the size of their image.
        """
        if background is None and num_classes is not None:
            background = Background(num_classes)
        results = []
        for logits, own in self._logits(features, text_weights, sizes, cls_prior, regions, true_classes):
            # Background is decided before the vote: its words vote as one class.
            classes = decide_pixels(logits, logits.shape[-2:], background)
            if own is not None:
                voted = self.classify == "vote"
                classes = majority_vote(classes, own, len(text_weights) + 1) if voted else classes[own, 0]
            results.append(classes)
        return results

    @torch.no_grad()
    def scores(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        sizes: Sequence[Size],
        background: Background | None = None,
        cls_prior: bool | None = None,
        regions: Sequence[Tensor | None] | None = None,
    ) -> Iterator[Tensor]:
        """What is averaged where windows overlap, for the arguments of :meth:`segment`, image by image.

        Yields:
            (K + background words, H, W) logits of the pixels, or of the regions that they are in; with a vote
            ``vote_shares`` (K, H, W), background one of the K.
        """
        count = len(text_weights) if background is None else background.index + 1
        for logits, own in self._logits(features, text_weights, sizes, cls_prior, regions):
            if self.classify == "vote":
                classes = decide_pixels(logits, logits.shape[-2:], background)
                yield vote_shares(classes, own, count)
            else:
                yield logits if own is None else logits[:, own, 0]

    @property
    def uses_regions(self) -> bool:
        """Whether regions have a say in what :meth:`segment` gives."""
        return self.classify != "patches"

    def _logits(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        sizes: Sequence[Size],
        cls_prior: bool | None,
        given: Sequence[Tensor | None] | None,
        true_classes: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Per image logits, and the region (H, W) of each pixel; None where there are none.

        The logits are those of the pixels (K, H, W) where there are no regions and where these vote, else those of
        the regions (K, N, 1).
        """
        prior = self.cls_prior if cls_prior is None else cls_prior
        dense, grids = self.dense(features, true_classes), image_grids(features.valid, features.grid)
        if not self.uses_regions:
            partitions: Sequence[Tensor | None] = [None] * len(grids)
        elif given is None:
            partitions = self.partitions(features, sizes)
        else:
            partitions = [numbered_regions(*one) for one in zip(given, sizes, strict=True)]
        if self.classify in EMBEDDED:
            embedded = self._embedded(features, dense, partitions)
            named = patch_logits(embedded, text_weights, prior, self.rule.surgery)
        logits = patch_logits(dense, text_weights, prior, self.rule.surgery)
        for index, (regions, size) in enumerate(zip(partitions, sizes, strict=True)):
            if self.classify in EMBEDDED and regions is not None:
                yield named[index].T[..., None], regions
                continue
            own = logits[index][features.valid[index]].unflatten(0, grids[index])
            pixels = pixel_logits(own, self.canvas(grids[index]), size)
            if self.classify == "mean_logits" and regions is not None:
                pixels = mean_logits(pixels, regions)[..., None]
            yield pixels, regions

    def _embedded(self, features: ClipFeatures, dense: Tensor, partitions: Sequence[Tensor | None]) -> Tensor:
        """[CLS] and the regions of each image in the joint space, (B, 1 + N, E)."""
        none = features.valid.new_zeros(0, features.valid.shape[1])
        masks = [none if r is None else patch_masks(r, features.grid, self.visual.patch_size) for r in partitions]
        found = embed_regions(self.visual, features, dense, pad_sequence(masks, batch_first=True), self.cls_blocks)
        return torch.cat([dense[:, :1], found], dim=1)
