"""Regions from the self-correlation of a frozen ViT of timm: CLIPtrase's steps on another model's patches.

CLIPtrase's supplement compares its masks with DINO's (A.3, table 2) and says no more than that. Taken here: the output
tokens of the last block after the final norm, ``w = cos(x, x)``, which is then treated as CLIP's correlation is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from san_cliptrase.clip.hub import without_retries
from san_cliptrase.errors import OptionError, WeightsError, suggest
from san_cliptrase.files import check_regular_files
from san_cliptrase.regions.clustering import cluster_rows, core_radius, default_clustering
from san_cliptrase.regions.correlation import suppress_global_patches
from san_cliptrase.regions.maps import own_maps, partition_pixels, region_maps, smooth_maps
from san_cliptrase.regions.pixels import regions_from_pixels
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions, Size
from san_cliptrase.texts import reason
from san_cliptrase.weights_files import describe_wrong_file, refuse_not_finite, refuse_whole_numbers

DEFAULT, RANDOM = "default", "random"


def load_timm(name: str, pretrained: str = DEFAULT) -> nn.Module:
    """Build a frozen ViT that takes images of any size.

    Args:
        name: A model of timm, maybe with a tag ("vit_small_patch14_dinov2.lvd142m"), "hf-hub:org/repo" or
            "local-dir:FOLDER".
        pretrained: "default", the weights that the name stands for; a weights file; or "random".

    Raises:
        OptionError: timm has no such model, or it is no ViT with a [CLS] token that takes any image size.
        WeightsError: The weights cannot be fetched or do not fit.
    """
    own = pretrained not in (DEFAULT, RANDOM)
    read = _read(pretrained) if own else {}
    weights = {"pretrained_cfg_overlay": {"state_dict": read}} if own else {}
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise OptionError(
            f"timm has no model {name!r}; {suggest(name, timm.list_models('vit*', pretrained=True))}"[:400]
        )
    fetched = name.startswith("hf-hub:") or (pretrained == DEFAULT and not name.startswith("local-dir:"))
    with without_retries() if fetched else contextlib.nullcontext() as trouble:
        try:
            if name.startswith("local-dir:"):
                check_regular_files(name.removeprefix("local-dir:"))
            model = timm.create_model(name, pretrained != RANDOM, num_classes=0, dynamic_img_size=True, **weights)
        except TypeError as error:
            raise OptionError(f"{name!r} is no ViT of timm that takes images of any size: {reason(error)}") from error
        except Exception as error:  # timm, huggingface_hub, torch and safetensors share no narrower base
            raise WeightsError(
                f"timm model {name} could not be loaded: {trouble or reason(error)}. {_advice(name)}"
            ) from error
    state, source = model.state_dict(), pretrained if own else name
    refuse_whole_numbers({key: value.is_floating_point() for key, value in read.items()}, state, source)
    refuse_not_finite(state, source)
    if not getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None):
        raise OptionError(f"{name!r} has no [CLS] token, whose correlations CLIPtrase subtracts: choose another ViT")
    return model.eval().requires_grad_(False)


def _read(path: str) -> dict[str, Tensor]:
    """The tensors of a weights file; nothing in it is executed."""
    if wrong := describe_wrong_file(Path(path)):
        raise WeightsError(f"MODEL.REGIONS.PRETRAINED is {DEFAULT!r}, {RANDOM!r} or a weights file; {path!r} {wrong}")
    try:
        if path.endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        raise WeightsError(f"MODEL.REGIONS.PRETRAINED {path!r} cannot be read: {reason(error)}") from error


def _advice(name: str) -> str:
    known = None if ":" in name else get_pretrained_cfg(name, allow_unregistered=True)
    hub = known.hf_hub_id if known and known.hf_hub_id else None
    where = f"https://huggingface.co/{hub}/resolve/main/model.safetensors" if hub else "its model.safetensors"
    return (
        f"Without a network, download {where} elsewhere, keep the ending .safetensors, and give its path as "
        "MODEL.REGIONS.PRETRAINED (predict: --regions-pretrained)"
    )


def patch_correlation(tokens: Tensor) -> Tensor:
    """Cosine similarity of tokens (B, T, C) with each other, (B, T, T)."""
    units = F.normalize(tokens.float(), dim=-1)
    return units @ units.transpose(1, 2)


class TimmRegions(RegionSource):
    """The source ``timm:MODEL``: CLIPtrase's steps on another ViT's patches.

    DBSCAN's radius is ``core_radius``: those that were published are for CLIP's correlations.

    Args:
        model: See ``load_timm``.
        min_samples: DBSCAN's core size; None: by the model's own patch grid.
    """

    needs_images = True

    def __init__(self, model: nn.Module, min_samples: int | None = None) -> None:
        self.model, self.min_samples = model, min_samples
        data = resolve_data_config(model=model)
        self.mean, self.std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
        self.patch: Size = tuple(model.patch_embed.patch_size)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """One image at a time, so that none depends on its batch."""
        found = [self._regions(*one) for one in zip(images, features.sizes, strict=True)]
        return regions_from_pixels(found, features)

    def tokens(self, image: Tensor, size: Size) -> tuple[Tensor, Size]:
        """[CLS] and patch tokens (1, T, C) of an image seen at about ``size``, whole patches, and the patch grid."""
        grid = tuple(max(1, round(side / patch)) for side, patch in zip(size, self.patch, strict=True))
        canvas = (grid[0] * self.patch[0], grid[1] * self.patch[1])
        resized = F.interpolate(image[None], canvas, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (resized - self.mean.to(image)) / self.std.to(image)
        ((patches, prefix),) = self.model.to(image.device).forward_intermediates(
            pixels, indices=1, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        return torch.cat([prefix[:, :1], patches], dim=1), grid

    def _regions(self, image: Tensor, size: Size) -> Tensor | None:
        with torch.autocast(image.device.type, enabled=False):
            tokens, grid = self.tokens(image, size)
            valid = torch.ones(1, grid[0] * grid[1], dtype=torch.bool, device=image.device)
            rows = suppress_global_patches(patch_correlation(tokens), valid)
            min_samples = self.min_samples or default_clustering(grid)[1]
            labels = cluster_rows(rows, valid, core_radius(rows, valid, min_samples), min_samples)
            (maps,) = own_maps(region_maps(rows, labels), valid, grid)
            return partition_pixels(smooth_maps(maps), size, size) if len(maps) else None
