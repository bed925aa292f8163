"""What text weights cost at the prompts' own length: ``python benchmarks/text.py [--words N] [--device DEVICE]``.

ViT-B/16's text tower with random weights, all 80 sentences for each word. Several ways take turns, on a CPU with one
thread: every prompt at the full context of 77 tokens, as open_clip runs them; all of them at the length of the longest;
each at its own length, grouped; batches of about the same length, of several sizes; and ``TextEncoder``, which runs
such batches, with all that it does besides.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import add_device, turns
from san_cliptrase.clip.templates import load_templates
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.clip.text_tower import encode_tokens, prompt_lengths

FULL, ENCODER = "all at 77 tokens", "TextEncoder"
WORDS = Path(__file__).resolve().parents[1] / "san_cliptrase" / "data" / "class_names" / "ade150.txt"


def in_parts(model: nn.Module, tokens: Tensor, parts: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Embeddings of prompts, each part of them at the length of its longest."""
    indices = parts(prompt_lengths(model, tokens))
    return torch.cat([encode_tokens(model, tokens[part]) for part in indices])[torch.cat(indices).argsort()]


def by_length(lengths: Tensor) -> list[Tensor]:
    """Prompts of one length together."""
    return [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]


def sorted_batches(lengths: Tensor, size: int) -> list[Tensor]:
    """Batches of one size, shortest prompts first."""
    return list(lengths.argsort(stable=True).split(size))


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Prints a line a way: how many times as fast as the full context, median with quartiles; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=2, help="words, with 80 prompts each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 320])
    add_device(parser)
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16", device=args.device).eval().requires_grad_(False)
    names = WORDS.read_text(encoding="utf-8").splitlines()
    words = names[:: len(names) // args.words][: args.words]
    prompts = [sentence.replace("{}", word) for word in words for sentence in load_templates("imagenet")]
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    tokens = tokenizer(prompts).to(args.device)
    ways = {
        FULL: functools.partial(model.encode_text, tokens),
        "all at the longest": functools.partial(encode_tokens, model, tokens),
        "grouped by length": functools.partial(in_parts, model, tokens, by_length),
    }
    for size in args.batches:
        parts = functools.partial(sorted_batches, size=size)
        ways[f"sorted, batches of {size}"] = functools.partial(in_parts, model, tokens, parts)
    whole = F.normalize(ways[FULL](), dim=-1)
    differences = {name: (F.normalize(way(), dim=-1) - whole).abs().max().item() for name, way in ways.items()}
    ways[ENCODER] = lambda: TextEncoder(model, tokenizer)(words)
    means = F.normalize(whole.unflatten(0, (len(words), -1)).mean(dim=1), dim=-1)
    differences[ENCODER] = (ways[ENCODER]() - means).abs().max().item()
    lengths = prompt_lengths(model, tokens)
    print(
        f"{len(prompts)} prompts of {lengths.min()} to {lengths.max()} tokens, {lengths.float().mean():.1f} on average"
    )
    report = {}
    found = turns(ways, args.device, args.rounds, "text weights")
    for name in list(ways)[1:]:
        ratios = [base / own for base, own in zip(found[FULL], found[name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        report[name] = {"times as fast": [round(x, 2) for x in (low, middle, high)], "difference": differences[name]}
        print(f"{name}: {middle:.1f} times as fast [{low:.1f}, {high:.1f}], largest difference {differences[name]:.1e}")
    seconds = statistics.median(found[FULL])
    print(f"{FULL}: {seconds:.2f} s, {1e3 * seconds / len(prompts):.1f} ms a prompt")
    print(json.dumps({"prompts": len(prompts), "device": args.device, "seconds at 77": seconds, **report}))


if __name__ == "__main__":
    main()
