"""Perfect names and perfect regions."""

import json

import pytest
import torch

from san_cliptrase.commands.main import main
from san_cliptrase.lab.reproduce.ceilings import class_shares
from san_cliptrase.regions.pixels import perfect_names


def test_a_region_gets_the_class_that_most_of_its_labelled_pixels_have():
    regions = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 2]])
    labels = torch.tensor([[2, 2, 255, 255], [255, 255, 1, 255]])
    assert perfect_names(regions, labels, 3).tolist() == [[2, 2, 2, 1], [2, 2, 1, 0]]


def test_shares_of_a_patch_are_those_of_its_pixels():
    labels = torch.tensor([[0, 0, 1, -1], [1, 0, 1, -1]])
    torch.testing.assert_close(class_shares(labels, (1, 2), 2), torch.tensor([[[0.75, 0.25], [0, 0.5]]]))


@pytest.mark.parametrize("few", [("TEST.MAX_IMAGES", "2", "MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "none")])
def test_the_command_writes_a_row_for_each_ceiling(tmp_path, few):
    assert main(["reproduce", "ceilings", "--output", str(tmp_path), *few]) == 0
    report = json.loads((tmp_path / "ceilings.json").read_text())
    values = {row["name"]: row["metrics"]["mIoU"] for row in report["measured"]}
    assert values["true classes, shares of patches"] > values["true classes, hard patches"] > 50
    assert values["true regions, named by cls"] > 50
    assert values["true names, regions that were found, maps by pamr"] > 50
    assert len(values) == 8
