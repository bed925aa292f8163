"""What the self-correlation costs in three forms: ``python benchmarks/correlation.py``.

As the supplement writes it (eqs. 1 to 3), a map per head and projection, then their mean; the same in one matrix
product, as this project computes it; and the supplement's efficient variant (A.2, eqs. 4 to 6), heads concatenated
before one cosine. ViT-B/16's shapes, random vectors, one thread on a CPU, the three taking turns.
"""

import argparse
import functools
import json
import statistics

import torch
import torch.nn.functional as F
from timing import add_device, turns
from torch import Tensor

from san_cliptrase.regions.correlation import concatenated_correlation, self_correlation

HEADS, WIDTH = 12, 64
SHAPES = {(224, 1): 14, (224, 8): 14, (336, 1): 21, (336, 8): 21}


def per_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Equations 1 to 3, term by term."""
    maps = [F.normalize(t, dim=-1) @ F.normalize(t, dim=-1).transpose(-1, -2) for t in (q, k, v)]
    return sum(maps).mean(dim=1) / 3


def main() -> None:
    """Prints a line a shape: medians of the ratios to the first form, with quartiles; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    add_device(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    forms = {"per head": per_head, "one product": self_correlation, "concatenated": concatenated_correlation}
    report = {}
    for (side, batch), grid in SHAPES.items():
        vectors = [torch.randn(batch, HEADS, 1 + grid**2, WIDTH, device=args.device) for _ in range(3)]
        runs = {name: functools.partial(form, *vectors) for name, form in forms.items()}
        found = turns(runs, args.device, args.rounds, f"{side} px, batch {batch}")
        for name in list(forms)[1:]:
            ratios = [own / base for own, base in zip(found[name], found["per head"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            report[f"{side} px, batch {batch}, {name}"] = [round(x, 3) for x in (low, middle, high)]
            print(f"{side} px, batch {batch}, {name}: {middle:.2f} of per head [{low:.2f}, {high:.2f}]")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
