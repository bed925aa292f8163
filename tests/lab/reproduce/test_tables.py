import json

import pytest
import torch

from san_cliptrase.choices import ATTENTION_RULES
from san_cliptrase.commands.main import main
from san_cliptrase.lab.reproduce import cost, scoring, tables
from san_cliptrase.lab.reproduce.other_papers import other_papers
from san_cliptrase.protocols import WINDOW_PROTOCOLS
from tests.clip.tiny import images, tiny_clip

FEW = ("TEST.MAX_IMAGES", 2, "MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "none")


def test_every_rule_has_a_row():
    shown = [row[row.index(tables.RULE) + 1] for row in tables.METHODS.values()]
    assert set(shown) == set(ATTENTION_RULES)


def test_a_table_of_methods_shows_costs_protocols_and_other_papers(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "METHODS", {name: tables.METHODS[name] for name in ("CLIP", "CLIPtrase")})
    monkeypatch.setattr(cost, "ROUNDS", 2)
    arguments = ["reproduce", "table3", "--output", str(tmp_path), *map(str, FEW)]
    assert main(arguments) == 0
    measured = json.loads((tmp_path / "table3.json").read_text())["measured"]
    plain, ours = (row["cost"] for row in measured)
    for median, least, most in (plain, ours):
        assert 0 < least <= median <= most
    assert ours[0] > plain[0]  # regions are found besides
    assert measured[0]["used"] == {"protocol": "cliptrase, 96", "words": "class names", "thresholds": "none"}
    text = (tmp_path / "table3.md").read_text()
    assert "| **CLIPtrase** | demo_scenes_val |" in text
    assert "| CLIP          | demo_scenes_val |" in text
    assert "{:.2f} [{:.2f}, {:.2f}]".format(*ours) in text
    assert (tmp_path / "table3_cost.png").stat().st_size > 10000
    for row in other_papers():
        own = text.split(f"| protocol {row.protocol}")[1].split("\n\n")[0]
        assert row.method in own and [other.method for other in other_papers() if other.method in own] == [row.method]
    monkeypatch.setattr(scoring, "build_model", lambda cfg: pytest.fail("computed again"))
    assert main([*arguments[:4], "--resume", *arguments[4:]]) == 0
    assert json.loads((tmp_path / "table3.json").read_text())["measured"] == measured


def test_other_papers_name_protocols_that_can_be_chosen():
    named = {row.protocol for row in other_papers()} & set(WINDOW_PROTOCOLS)
    assert named == {"sclip", "naclip", "scclip"}


def test_plain_clip_is_open_clips_own_embedding():
    visual, image = tiny_clip(interpolate_offset=0.1).visual, images(1)
    with torch.inference_mode():
        expected = visual.vision(image)
        assert torch.equal(cost.embed_image(visual, image), expected)
        assert cost.embed_image(visual, torch.cat([image, image], dim=3)).shape == expected.shape
