"""Segmentation without words: k-means over CLIP's features of a whole test set, whose clusters are then matched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from tqdm import tqdm

from san_cliptrase.clip.attention import softmax_attention
from san_cliptrase.clip.batches import image_batch
from san_cliptrase.cliptrase.voting import resize_labels
from san_cliptrase.data.loader import BadSample
from san_cliptrase.errors import ConfigError, NotFiniteError
from san_cliptrase.meta_arch import CLIPtrase
from san_cliptrase.meta_arch.inputs import output_size
from san_cliptrase.regions.maps import image_grids
from san_cliptrase.regions.pooling import mask_average_pool
from san_cliptrase.structures import ClipFeatures

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096


def fit_clusters(
    cfg: Any, model: CLIPtrase, loader: Iterable[list], clusters: int
) -> Callable[[list[dict]], list[Tensor]]:
    """Fits k-means to a test set, a part of it at a time, in constant memory.

    Args:
        cfg: TEST.UNSUPERVISED.FEATURES says what is clustered, SEED where k-means begins.
        model: on its device, in evaluation mode.
        loader: batches of the test set; bad samples are left out.
        clusters: how many.

    Returns:
        Function of a batch: per image (height, width) int64 cluster of every pixel.

    Raises:
        ConfigError: the set has fewer regions or patches than clusters are wanted, or there are several processes.
    """
    if comm.get_world_size() > 1:
        raise ConfigError("TEST.PROTOCOL unsupervised fits one k-means to the whole set: run it in one process")
    kind = cfg.TEST.UNSUPERVISED.FEATURES
    kmeans = MiniBatchKMeans(clusters, batch_size=ROWS_AT_ONCE, random_state=cfg.SEED, n_init=3)
    features, weights, seen = [], [], 0
    for samples in tqdm(loader, "k-means", leave=False):
        inputs = [sample for sample in samples if not isinstance(sample, BadSample)]
        for rows, members in image_features(model, inputs, kind) if inputs else ():
            features.append(rows.cpu())
            weights.append(members.flatten().bincount(minlength=len(rows)).cpu())
        if sum(map(len, features)) >= max(ROWS_AT_ONCE, clusters):
            seen += _fit(kmeans, features, weights)
    # What is left: too few for a step of their own only if there were steps before.
    if features and (not seen or sum(map(len, features)) >= clusters):
        seen += _fit(kmeans, features, weights)
    logger.info("k-means: %d clusters of %d %s", clusters, seen, kind)

    def predict(inputs: list[dict]) -> list[Tensor]:
        found = []
        for entry, (rows, members) in zip(inputs, image_features(model, inputs, kind), strict=True):
            named = torch.from_numpy(kmeans.predict(rows.cpu().double().numpy())).long().to(members.device)
            found.append(_pixels(named[members], entry, model))
        return found

    return predict


def _fit(kmeans: MiniBatchKMeans, features: list[Tensor], weights: list[Tensor]) -> int:
    rows = torch.cat(features).double().numpy()
    if len(rows) < kmeans.n_clusters:
        raise ConfigError(f"the test set has {len(rows)} features, too few for {kmeans.n_clusters} clusters")
    # A region counts as often as it has patches: pixels are what will be scored.
    kmeans.partial_fit(rows, sample_weight=torch.cat(weights).double().numpy())
    features.clear()
    weights.clear()
    return len(rows)


@torch.no_grad()
def image_features(model: CLIPtrase, inputs: list[dict], kind: str) -> list[tuple[Tensor, Tensor]]:
    """What is clustered of each image.

    Args:
        model: the frozen CLIP and the method on it.
        inputs: a batch.
        kind: "patches": plain CLIP's patch features; "regions": CLIPtrase's, averaged over each of its regions. Where
            an image has no region, its patches stand for themselves.

    Returns:
        Per image features (N, E) of length 1, and which of them each patch belongs to, (h, w).

    Raises:
        NotFiniteError: a feature is NaN or infinite.
    """
    reader, source = model.reader, model.reader.source
    batch = image_batch([entry["image"] for entry in inputs], model.clip, scale=model.resolution)
    features = model.clip.visual(batch.tensor, (*reader.taps, *source.taps), batch.sizes)
    if kind == "patches":
        tokens = _plain(model, features)
        pooled, masks = tokens[:, :0], tokens.new_zeros(len(tokens), 0, *features.grid)
    else:
        tokens = reader.dense(features)[:, 1:]
        regions = source((), features)
        maps = tokens.transpose(1, 2).unflatten(2, features.grid)
        pooled, masks = F.normalize(mask_average_pool(maps, regions), dim=-1), regions.masks
    result = []
    grids = image_grids(features.valid, features.grid)
    for own, rows, shown, keep, (h, w) in zip(tokens, pooled, masks, features.valid, grids, strict=True):
        present = shown.flatten(1).any(1)
        if present.any():
            result.append((rows[present], shown[present][:, :h, :w].argmax(0)))
        else:
            result.append((own[keep], torch.arange(h * w, device=own.device).unflatten(0, (h, w))))
    if not all(rows.isfinite().all() for rows, _ in result):
        raise NotFiniteError(
            "CLIP's features are NaN or infinite. Are its weights whole, or do they overflow on this device?"
        )
    return result


def _plain(model: CLIPtrase, features: ClipFeatures) -> Tensor:
    """Patch features (B, L, E) of the unmodified CLIP, rows of length 1."""
    visual = model.clip.visual
    last, bias = visual.depth - 1, visual.key_bias(features.valid)
    tokens = visual.run(features.tokens[last], last, last + 1, softmax_attention, bias)
    return F.normalize(visual.head(tokens), dim=-1)[:, 1:]


def _pixels(patches: Tensor, entry: dict, model: CLIPtrase) -> Tensor:
    """Labels of the pixels of an image from those of its patches, with smooth boundaries."""
    ph, pw = model.clip.visual.patch_size
    canvas = (patches.shape[0] * ph, patches.shape[1] * pw)
    height, width = (round(side * model.resolution) for side in entry["image"].shape[-2:])
    return resize_labels(resize_labels(patches, canvas)[:height, :width], output_size(entry))
