import numpy as np

from san_cliptrase.colors import class_colors
from san_cliptrase.engine.panels import region_panel


def test_regions_wear_colours_of_no_class():
    classes, photo = 22, np.zeros((10, 40, 3), np.uint8)
    regions = np.arange(4).repeat(10)[None].repeat(10, axis=0)
    panel = region_panel(photo, regions, classes)
    inside = panel[5, [3, 13, 23, 33]]
    np.testing.assert_allclose(inside, class_colors(classes + 4)[classes:] / 2, atol=1)
    difference = np.abs(2 * inside[:, None].astype(int) - class_colors(classes).astype(int)).max(-1)
    assert (difference > 10).all()
    np.testing.assert_array_equal(panel[5, 9], 255)
