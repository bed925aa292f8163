"""Names and shapes of official SAN checkpoints, from ``fixtures/san_state_dict_keys.json``."""

import json
import re
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "san_state_dict_keys.json"


def official_shapes(model: str) -> dict[str, list[int]]:
    """All keys of one model; "{n}" in the file stands for 0 .. n-1."""
    shapes = {}
    for key, shape in json.loads(FIXTURE.read_text())[model].items():
        counted = re.search(r"\{(\d+)\}", key)
        names = [key.replace(counted[0], str(i)) for i in range(int(counted[1]))] if counted else [key]
        shapes.update(dict.fromkeys(names, shape))
    return shapes
