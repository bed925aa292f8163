"""Learned queries that begin at the training set's regions: found once, before the first iteration."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from sklearn.cluster import KMeans
from tqdm import tqdm

from san_cliptrase.errors import OptionError
from san_cliptrase.meta_arch import SAN

logger = logging.getLogger(__name__)

BATCH = 8


@torch.no_grad()
def initialise_prototypes(
    model: SAN, records: list[dict], mapper: Callable[[dict], dict], images: int, seed: int
) -> None:
    """Sets SAN's Q learned query embeddings to the centres of the training set's region tokens (k-means, k = Q).

    A region's token is the mean of the untrained side adapter's own patch tokens over it, which holds CLIP's features
    through the first fusion (``SAN.region_tokens``). With ``prototypes`` alone nothing depends on regions afterwards:
    the model costs what plain SAN costs, and its checkpoints have the same keys.

    Args:
        model: on its device; its training mode is restored.
        records: dicts of the training set.
        mapper: of a test set: no augmentation.
        images: how many of the records are read, evenly spaced.
        seed: of k-means.

    Raises:
        OptionError: the images have fewer regions than there are queries.
    """
    embeddings = model.network.adapter.query_embed
    chosen = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, images).astype(int))]
    was_training = model.training
    model.eval()
    tokens = [
        _region_tokens(model, [mapper(record) for record in chosen[start : start + BATCH]])
        for start in tqdm(range(0, len(chosen), BATCH), "prototypes", leave=False)
    ]
    model.train(was_training)
    found = torch.cat(tokens).float().numpy()
    if len(found) < embeddings.shape[1]:
        raise OptionError(
            f"{len(chosen)} training images have {len(found)} regions, fewer than MODEL.SAN.NUM_QUERIES "
            f"{embeddings.shape[1]}: raise MODEL.SAN.QUERY_INIT.PROTOTYPE_IMAGES or lower NUM_QUERIES"
        )
    centres = KMeans(embeddings.shape[1], n_init=1, random_state=seed).fit(found).cluster_centers_
    embeddings.copy_(torch.from_numpy(centres)[None])
    logger.info("queries begin at %d prototypes of %d regions in %d images", len(centres), len(found), len(chosen))


def _region_tokens(model: SAN, inputs: list[dict]) -> torch.Tensor:
    images, labels = zip(*((entry["image"], entry["sem_seg"]) for entry in inputs), strict=True)
    return model.region_tokens(images, labels).cpu()
