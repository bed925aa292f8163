"""What methods that read several blocks have in common; each of them has a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.structures import ClipFeatures, Size


class LayerReading(ABC):
    """A way to read CLIP densely that is more than a rule of its last block.

    Attributes:
        truth: Whether it looks at the ground truth: none does.
        surgery: Whether it wants ``cliptrase.voting.feature_surgery``: none does.
    """

    truth = False
    surgery = False

    @abstractmethod
    def taps(self, visual: ClipVisualEncoder) -> tuple[int, ...]:
        """The taps that :meth:`tokens` needs.

        Raises:
            OptionError: The tower has too few blocks; the message says how many are needed.
        """

    @abstractmethod
    def tokens(self, visual: ClipVisualEncoder, features: ClipFeatures) -> Tensor:
        """The tokens (B, T, C) that ``visual.head`` maps to the joint space, [CLS] first.

        Args:
            visual: The tower that made the features.
            features: With ``taps``, without padding: see :func:`grid_by_grid`.
        """


def grid_by_grid(features: ClipFeatures, read: Callable[[ClipFeatures], Tensor]) -> Tensor:
    """Read a padded batch so that each image gets what it gets alone: images of one grid together, without padding.

    Statistics over all patches of an image, as neighbours and quantiles, need no masks this way.

    Args:
        features: A batch with or without padding.
        read: From features without padding to (B, T, ...), [CLS] first.

    Returns:
        (B, T, ...) in the places of the batch; zero at padding.
    """
    if bool(features.valid.all()):
        return read(features)
    groups: dict[Size, list[int]] = {}
    for index, own in enumerate(features.valid.unflatten(1, features.grid)):
        groups.setdefault((int(own.any(1).sum()), int(own.any(0).sum())), []).append(index)
    result = None
    for grid, members in groups.items():
        shown = torch.nn.functional.pad(features.valid[members[0]], (1, 0), value=True)
        tokens = {tap: x[members][:, shown] for tap, x in features.tokens.items()}
        valid = features.valid[members][:, shown[1:]]
        sizes = tuple(features.sizes[i] for i in members)
        found = read(ClipFeatures(tokens, grid, valid, sizes, features.patch_size))
        if result is None:
            result = found.new_zeros(len(features.valid), len(shown), *found.shape[2:])
        rows = torch.tensor(members, device=shown.device)[:, None]
        result[rows, shown.nonzero().T] = found
    return result
