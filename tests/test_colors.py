import numpy as np
import pytest

from san_cliptrase.colors import GREYS, VISIONS, class_colors, lab_as_seen


def distances(colors):
    """(4, N, N) in CIELAB, as each vision sees the colours."""
    seen = lab_as_seen(colors)
    return np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1)


def least(colors):
    """Least distance of two colours, by vision."""
    apart = distances(colors) + 999 * np.eye(len(colors))
    return dict(zip(VISIONS, apart.min((1, 2)), strict=True))


def test_colours_do_not_depend_on_how_many_there_are():
    np.testing.assert_array_equal(class_colors(5), class_colors(60)[:5])


def test_largest_vocabulary_has_a_colour_for_each_class():
    assert len(np.unique(class_colors(847), axis=0)) == 847


# Okabe and Ito's seven, the usual choice for the colour-blind, come to 16 by the same measure.
@pytest.mark.parametrize(("count", "apart"), [(7, 24), (12, 20), (24, 12)])
def test_the_first_colours_are_far_apart_for_every_vision(count, apart):
    found = least(class_colors(count))
    assert min(found.values()) > apart, found


def test_colours_are_no_greys():
    colors = class_colors(24)
    greys = np.repeat(GREYS, 3).reshape(-1, 3)
    assert distances(np.concatenate([colors, greys]))[:, :24, 24:].min() > 12
    assert np.ptp(colors.astype(int), axis=1).min() >= 60


def test_lab_of_known_colours():
    """sRGB's primaries, CIE 15:2004 with white D65; a red and a green that deuteranopes take for each other."""
    colors = [(255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]
    expected = [(100, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86), (0, 0, 0)]
    np.testing.assert_allclose(lab_as_seen(colors)[0], expected, atol=0.05)
    red, green = (163, 87, 0), (106, 106, 0)
    normal, _, deuteranopia, _ = distances([red, green])[:, 0, 1]
    assert normal > 25
    assert deuteranopia < normal / 3
