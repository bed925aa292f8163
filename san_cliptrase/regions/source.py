"""What a source of regions is: images and CLIP's features of them in, ``Regions`` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from san_cliptrase.structures import ClipFeatures, Regions


class RegionSource(Protocol):
    """Where regions come from, for the training-free reading and for SAN's queries alike.

    Sources are plain objects: what networks they hold is not a part of a model's parameters or checkpoints.

    Attributes:
        taps: CLIP taps that the features must have, see ``clip.visual.resolve_layer``.
        needs_images: Whether the source reads images; else none need to be given.
        needs_labels: Whether the source reads label maps.
        needs_batch: Whether the regions of an image come from the others of its batch.
    """

    taps: tuple[int, ...] = ()
    needs_images: bool = False
    needs_labels: bool = False
    needs_batch: bool = False

    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """Find the regions of a batch. No gradient.

        Args:
            images: (3, H, W) in [0, 1], RGB, at any size and without padding; may be empty unless ``needs_images``.
            features: CLIP's features with ``taps``; ``valid`` and ``sizes`` tell images from padding.
            labels: Class indices of each image on its padded canvas, see ``regions.controls.canvas_labels``; may be
                empty unless ``needs_labels``.
        """
        ...

    def forget(self) -> None:
        """Forget what was remembered: CLIP has got other weights."""
