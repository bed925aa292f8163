"""CLIP's features of pictures that come again: a frozen CLIP would only compute them again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.structures import ClipFeatures


class FeatureCache:
    """Runs the frozen image tower on pictures whose pixels it has not seen yet, and remembers the others' tokens.

    It pays where pictures return pixel by pixel: few training pictures that at most are flipped, and evaluations on the
    way. Crops and colours drawn at random never return. Every picture is computed by itself, so that what it gets does
    not depend on its batch, nor on what was remembered.

    Args:
        visual: The image tower, without trainable parameters.
        taps: See ``ClipVisualEncoder.forward``.
        gigabytes: Tokens are kept, on their device, until they take so much; what comes later is computed each time.

    Raises:
        ValueError: The tower has trainable parameters.
    """

    def __init__(self, visual: ClipVisualEncoder, taps: Sequence[int], gigabytes: float) -> None:
        if trainable := [name for name, p in visual.vision.named_parameters() if p.requires_grad]:
            raise ValueError(
                f"MODEL.CLIP.CACHE_GB is {gigabytes}, but features of a CLIP that trains {', '.join(trainable)} do not "
                "stay the same: set it to 0, or MODEL.CLIP.TRAINABLE to ()"
            )
        self.visual, self.taps = visual, tuple(taps)
        self.room = int(gigabytes * 1e9)
        self._kept: dict[bytes, ClipFeatures] = {}

    def clear(self) -> None:
        """Forgets everything: the tower has got other weights."""
        self.room += sum(_size(features) for features in self._kept.values())
        self._kept.clear()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> ClipFeatures:
        """The features of (B, 3, H, W) normalised images, all of whose canvas is picture."""
        found = [self._features(image) for image in images]
        return ClipFeatures(
            tokens={tap: torch.cat([f.tokens[tap] for f in found]) for tap in found[0].tokens},
            grid=found[0].grid,
            valid=torch.cat([f.valid for f in found]),
        )

    def _features(self, image: Tensor) -> ClipFeatures:
        # In evaluation there may be no autocast where there is one in training.
        key = content_key([image], str(torch.is_autocast_enabled(image.device.type)))
        if key not in self._kept:
            features = self.visual(image[None], self.taps)
            if _size(features) > self.room:
                return features
            self.room -= _size(features)
            self._kept[key] = features
        return self._kept[key]


def content_key(tensors: Iterable[Tensor], state: str = "") -> bytes:
    """A digest of what tensors hold, of their shapes and types, and of whatever else counts."""
    digest = hashlib.blake2b(state.encode(), digest_size=16)
    for tensor in tensors:
        digest.update(repr((tensor.shape, tensor.dtype)).encode())
        # NumPy knows no bfloat16, but every tensor's bytes.
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.digest()


def _size(features: ClipFeatures) -> int:
    return sum(tokens.nbytes for tokens in features.tokens.values())
