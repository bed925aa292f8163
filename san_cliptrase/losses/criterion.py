"""The loss of SAN: classification of all queries, masks of the matched ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import point_sample
from detectron2.utils import comm
from torch import Tensor, nn

from san_cliptrase.losses.matcher import HungarianMatcher
from san_cliptrase.losses.targets import UNNAMED, MaskTarget, check_targets

Prediction = tuple[Tensor, Tensor]
Matches = Sequence[tuple[Tensor, Tensor]]


class SetCriterion(nn.Module):
    """Weighted losses of a set of classified masks (Cheng et al., "Mask2Former", 2022; Xu et al., "SAN", 2023).

    Cross-entropy of every query with its matched class or "no object"; binary cross-entropy and dice of matched masks
    at points drawn mostly where the prediction is uncertain (Kirillov et al., "PointRend", 2020). Every supervised
    block is matched and scored alike. A query of an unnamed mask has the losses of masks alone, times
    ``pseudo_weight``: it is trained towards no class, and not towards "no object".

    Args:
        num_classes: K.
        matcher: Finds the pairs.
        class_weight: Weight of ``loss_ce``.
        mask_weight: Weight of ``loss_mask``.
        dice_weight: Weight of ``loss_dice``.
        no_object_weight: Weight of class K inside the cross-entropy.
        pseudo_weight: Weight of unnamed masks beside others.
        num_points: Points per mask.
        oversample_ratio: Candidates per point.
        importance_sample_ratio: Share of the points that are the most uncertain candidates; the rest is random.
    """

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        pseudo_weight: float = 0.0,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.no_object_weight, self.pseudo_weight = no_object_weight, pseudo_weight
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[MaskTarget],
        mask_counts: Sequence[int] | None = None,
        seeds: Sequence[int] = (),
    ) -> dict[str, Tensor]:
        """Score the predictions of all supervised blocks, in float32 whatever their dtype.

        A batch may be shared among processes and cut into parts: the mean over processes of the sums over parts is
        then what the whole batch gives, if every part is told of the whole by ``mask_counts`` and of its images'
        ``seeds``.

        Args:
            predictions: (pred_logits (B, Q, K+1), mask_logits (B, Q, h, w)) per supervised block, the final one last.
            targets: One per image, masks on the canvas that the predicted masks cover. An image may have none.
            mask_counts: Numbers of masks with a class of all images of the whole batch; without them, these images are
                all. Losses are divided by them whatever unnamed masks there are, which other processes need not know.
            seeds: Of each image's random points; without them, the points are the generator's next.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the final block, and with the suffixes ``_0``, ``_1``, ... of
            the blocks before it, each already multiplied by its weight.

        Raises:
            ValueError: Targets and predictions do not fit.
            FloatingPointError: A prediction is NaN or infinite.
        """
        pred_logits, mask_logits = predictions[-1]
        self._check_classes(pred_logits)
        check_targets(targets, len(pred_logits), self.num_classes)
        targets = [MaskTarget(*(part.to(mask_logits.device) for part in target)) for target in targets]
        if mask_counts is None:
            mask_counts = [int((target.labels != UNNAMED).sum()) for target in targets]
        norms = self._norms(mask_counts, pred_logits.shape[1])
        losses = {}
        with torch.autocast(mask_logits.device.type, enabled=False):
            for block, (logits, masks) in enumerate(predictions):
                suffix = "" if block == len(predictions) - 1 else f"_{block}"
                found = self._losses(logits.float(), masks.float(), targets, norms, seeds)
                losses.update({f"{name}{suffix}": self.weights[name] * loss for name, loss in found.items()})
        return losses

    def _norms(self, mask_counts: Sequence[int], num_queries: int) -> tuple[float, float]:
        """What a process divides by: its share of the batch's masks, and of the class weights of its queries."""
        processes = comm.get_world_size()
        matched = sum(min(count, num_queries) for count in mask_counts)
        unmatched = len(mask_counts) * num_queries - matched
        weight = matched + self.no_object_weight * unmatched
        # Not 0 / 0 where nothing is matched and the no-object weight is 0.
        return max(sum(mask_counts), 1) / processes, max(weight, torch.finfo(torch.float32).tiny) / processes

    def _losses(
        self,
        pred_logits: Tensor,
        mask_logits: Tensor,
        targets: Sequence[MaskTarget],
        norms: tuple[float, float],
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        matches = self.matcher(pred_logits, mask_logits, targets, seeds)
        labels = torch.cat([target.labels[found] for target, (_, found) in zip(targets, matches, strict=True)])
        weights = torch.where(labels == UNNAMED, self.pseudo_weight, 1.0)
        loss_mask, loss_dice = self._mask_losses(mask_logits, targets, matches, weights, seeds)
        return {
            "loss_ce": self._class_loss(pred_logits, matches, labels) / norms[1],
            "loss_mask": loss_mask / norms[0],
            "loss_dice": loss_dice / norms[0],
        }

    def _class_loss(self, pred_logits: Tensor, matches: Matches, labels: Tensor) -> Tensor:
        classes = torch.full(pred_logits.shape[:2], self.num_classes, device=pred_logits.device)
        classes[_rows(matches)] = labels
        weights, classes = self.class_weights.to(pred_logits), classes.flatten()
        return F.cross_entropy(pred_logits.flatten(0, 1), classes, weights, ignore_index=UNNAMED, reduction="sum")

    def _mask_losses(
        self,
        mask_logits: Tensor,
        targets: Sequence[MaskTarget],
        matches: Matches,
        weights: Tensor,
        seeds: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Weighted sums over the matched masks of all images; without any, zero with a gradient."""
        logits = mask_logits[_rows(matches)][:, None]
        if not len(logits):
            return logits.sum(), logits.sum()
        with torch.no_grad():
            points = self._uncertain_points(logits, [len(queries) for queries, _ in matches], seeds)
            labels = torch.cat(
                [
                    point_sample(target.masks[found][:, None].to(logits), own, align_corners=False)[:, 0]
                    for target, (_, found), own in zip(
                        targets, matches, points.split([len(found) for _, found in matches]), strict=True
                    )
                    if len(found)
                ]
            )
        logits = point_sample(logits, points, align_corners=False)[:, 0]
        bce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)
        probabilities = logits.sigmoid()
        overlap = 2 * (probabilities * labels).sum(-1)
        dice = 1 - (overlap + 1) / (probabilities.sum(-1) + labels.sum(-1) + 1)
        return (weights * bce).sum(), (weights * dice).sum()

    def _uncertain_points(self, logits: Tensor, counts: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Points (R, P, 2) at which masks (R, 1, h, w) are compared, of ``counts`` masks an image.

        The most uncertain of random candidates, and further random ones (Kirillov et al., 2020, section 3.1), as
        detectron2's ``get_uncertain_point_coords_with_randomness`` takes them; that one draws all its points from one
        state of the generator, and here those of an image follow from its seed alone.
        """
        certain = int(self.importance_sample_ratio * self.num_points)
        drawn = int(self.num_points * self.oversample_ratio), self.num_points - certain
        found = []
        for image, count in enumerate(counts):
            if seeds:
                torch.manual_seed(seeds[image] + 1)  # not the points of the matching
            found.append([torch.rand(count, points, 2, device=logits.device) for points in drawn])
        candidates, others = (torch.cat(parts) for parts in zip(*found, strict=True))
        uncertainty = -point_sample(logits, candidates, align_corners=False)[:, 0].abs()
        chosen = uncertainty.topk(certain, dim=1).indices
        return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), others], dim=1)

    def _check_classes(self, pred_logits: Tensor) -> None:
        if pred_logits.shape[-1] != self.num_classes + 1:
            raise ValueError(
                f"predictions have {pred_logits.shape[-1]} classes; {self.num_classes} and the background were expected"
            )


def _rows(matches: Matches) -> tuple[Tensor, Tensor]:
    """Image and query of every match."""
    queries = [queries for queries, _ in matches]
    counts = torch.tensor([len(own) for own in queries])
    return torch.arange(len(matches)).repeat_interleave(counts).to(queries[0].device), torch.cat(queries)
