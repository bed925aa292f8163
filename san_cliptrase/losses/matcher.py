"""One-to-one matching of predicted with true masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import point_sample
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from san_cliptrase.losses.targets import UNNAMED, MaskTarget


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of every pair, ``mean_p(softplus(x_p) - x_p t_p)``.

    (*, Q, P), (*, N, P) -> (*, Q, N).
    """
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets.mT) / logits.shape[-1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of every pair, ``1 - (2 sum p t + 1) / (sum p + sum t + 1)``.

    (*, Q, P), (*, N, P) -> (*, Q, N).
    """
    probabilities = logits.sigmoid()
    overlap = 2 * probabilities @ targets.mT
    total = probabilities.sum(-1, keepdim=True) + targets.sum(-1)[..., None, :]
    return 1 - (overlap + 1) / (total + 1)


class HungarianMatcher:
    """The assignment of least total cost (Carion et al., "DETR", 2020; Cheng et al., "Mask2Former", 2022).

    ``cost = -w_c softmax(pred_logits)_label + w_m BCE + w_d dice``, the masks compared at random points.
    Unnamed masks come after all others: the queries that are left are assigned to them, by the costs of masks alone.

    Args:
        class_weight: w_c.
        mask_weight: w_m.
        dice_weight: w_d.
        num_points: Points per image, the same for all its pairs.
    """

    def __init__(
        self,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def __call__(
        self, pred_logits: Tensor, mask_logits: Tensor, targets: Sequence[MaskTarget], seeds: Sequence[int] = ()
    ) -> list[tuple[Tensor, Tensor]]:
        """Match every image.

        Args:
            pred_logits: (B, Q, K+1).
            mask_logits: (B, Q, h, w).
            targets: One per image.
            seeds: Of each image's random points; without them, the points are the generator's next.

        Returns:
            Per image (queries, target masks), both (min(Q, N),) int64 on the predictions' device.

        Raises:
            FloatingPointError: A cost is NaN or infinite, because the predictions are.
        """
        counts = [len(target.labels) for target in targets]
        # All images at once: starting small kernels and waiting for copies takes a GPU's host long.
        with torch.autocast(mask_logits.device.type, enabled=False):
            costs = self._costs(pred_logits.float(), mask_logits.float(), targets, seeds).cpu()
        named = (torch.cat([target.labels for target in targets]) != UNNAMED).cpu().split(counts)
        pairs = []
        for image, count in enumerate(counts):
            cost = costs[image, :, :count]
            if not bool(cost.isfinite().all()):
                logits, masks = pred_logits[image], mask_logits[image]
                raise FloatingPointError(
                    f"image {image} of the batch has a matching cost that is not finite: "
                    f"{int((~logits.isfinite()).sum())} class logits and {int((~masks.isfinite()).sum())} mask logits "
                    "are NaN or infinite. Training has diverged: lower SOLVER.BASE_LR, or switch SOLVER.AMP.ENABLED off"
                )
            pairs.append(torch.as_tensor(_assign(cost.numpy(), named[image].numpy()), dtype=torch.int64))
        matched = torch.cat(pairs, dim=1).to(mask_logits.device).split([pair.shape[1] for pair in pairs], dim=1)
        return [(queries, found) for queries, found in matched]

    def _costs(self, logits: Tensor, masks: Tensor, targets: Sequence[MaskTarget], seeds: Sequence[int]) -> Tensor:
        """Costs of all pairs, (B, Q, most targets of an image); the columns beyond an image's targets mean nothing."""
        most = max(len(target.labels) for target in targets)
        points, labels, true = [], [], []
        for image, target in enumerate(targets):
            if seeds:
                torch.manual_seed(seeds[image])
            points.append(torch.rand(1, self.num_points, 2, device=masks.device))
            missing = most - len(target.labels)
            labels.append(F.pad(target.labels.to(logits.device), (0, missing)))
            found = point_sample(target.masks[None].to(masks), points[-1], align_corners=False)[0]
            true.append(F.pad(found, (0, 0, 0, missing)))
        predicted, true = point_sample(masks, torch.cat(points), align_corners=False), torch.stack(true)
        classes = torch.stack(labels)[:, None].expand(-1, logits.shape[1], -1)
        right = logits.softmax(-1).gather(2, classes.clamp(min=0)) * (classes != UNNAMED)
        return (
            -self.class_weight * right
            + self.mask_weight * pairwise_bce(predicted, true)
            + self.dice_weight * pairwise_dice(predicted, true)
        )


def _assign(cost: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Pairs (2, min(Q, N)) of a query and a mask, costs (Q, N): the named masks first, then the rest."""
    free, pairs = np.ones(len(cost), dtype=bool), []
    for masks in (np.flatnonzero(named), np.flatnonzero(~named)):
        queries = np.flatnonzero(free)
        rows, columns = linear_sum_assignment(cost[np.ix_(queries, masks)])
        pairs.append((queries[rows], masks[columns]))
        free[queries[rows]] = False
    return np.concatenate(pairs, axis=1)
