import json

import open_clip
import torch

from benchmarks import robustness
from san_cliptrase.clip.build import FrozenClip
from tests.clip.tiny import images, tiny_open_clip


def deep_clip():
    """Of 14 blocks, at which the published code's block numbers lie elsewhere than at the end."""
    return FrozenClip(tiny_open_clip(layers=14), open_clip.SimpleTokenizer(context_length=24))


def test_the_table_has_every_way_and_disturbance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "build_clip", lambda *_: deep_clip())
    output = tmp_path / "table.json"
    options = ["--images", "2", "--grids", "4", "--disturb", "none", "alike", "--shares", "0.5", "--json", str(output)]
    robustness.main([str(tmp_path / "tower"), *options])
    rows = json.loads(output.read_text())["rows"]
    ways = [(row["disturb"], row["way"]) for row in rows]
    common = ["no regions", "published radius", "cores 0.5"]
    published = ["published blocks, no regions", "published blocks and radius"]
    assert ways == [("none", way) for way in common + published] + [("alike", way) for way in common]
    assert all(0 <= row["one"] <= 1 for row in rows if "no regions" not in row["way"])
    assert capsys.readouterr().out.count("\ntower ") == len(rows)


@torch.no_grad()
def test_published_blocks_are_those_of_the_attention_that_block_13_was_trained_with():
    method = robustness.PublishedBlocks(deep_clip())
    features = method.visual(images(1), method.taps)
    blocks, tokens = method.visual.blocks, method._after_block_12(features)
    x = blocks[12].ln_1(tokens)
    _, each_head = blocks[12].attn(x, x, x, need_weights=True, average_attn_weights=False)
    logits = each_head.log()  # but for a number a row
    found = method.correlate(features) - logits.mean(1)
    assert torch.allclose(found, found[..., :1].expand_as(found), atol=1e-5)
