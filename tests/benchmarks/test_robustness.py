import json

import open_clip
import torch

from benchmarks import robustness
from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.clip.build import FrozenClip
from tests.clip.tiny import images, tiny_open_clip


def deep_clip():
    return FrozenClip(tiny_open_clip(layers=24), open_clip.SimpleTokenizer(context_length=24))


def test_the_table_has_every_way_and_disturbance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "build_clip", lambda *_: deep_clip())
    output = tmp_path / "table.json"
    options = ["--images", "2", "--grids", "4", "--disturb", "none", "alike", "--shares", "0.5", "--json", str(output)]
    robustness.main([str(tmp_path / "tower"), *options])
    rows = json.loads(output.read_text())["rows"]
    ways = [(row["disturb"], row["way"]) for row in rows]
    common = ["no regions", "published radius", "cores 0.5"]
    middle = ["middle block, no regions", "middle block and radius"]
    assert ways == [("none", way) for way in common + middle] + [("alike", way) for way in common]
    assert all(0 <= row["one"] <= 1 for row in rows if "no regions" not in row["way"])
    assert capsys.readouterr().out.count("\ntower ") == len(rows)


@torch.no_grad()
def test_of_24_blocks_the_twelfth_is_changed_and_the_last_but_one_gives_logits_of_its_attention():
    clip = deep_clip()
    visual, features = clip.visual, clip.visual(images(1), range(24))
    reader = robustness.MiddleBlockReader(clip, lambda *_: 1.0)
    tokens = visual.run(features.tokens[11], 11, 12, ATTENTION_RULES["cliptrase"])
    block, x = visual.blocks[22], visual.run(tokens, 12, 22)
    _, each_head = block.attn(*[block.ln_1(x)] * 3, need_weights=True, average_attn_weights=False)
    found = reader.source.correlate(features) - each_head.log().mean(1)  # logits but for a number a row
    assert torch.allclose(found, found[..., :1].expand_as(found), atol=1e-5)
    words = visual.head(visual.run(x, 22, 24))
    assert torch.allclose(reader.dense(features), words / words.norm(dim=-1, keepdim=True), atol=1e-6)


def test_the_given_radius_is_that_of_the_regions():
    clip = deep_clip()
    counts = [
        robustness.trial(clip, lambda *_, radius=radius: radius).source([], clip.visual(images(1), [-2])).valid.sum()
        for radius in (1e-6, 1e3)
    ]
    assert counts == [0, 1]
