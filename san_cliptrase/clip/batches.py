"""Images as a CLIP takes them: normalised, resized, padded to one canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.structures import Size


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes in one tensor, each at the top left of the common canvas.

    Attributes:
        tensor: (B, 3, H, W), zero beside the images.
        sizes: (height, width) of each image.
    """

    tensor: Tensor
    sizes: list[Size]

    @property
    def canvas(self) -> Size:
        """(H, W) of the tensor."""
        return tuple(self.tensor.shape[-2:])


def image_batch(images: Sequence[Tensor], clip: FrozenClip, divisibility: int = 1, scale: float = 1.0) -> ImageBatch:
    """Normalise images, resize each by ``scale``, and pad them at the bottom and the right to a common size.

    Each image is resized before it is padded, so none is mixed with its padding.

    Args:
        images: Per image (3, H, W) uint8 RGB, on any device.
        clip: Whose normalisation and device are used.
        divisibility: The sides of the canvas are rounded up to a multiple of it.
        scale: See ``resize_for_clip``.
    """
    device = clip.logit_scale.device
    normalised = (clip.normalize(image.to(device).float() / 255) for image in images)
    resized = [resize_for_clip(image[None], scale)[0] for image in normalised]
    sizes = [tuple(image.shape[-2:]) for image in resized]
    height, width = (
        (max(sides) + divisibility - 1) // divisibility * divisibility for sides in zip(*sizes, strict=True)
    )
    padded = [F.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(resized, sizes, strict=True)]
    return ImageBatch(torch.stack(padded), sizes)


def images_for_source(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """uint8 images as sources of regions read them: (3, H, W) float in [0, 1] on a device, see ``RegionSource``."""
    return [image.to(device).float() / 255 for image in images]


def resize_for_clip(images: Tensor, scale: float) -> Tensor:
    """The images as CLIP sees them: (B, 3, H, W) resized bilinearly by ``scale`` (0.5 for ViT-B/16, 0.7 for L/14)."""
    if scale == 1:
        return images
    if min(images.shape[-2:]) * scale < 1:  # of the thinnest image a pixel is left
        size = [max(1, int(side * scale)) for side in images.shape[-2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)


def canvas_for_clip(images: Tensor, scale: float, patch_size: Size) -> Tensor:
    """A padded batch as SAN's CLIP sees it: resized, and without what is left beside whole patches.

    At 0.7 times 672 pixels, 470, patches of 14 leave 8 pixels over, which CLIP's first convolution skips in SAN's code.
    """
    resized = resize_for_clip(images, scale)
    height, width = (max(p, n - n % p) for n, p in zip(resized.shape[-2:], patch_size, strict=True))
    return resized[..., :height, :width]
