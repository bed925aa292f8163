"""CLIP's features of images that come again: a frozen CLIP would only compute them again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from san_cliptrase.structures import ClipFeatures

Value = TypeVar("Value")


class BoundedMemory(Generic[Value]):
    """Values by key, until they take so many gigabytes; what comes later is not kept.

    Args:
        gigabytes: of the sizes that ``keep`` is told.
    """

    def __init__(self, gigabytes: float) -> None:
        self._limit = int(gigabytes * 1e9)
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._room, self._kept = self._limit, {}

    def get(self, key: bytes) -> Value | None:
        """What was kept, if it was."""
        return self._kept.get(key)

    def keep(self, key: bytes, value: Value, size: int) -> None:
        """Keeps a value of so many bytes if there is room."""
        if size <= self._room:
            self._room -= size
            self._kept[key] = value


class FeatureCache:
    """Runs the frozen image tower on images whose pixels it has not seen yet, and remembers the others' tokens.

    It pays where images return pixel by pixel: few training images that at most are flipped, and evaluations on the
    way. Crops and colours drawn at random never return. Every image is computed by itself, so that what it gets does
    not depend on its batch, nor on what was remembered.

    Args:
        visual: The image tower, without trainable parameters.
        taps: See ``ClipVisualEncoder.forward``.
        gigabytes: Tokens are kept, on their device, until they take so much; what comes later is computed each time.

    Raises:
        OptionError: The tower has trainable parameters.
    """

    def __init__(self, visual: ClipVisualEncoder, taps: Sequence[int], gigabytes: float) -> None:
        if trainable := [name for name, p in visual.vision.named_parameters() if p.requires_grad]:
            raise OptionError(
                f"MODEL.CLIP.CACHE_GB is {gigabytes}, but features of a CLIP that trains {', '.join(trainable)} do not "
                "stay the same: set it to 0, or MODEL.CLIP.TRAINABLE to ()"
            )
        self.visual, self.taps = visual, tuple(taps)
        self._kept: BoundedMemory[ClipFeatures] = BoundedMemory(gigabytes)

    def clear(self) -> None:
        """Forgets everything: the tower has got other weights."""
        self._kept.clear()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> ClipFeatures:
        """The features of (B, 3, H, W) normalised images, all of whose canvas is image."""
        found = [self._features(image) for image in images]
        return ClipFeatures(
            tokens={tap: torch.cat([f.tokens[tap] for f in found]) for tap in found[0].tokens},
            grid=found[0].grid,
            valid=torch.cat([f.valid for f in found]),
            sizes=tuple(size for f in found for size in f.sizes),
            patch_size=found[0].patch_size,
        )

    def _features(self, image: Tensor) -> ClipFeatures:
        # In evaluation there may be no autocast where there is one in training.
        key = content_key([image], str(torch.is_autocast_enabled(image.device.type)))
        features = self._kept.get(key)
        if features is None:
            features = self.visual(image[None], self.taps)
            self._kept.keep(key, features, sum(tokens.nbytes for tokens in features.tokens.values()))
        return features


def content_key(tensors: Iterable[Tensor], state: str = "") -> bytes:
    """A digest of what tensors hold, of their shapes and types, and of whatever else counts."""
    digest = hashlib.blake2b(state.encode(), digest_size=16)
    for tensor in tensors:
        digest.update(repr((tensor.shape, tensor.dtype)).encode())
        # NumPy knows no bfloat16, but every tensor's bytes.
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.digest()
