"""A checkpoint in SAN's own format under a model of ours: what is checked, and what ours has besides."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from san_cliptrase.checkpoints.official_keys import from_official
from san_cliptrase.checkpoints.same_clip import check_official_clip, warn_of_activation

# Only a model that was built with ZERO_INIT, and in which regions take the queries' place, has it.
SHARE = "network.query_init.content_strength"


def weights_of_release(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state of a SAN of ours that an official one amounts to; what ours has besides starts as it was built.

    Args:
        state: official name -> tensor.
        model: a SAN as it was built.

    Raises:
        ValueError: the state is of another CLIP or another SAN, or the model would not begin as plain SAN.
    """
    init = model.network.query_init
    if not init.begins_as_plain_san:
        raise ValueError(
            "it is in SAN's own format, and SAN knows no regions: set MODEL.SAN.QUERY_INIT.ZERO_INIT True, so that "
            "training begins at what this file predicts"
        )
    check_official_clip(state, model)
    weights = from_official(state, model.network.adapter.native_grid, model.clip.visual.depth)
    warn_of_activation(model)
    return weights | {f"network.query_init.{key}": value for key, value in init.state_dict().items()}
