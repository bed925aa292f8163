"""The paper's numbers stand beside ours only where all that they depend on is the same."""

import pytest

from san_cliptrase.engine.defaults import load_config
from san_cliptrase.evaluation.evaluate import report_details
from san_cliptrase.evaluation.paper import paper_table
from tests.conftest import ROOT

AGREEING = ("TEST.PROTOCOL", "cliptrase", "TEST.SIZE", "224", "MODEL.DEVICE", "cpu")


def paper(dataset="voc20_val", *overrides):
    return report_details(load_config(ROOT / "configs" / "cliptrase.yaml", [*AGREEING, *overrides]), dataset)["paper"]


def test_numbers_of_both_tables():
    # Supplement, tables 3 and 4.
    assert paper("voc20_val") == {
        "pAcc": 89.68,
        "mAcc (CLIPtrase script)": 91.40,
        "fwIoU (CLIPtrase script)": 82.49,
        "mIoU (CLIPtrase script)": 80.95,
    }
    assert paper("coco_stuff171_val", "TEST.SIZE", "336")["mIoU (CLIPtrase script)"] == 24.06


@pytest.mark.parametrize(
    "overrides",
    [
        ("TEST.PROTOCOL", "whole"),
        ("TEST.PROTOCOL", "slide"),
        ("TEST.SIZE", "448"),
        ("MODEL.CLIP.NAME", "ViT-L-14"),
        ("MODEL.CLIP.PRETRAINED", "laion2b_s34b_b88k"),
        ("MODEL.CLIP.TEMPLATES", "vild"),
        ("MODEL.CLIP.INTERPOLATE_OFFSET", "0.0"),
        ("MODEL.CLIPTRASE.ATTENTION", "sclip"),
        ("MODEL.CLIPTRASE.CLASSIFY", "patches"),
        ("MODEL.CLIPTRASE.BACKGROUND", "('wall',)"),
        ("MODEL.REGIONS.SOURCE", "grid"),
        ("MODEL.REGIONS.SCALES", "(1.0, 1.5)"),
        ("MODEL.META_ARCHITECTURE", "SAN"),
        ("TEST.BACKGROUND", "threshold"),
        ("TEST.MAX_IMAGES", "100"),
        ("MODEL.CLIP.SYNONYMS", "True"),
    ],
)
def test_silence_wherever_a_setting_is_another(overrides):
    assert paper("voc20_val", *overrides) is None


@pytest.mark.parametrize("dataset", ["demo_scenes_val", "camvid_val"])
def test_silence_on_datasets_that_the_paper_does_not_have(dataset):
    assert paper(dataset) is None


@pytest.mark.parametrize(
    ("table", "averages"),  # the rows AVG. as printed, of CLIP, SCLIP and CLIPtrase
    [
        ("table3", [22.92, 21.77, 14.66, 11.17, 49.83, 49.59, 39.48, 30.76, 52.95, 52.79, 42.25, 32.66]),
        ("table4", [22.87, 21.49, 14.64, 11.04, 50.49, 48.97, 40.21, 31.51, 53.93, 52.78, 43.22, 33.54]),
    ],
)
def test_tables_average_to_what_is_printed(table, averages):
    rows = paper_table(table).rows
    ours = [
        sum(metrics[m] for metrics in rows[method].values()) / 9
        for method in ("CLIP", "SCLIP", "CLIPtrase")
        for m in ("pAcc", "mAcc", "fwIoU", "mIoU")
    ]
    assert ours == pytest.approx(averages, abs=0.0051)
