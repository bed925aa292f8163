"""SAN as a detectron2 model, with or without queries initialised from CLIPtrase's regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor

from san_cliptrase.builders import clip_from_config, san_parts_from_config, scoring_from_config
from san_cliptrase.clip.batches import ImageBatch
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.voting import Background, decide_pixels
from san_cliptrase.errors import OptionError
from san_cliptrase.losses.criterion import SetCriterion
from san_cliptrase.losses.matcher import HungarianMatcher
from san_cliptrase.losses.targets import MaskTarget, pseudo_targets
from san_cliptrase.meta_arch.inputs import (
    BackgroundReader,
    background_last,
    batch_vocabulary,
    check_views,
    in_given_order,
    merge_scores,
    output_size,
)
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.san.inference import class_scores
from san_cliptrase.san.mask_decoder import MaskPrediction
from san_cliptrase.san.model import Labels, PatchNames, SanModel
from san_cliptrase.san.network import SideAdapterNetwork
from san_cliptrase.san.recognition import MaskClassifier
from san_cliptrase.scoring import PLAIN, Scoring
from san_cliptrase.structures import ClipFeatures, Regions, Size

SCORES_AT_ONCE = 2**26


@META_ARCH_REGISTRY.register()
class SAN(SanModel):
    """``SanModel`` for detectron2: dicts of images in; losses, semantic maps or label maps out.

    Args:
        clip: see ``SanModel``, and all others but those below.
        criterion: training losses; None for inference only.
        background: reads what is background in a test batch.
        scoring: windows, test-time augmentation and refinement of semantic maps.
        anneal_iterations: i of a training iteration from which on no query begins at a region; 0: they always do.

    Raises:
        OptionError: images are not seen once and whole, but the source of regions looks at the ground truth or at
            other images of the batch.
    """

    @configurable
    def __init__(
        self,
        clip: FrozenClip,
        network: SideAdapterNetwork,
        classifier: MaskClassifier,
        criterion: SetCriterion | None,
        region_source: RegionSource | None,
        recognition_blocks: int,
        resolution: float,
        templates: str,
        background: BackgroundReader,
        scoring: Scoring = PLAIN,
        cache_gb: float = 0.0,
        ignore_label: int = 255,
        names: PatchNames | None = None,
        anneal_iterations: float = 0.0,
    ) -> None:
        super().__init__(
            clip,
            network,
            classifier,
            region_source,
            recognition_blocks,
            resolution,
            templates,
            cache_gb,
            ignore_label,
            names,
        )
        self.criterion, self.background, self.scoring = criterion, background, scoring
        self.anneal_iterations = anneal_iterations
        check_views(scoring, self.inference_source)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Reads MODEL, TEST, the length of the schedule and the class list of the training set."""
        return {
            **san_parts_from_config(cfg, clip_from_config(cfg)),
            "criterion": criterion_from_config(cfg),
            "background": BackgroundReader.from_config(cfg),
            "scoring": scoring_from_config(cfg),
            "anneal_iterations": cfg.MODEL.SAN.QUERY_INIT.ANNEAL * cfg.SOLVER.MAX_ITER,
        }

    def forward(self, inputs: list[dict], mask_counts: Sequence[int] | None = None) -> dict[str, Tensor] | list[dict]:
        """Losses in training mode; else semantic maps, whose largest score is the class of :meth:`label_maps`.

        Args:
            inputs: dicts with "image" (3, H, W) uint8 RGB and "vocabulary"; for training "instances" and, for draws
                that do not depend on the batch, "draw_seed"; for inference the output size "height", "width".
            mask_counts: for training, numbers of instances of all images of the batch that these are a part of.

        Returns:
            {"loss_ce": ..., ...}, or dicts with "sem_seg" (K, height, width).
        """
        if self.training:
            return self._train(inputs, mask_counts)
        inputs, places = background_last(inputs)
        maps = self._by_group(inputs, self._semantic_maps)
        return [{"sem_seg": scores if places is None else scores[places.argsort()]} for scores in maps]

    @torch.no_grad()
    @in_given_order
    def label_maps(self, inputs: list[dict]) -> list[Tensor]:
        """The class of every pixel, (height, width) int64 per image; each image gets what it would get alone.

        Args:
            inputs: those of :meth:`forward` in evaluation mode.
        """
        return self._by_group(inputs, self._label_maps)

    @torch.no_grad()
    def label_and_query_maps(self, inputs: list[dict]) -> list[tuple[Tensor, Tensor]]:
        """The class of every pixel and the query whose mask is largest there, both (height, width) int64 per image.

        Args:
            inputs: those of :meth:`forward` in evaluation mode.

        Raises:
            OptionError: scores of several views or refined ones belong to no masks.
        """
        if not self.scoring.is_plain:
            raise OptionError("there are no masks of several views, nor of refined scores: TEST.MASKS needs neither")
        inputs, places = background_last(inputs)
        found = self._by_group(inputs, self._label_and_query_maps)
        return found if places is None else [(places.to(labels.device)[labels], queries) for labels, queries in found]

    def _by_group(self, inputs: list[dict], read: Callable[[list[dict]], Iterable]) -> list:
        """What ``read`` makes of a batch, in parts whose images give together what they give alone."""
        whole_batch = self.inference_source is not None and self.inference_source.needs_batch
        groups = [list(range(len(inputs)))] if whole_batch else self.same_canvas(_images(inputs))
        found: dict = {}
        for group in groups:
            found.update(zip(group, read([inputs[index] for index in group]), strict=True))
        return [found[index] for index in range(len(inputs))]

    def _semantic_maps(self, inputs: list[dict]) -> Iterator[Tensor]:
        text, keep, background = self._words(inputs)
        sizes = [output_size(entry) for entry in inputs]
        if self.scoring.is_plain:
            found = self.scores(_images(inputs), text, sizes, _labels(inputs), keep)
        else:
            scored = (self._scored(entry, text, keep) for entry in inputs)
            found = (
                F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
                for scores, size in zip(scored, sizes, strict=True)
            )
        return (merge_scores(scores, background) for scores in found)

    def _label_maps(self, inputs: list[dict]) -> Iterator[Tensor]:
        if self.scoring.is_plain:
            yield from (labels for labels, _ in self._label_and_query_maps(inputs, queries=False))
            return
        text, keep, background = self._words(inputs)
        for entry in inputs:
            yield decide_pixels(self._scored(entry, text, keep), output_size(entry), background)

    def _label_and_query_maps(self, inputs: list[dict], queries: bool = True) -> Iterator[tuple[Tensor, Tensor | None]]:
        text, keep, background = self._words(inputs)
        sizes = [output_size(entry) for entry in inputs]
        # In strips: neither masks nor the scores of a large vocabulary fit into memory at a photograph's size.
        for logits, masks in self.classified_masks(_images(inputs), text, sizes, _labels(inputs), SCORES_AT_ONCE):
            labels, strongest = [], []
            for strip in masks:
                labels.append(decide_pixels(class_scores(logits, strip, keep), strip.shape[-2:], background))
                if queries:
                    strongest.append(strip.max(0).indices)
            yield torch.cat(labels), torch.cat(strongest) if queries else None

    def _words(self, inputs: list[dict]) -> tuple[Tensor, bool, Background | None]:
        """Text weights, whether the learned background is kept, and what scores over both become."""
        classes, words, background = self.background(inputs)
        return self.clip.text(classes, self.templates, words), self.background.keeps(background), background

    def _scored(self, entry: dict, text: Tensor, keep: bool) -> Tensor:
        """The semantic map of an image at the size at which it is given, of all views and refined."""

        def scores(crops: Sequence[Tensor]) -> Iterator[Tensor]:
            return self.scores(crops, text, [tuple(crop.shape[-2:]) for crop in crops], keep_background=keep)

        return self.scoring.scores(entry["image"], scores)

    def find_regions(
        self,
        features: ClipFeatures,
        images: Sequence[Tensor],
        batch: ImageBatch,
        labels: Labels = (),
        shown: Sequence[Size] | None = None,
    ) -> Regions:
        """Regions of the batch; in training, their number is written to the run's storage."""
        regions = super().find_regions(features, images, batch, labels, shown)
        if self.training:
            counts = regions.valid.sum(1).float()
            storage = get_event_storage()
            # Not smoothed: a resumed run would begin with an empty window, and write other numbers.
            storage.put_scalar("regions/mean_count", counts.mean().item(), smoothing_hint=False)
            storage.put_scalar("regions/images_without", (counts == 0).float().mean().item(), smoothing_hint=False)
        return regions

    def _train(self, inputs: list[dict], mask_counts: Sequence[int] | None) -> dict[str, Tensor]:
        text = self.clip.text(batch_vocabulary(inputs), self.templates)
        images, annealed, regions = _images(inputs), self._annealed(inputs), None
        batch, features = self.encode(images)
        shown = [entry.get("shown_size", tuple(entry["image"].shape[-2:])) for entry in inputs]
        begin = self.network.query_init.trains_with_regions and not annealed.all()
        if begin or self.criterion.pseudo_weight:
            regions = self.find_regions(features, images, batch, _labels(inputs), shown)
        predictions = self.network(batch.tensor, features, regions if begin else None, annealed.to(self.device))
        targets = [self._target(entry, batch.canvas) for entry in inputs]
        if self.criterion.pseudo_weight:
            targets = self._with_pseudo_masks(targets, regions, inputs, shown)
        return self._losses(predictions, features, text, inputs, targets, mask_counts)

    def _target(self, entry: dict, canvas: Size) -> MaskTarget:
        instances = entry["instances"].to(self.device)
        return MaskTarget(instances.gt_classes, _padded(instances.gt_masks.tensor, canvas))

    def _with_pseudo_masks(
        self, targets: list[MaskTarget], regions: Regions, inputs: list[dict], shown: Sequence[Size]
    ) -> list[MaskTarget]:
        found = []
        for target, masks, entry, (height, width) in zip(targets, regions.masks, inputs, shown, strict=True):
            # Filling has no label either, and is no object.
            unlabelled = (entry["sem_seg"][:height, :width] == self.ignore_label).to(masks.device)
            found.append(pseudo_targets(masks, _padded(unlabelled, target.masks.shape[-2:])))
        mean = sum(len(pseudo.labels) for pseudo in found) / len(found)
        get_event_storage().put_scalar("regions/pseudo_masks", mean, smoothing_hint=False)
        return [MaskTarget(*map(torch.cat, zip(*pair, strict=True))) for pair in zip(targets, found, strict=True)]

    def _annealed(self, inputs: list[dict]) -> Tensor:
        """Queries (B, Q) that have lost their regions in this iteration, each with the share of them that is due."""
        count, draws = self.network.adapter.num_queries, []
        if not self.anneal_iterations:
            return torch.zeros(len(inputs), count, dtype=torch.bool)
        due = get_event_storage().iter / self.anneal_iterations
        for entry in inputs:
            # Of the image, as the points of matching and losses, which are drawn by the two seeds before.
            own = torch.Generator().manual_seed(entry["draw_seed"] + 2) if "draw_seed" in entry else None
            draws.append(torch.rand(count, generator=own))
        return torch.stack(draws) < due

    def _losses(
        self,
        predictions: list[MaskPrediction],
        features: ClipFeatures,
        text: Tensor,
        inputs: list[dict],
        targets: list[MaskTarget],
        mask_counts: Sequence[int] | None,
    ) -> dict[str, Tensor]:
        logits = self.classify(predictions, features, text)
        scored = [(block, p.mask_logits) for block, p in zip(logits, predictions, strict=True)]
        seeds = [entry["draw_seed"] for entry in inputs] if "draw_seed" in inputs[0] else []
        return self.criterion(scored, targets, mask_counts, seeds)


def criterion_from_config(cfg: Any) -> SetCriterion | None:
    """The losses, for the classes of the training set; None without one."""
    if not cfg.DATASETS.TRAIN:
        return None
    san = cfg.MODEL.SAN
    weights = (san.CLASS_WEIGHT, san.MASK_WEIGHT, san.DICE_WEIGHT)
    return SetCriterion(
        len(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes),
        HungarianMatcher(*weights, num_points=san.TRAIN_NUM_POINTS),
        *weights,
        no_object_weight=san.NO_OBJECT_WEIGHT,
        pseudo_weight=san.PSEUDO_MASKS,
        num_points=san.TRAIN_NUM_POINTS,
    )


def _padded(masks: Tensor, canvas: Size) -> Tensor:
    height, width = masks.shape[-2:]
    return F.pad(masks, (0, canvas[1] - width, 0, canvas[0] - height))


def _images(inputs: Sequence[dict]) -> list[Tensor]:
    return [entry["image"] for entry in inputs]


def _labels(inputs: Sequence[dict]) -> list[Tensor | None]:
    return [entry.get("sem_seg") for entry in inputs]
