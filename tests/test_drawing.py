import numpy as np
import pytest

from san_cliptrase.colors import class_colors
from san_cliptrase.drawing import draw_overlay, outlines


def test_outlines_lie_between_labels():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert outlines(labels).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_overlay_has_the_colours_of_the_classes_and_a_legend():
    labels = np.zeros((60, 80), dtype=np.int64)
    labels[:, 40:] = 2
    names = ["grass", "never seen", "a very long name that does not fit into its segment at all"]
    picture = np.asarray(draw_overlay(np.zeros((60, 80, 3), dtype=np.uint8), labels, names)).astype(int)
    assert picture.shape[0] == 480
    assert picture.shape[1] > 640
    colors = class_colors(3) / 2
    np.testing.assert_allclose(picture[20, 20], colors[0], atol=1)
    np.testing.assert_allclose(picture[20, 600], colors[2], atol=1)
    legend = picture[:, 640:].reshape(-1, 3)
    shown = [(legend == color).all(axis=1).any() for color in class_colors(3)]
    assert shown == [True, False, True]


def test_names_stand_inside_their_segments_of_large_images_too():
    labels = np.zeros((1500, 1900), dtype=np.uint8)
    labels[900:1400, 1203:1800] = 1
    picture = np.asarray(draw_overlay(np.zeros((1500, 1900, 3), dtype=np.uint8), labels, ["sky", "car"]))
    white = (picture[:, :1900] == 255).all(axis=2) & ~outlines(labels)
    for label, names in ((labels == 0, "sky"), (labels == 1, "car")):
        assert white[label].sum() > 200, names
    y, x = np.nonzero(white & (labels == 1))
    assert (y.mean(), x.mean()) == pytest.approx((1150, 1500), abs=75)


def test_one_pixel_of_one_class():
    assert draw_overlay(np.zeros((1, 1, 3), dtype=np.uint8), np.zeros((1, 1), dtype=np.uint8), ["dot"]).height == 480
