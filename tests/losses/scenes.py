"""Small ground truth, and predictions that are right about it."""

import torch

from san_cliptrase.losses import MaskTarget

CLASSES, QUERIES, SIDE = 4, 6, 16


def target(*labels: int) -> MaskTarget:
    """One vertical stripe per label, of equal width."""
    columns = torch.arange(SIDE) * max(len(labels), 1) // SIDE
    masks = (
        torch.stack([columns == i for i in range(len(labels))]) if labels else torch.zeros(0, SIDE, dtype=torch.bool)
    )
    return MaskTarget(torch.tensor(labels, dtype=torch.long), masks[:, None].expand(-1, SIDE, -1))


def perfect(found: MaskTarget, order: list[int], sharpness: float = 50.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, Q, K+1) and (1, Q, side, side): query order[i] predicts mask i, the others "no object" and nothing."""
    classes = torch.full((QUERIES,), CLASSES)
    classes[order] = found.labels
    masks = torch.zeros(QUERIES, SIDE, SIDE)
    masks[order] = found.masks.float()
    logits = sharpness * torch.nn.functional.one_hot(classes, CLASSES + 1).float()
    return logits[None], sharpness * (2 * masks[None] - 1)
