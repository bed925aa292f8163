"""Training-free segmentation with a frozen CLIP: the steps of CLIPtrase in their order. No mathematics in here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from san_cliptrase.clip.cliper import Cliper
from san_cliptrase.clip.dense import dense_taps, read_densely
from san_cliptrase.clip.layers import grid_by_grid
from san_cliptrase.clip.probe import ONE_CLASS, all_alike
from san_cliptrase.clip.readings import dense_reading
from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase.classify import EMBEDDED, classification_blocks, classify_parts, embed_regions, mean_logits
from san_cliptrase.cliptrase.voting import (
    Background,
    decide_pixels,
    majority_vote,
    patch_logits,
    pixel_logits,
    vote_shares,
)
from san_cliptrase.errors import OptionError, WeightsError
from san_cliptrase.regions.controls import patch_classes
from san_cliptrase.regions.maps import image_grids
from san_cliptrase.regions.pixels import patch_masks, pixel_partition
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures


class TrainingFreeReader:
    """What the pixels of images show, from a frozen CLIP alone: CLIPtrase (Shao et al., 2024) and its relatives.

    Args:
        visual: The frozen tower. The published numbers need ``interpolate_offset=0.1``.
        source: Where regions come from; CLIPtrase's is ``RegionFinder``. ``classify="patches"`` needs none.
        attention: How CLIP is read densely: a name or a combination, see ``clip.readings``.
        classify: How the class of a region is found, see ``classify.classify_parts``; ``patches``: regions have no
            say, as in MaskCLIP and SCLIP, and the source is not run.
        cls_layer: ``cls``: the first block that the regions' [CLS] tokens pass, see ``resolve_layer``.
        cls_prior: See ``patch_logits``.

    Attributes:
        taps: Block inputs to ask of the encoder: the source's, that of the last block, more where the attention rule
            has a second path, and with ``cls`` those of all blocks that the regions' [CLS] tokens pass.
        needs_images, needs_labels, needs_batch: See ``RegionSource``; an attention rule with ``truth`` needs labels.

    Raises:
        OptionError: Unknown attention rule or way to classify, a tower of fewer blocks than are needed, or regions are
            to be classified and there is no source.
    """

    def __init__(
        self,
        visual: ClipVisualEncoder,
        source: RegionSource | None = None,
        *,
        attention: str = "cliptrase",
        classify: str = "vote",
        cls_layer: int = -6,
        cls_prior: bool = False,
    ) -> None:
        self.visual, self.source = visual, source
        self.rule = dense_reading(attention)
        self.classify = classify_parts(classify)
        self.cls_blocks = classification_blocks(visual, classify, cls_layer)
        self.cls_prior = cls_prior
        taps = {*dense_taps(visual, self.rule), *(recognition_taps(visual, self.cls_blocks) if self.cls_blocks else ())}
        self.needs_images = self.needs_batch = False
        self.needs_labels = self.rule.truth
        if self.uses_regions:
            if source is None:
                raise OptionError(
                    f"classifying regions by {classify!r} needs a source of regions; 'patches' needs none"
                )
            taps |= set(source.taps)
            self.needs_images, self.needs_batch = source.needs_images, source.needs_batch
            self.needs_labels |= source.needs_labels
        self.taps = tuple(sorted(taps))

    @property
    def uses_regions(self) -> bool:
        """Whether regions have a say in what :meth:`segment` gives."""
        return self.classify != ("patches",)

    @property
    def embedded(self) -> tuple[str, ...]:
        """The ways to classify that embed regions in the joint space."""
        return tuple(name for name in self.classify if name in EMBEDDED)

    @property
    def votes(self) -> bool:
        """Whether :meth:`scores` are shares of a vote, in which background is a class already."""
        return self.classify == ("vote",)

    @property
    def gives_cosines(self) -> bool:
        """Whether :meth:`scores` are cosines of pixels or regions with words, of which a softmax is a probability."""
        return not self.votes and not (isinstance(self.rule, Cliper) and {*self.classify} - {*EMBEDDED})

    @torch.no_grad()
    def dense(self, features: ClipFeatures, classes: Tensor | None = None) -> Tensor:
        """Tokens in the joint space after the last block under the attention rule: (B, T, E), rows of length 1.

        Args:
            features: With ``taps``.
            classes: (B, L), the true class of each patch, for a rule with ``truth``.

        Raises:
            WeightsError: Patches that differ where they enter are all alike where they leave, as after a last block
                whose weights are zero: every pixel would silently be of one class.
        """
        found = F.normalize(self.visual.head(read_densely(self.visual, features, self.rule, classes)), dim=-1)
        if torch.compiler.is_compiling():  # an exported graph raises nothing
            return found
        entering = features.tokens[max(features.tokens)]
        flattened = all_alike(found[:, 1:], features.valid) & ~all_alike(entering[:, 1:], features.valid)
        if flattened.any():
            raise WeightsError(
                "CLIP's features, read densely, are the same at every patch of an image, though the patches are "
                f"not. {ONE_CLASS}"
            )
        return found

    @torch.no_grad()
    def patch_scores(self, features: ClipFeatures, text_weights: Tensor) -> Tensor:
        """How well each word fits each patch, whatever region it is in: (B, L, K); cosines, see ``gives_cosines``.

        Args:
            features: With ``taps``.
            text_weights: (K, E), rows of length 1.
        """
        return self._patch_scores(features, functools.partial(self.dense, features), text_weights, self.cls_prior)

    @torch.no_grad()
    def segment(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        images: Sequence[Tensor] = (),
        background: Background | None = None,
        cls_prior: bool | None = None,
        labels: Sequence[Tensor | None] = (),
    ) -> list[Tensor]:
        """Segment every image of a batch, each as if it were alone, unless the source of regions ``needs_batch``.

        Args:
            features: With ``taps``.
            text_weights: (K + background words, E), rows of length 1.
            images: See ``RegionSource``; may be empty unless ``needs_images``.
            background: What makes a pixel background; words from its index on mean it.
            cls_prior: In place of the one that the object was made with, if it is not None.
            labels: See ``RegionSource``; may be empty unless ``needs_labels``.

        Returns:
            Per image (H, W) int64 class indices at the size that CLIP sees.
        """
        results = []
        for logits, own in self._logits(features, text_weights, images, cls_prior, labels):
            # Background is decided before the vote: its words vote as one class.
            classes = decide_pixels(logits, logits.shape[-2:], background)
            if own is not None:
                classes = majority_vote(classes, own, len(text_weights) + 1) if self.votes else classes[own, 0]
            results.append(classes)
        return results

    @torch.no_grad()
    def scores(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        images: Sequence[Tensor] = (),
        background: Background | None = None,
        cls_prior: bool | None = None,
        labels: Sequence[Tensor | None] = (),
    ) -> Iterator[Tensor]:
        """What is averaged where windows overlap, for the arguments of :meth:`segment`, image by image.

        Yields:
            (K + background words, H, W) logits of the pixels, or of the regions that they are in; with a vote
            ``vote_shares`` (K, H, W), background one of the K.
        """
        count = len(text_weights) if background is None else background.index + 1
        for logits, own in self._logits(features, text_weights, images, cls_prior, labels):
            if self.votes:
                classes = decide_pixels(logits, logits.shape[-2:], background)
                yield vote_shares(classes, own, count)
            else:
                yield logits if own is None else logits[:, own, 0]

    def _logits(
        self,
        features: ClipFeatures,
        text_weights: Tensor,
        images: Sequence[Tensor],
        cls_prior: bool | None,
        labels: Sequence[Tensor | None],
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Per image logits, and the region (H, W) of each pixel; None where there are none.

        The logits are those of the pixels (K, H, W) where there are no regions, where these vote, and where several
        ways to classify are averaged, which leaves no region (None); else those of the regions (K, N, 1).
        """
        prior = self.cls_prior if cls_prior is None else cls_prior
        classes = patch_classes(features, labels) if self.rule.truth else None
        dense = functools.cache(lambda: self.dense(features, classes))
        partitions: Sequence[Tensor | None] = [None] * len(features.sizes)
        if self.source is not None and self.uses_regions:
            partitions = pixel_partition(self.source(images, features, labels), features)
        named = {name: self._named(name, features, dense, partitions, text_weights, prior) for name in self.embedded}
        logits = self._patch_scores(features, dense, text_weights, prior)
        grids = image_grids(features.valid, features.grid)
        for index, (regions, size, grid) in enumerate(zip(partitions, features.sizes, grids, strict=True)):
            own = logits[index][features.valid[index]].unflatten(0, grid)
            canvas = (grid[0] * features.patch_size[0], grid[1] * features.patch_size[1])
            pixels = functools.partial(pixel_logits, own, canvas, size)
            if regions is None:
                yield pixels(), None
                continue
            found = {name: named[name][index].T[..., None] for name in self.embedded}
            if "mean_logits" in self.classify:
                found["mean_logits"] = mean_logits(pixels(), regions)[..., None]
            if len(self.classify) == 1:
                yield found[self.classify[0]] if found else pixels(), regions
            else:
                parts = [found[name][:, regions, 0] if name in found else pixels() for name in self.classify]
                yield torch.stack(parts).mean(0), None

    def _patch_scores(
        self, features: ClipFeatures, dense: Callable[[], Tensor], text_weights: Tensor, prior: bool
    ) -> Tensor:
        """How well each word fits each patch, (B, L, K); CLIPer looks at several levels for it."""
        if isinstance(self.rule, Cliper):
            return grid_by_grid(features, lambda own: self.rule.scores(self.visual, own, text_weights, prior))[:, 1:]
        return patch_logits(dense(), text_weights, prior, self.rule.surgery)

    def _named(
        self,
        name: str,
        features: ClipFeatures,
        dense: Callable[[], Tensor],
        partitions: Sequence[Tensor | None],
        text_weights: Tensor,
        prior: bool,
    ) -> Tensor:
        """How well each word fits each region that is embedded by ``pooled`` or ``cls``, (B, N, K)."""
        none = features.valid.new_zeros(0, features.valid.shape[1])
        masks = [none if r is None else patch_masks(r, features.grid, features.patch_size) for r in partitions]
        blocks = self.cls_blocks if name == "cls" else 0
        found = embed_regions(self.visual, features, dense(), pad_sequence(masks, batch_first=True), blocks)
        return patch_logits(torch.cat([dense()[:, :1], found], dim=1), text_weights, prior, self.rule.surgery)
