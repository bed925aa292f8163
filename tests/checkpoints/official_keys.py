"""Names and shapes of official SAN checkpoints, from ``fixtures/san_state_dict_keys.json``."""

import json
import re
from pathlib import Path

import torch

from san_cliptrase.checkpoints.official_keys import from_official

FIXTURE = Path(__file__).parents[1] / "fixtures" / "san_state_dict_keys.json"


def official_shapes(model: str) -> dict[str, list[int]]:
    """All keys of one model; "{n}" in the file stands for 0 .. n-1."""
    shapes = {}
    for key, shape in json.loads(FIXTURE.read_text())[model].items():
        counted = re.search(r"\{(\d+)\}", key)
        names = [key.replace(counted[0], str(i)) for i in range(int(counted[1]))] if counted else [key]
        shapes.update(dict.fromkeys(names, shape))
    return shapes


def official_state(ours, depth, first):
    """A state of ours by the names of the official SAN, through the table of its keys and not through the export.

    ``depth`` blocks of CLIP, of which those from ``first`` on recognise.
    """
    keys = [key for key in official_shapes("ViT-B-16") if _has_block(key, depth, first)]
    tags = from_official({key: torch.tensor(index) for index, key in enumerate(keys)})
    official = {keys[tag]: ours[name] for name, tag in tags.items() if name in ours}
    convolutions = {key for key, shape in official_shapes("ViT-B-16").items() if shape[2:] == [1, 1]}
    return {key: value[..., None, None] if key in convolutions else value for key, value in official.items()}


def _has_block(key, depth, first):
    parent, _, rest = key.partition(".resblocks.")
    limit = {"clip_visual_extractor": first, "clip_rec_head": depth - first}.get(parent, depth)
    return not rest or int(rest.partition(".")[0]) < limit
