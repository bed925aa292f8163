import logging
import tracemalloc

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageChops

from san_cliptrase import drawing, lettering
from san_cliptrase.colors import class_colors
from san_cliptrase.drawing import count_labels, draw_comparison, draw_overlay, outlines, percent
from san_cliptrase.texts import printable


def black(height, width):
    return np.zeros((height, width, 3), dtype=np.uint8)


def has_color(pixels, color):
    return (pixels.reshape(-1, 3) == np.asarray(color)).all(axis=1).any()


def test_outlines_lie_between_labels():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert outlines(labels).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_the_legend_has_the_colours_of_the_image():
    labels = np.zeros((60, 80), dtype=np.int64)
    labels[:, 40:] = 2
    image = black(60, 80)
    image[..., 1] = 200
    overlay = np.asarray(draw_overlay(image, labels, ["grass", "never seen", "road"]))
    assert overlay.shape[0] == 480
    segments, legend = overlay[:, :640], overlay[:, 640:]
    for index, x in ((0, 20), (2, 600)):
        mixed = segments[20, x]
        np.testing.assert_allclose(mixed, (class_colors(3)[index] + image[0, 0].astype(float)) / 2, atol=1)
        assert has_color(legend, mixed)
        assert has_color(legend, class_colors(3)[index])  # the outline's
    np.testing.assert_array_equal(segments[20, 319], class_colors(3)[0])
    np.testing.assert_array_equal(segments[20, 320], class_colors(3)[2])
    assert not has_color(overlay, class_colors(3)[1])


def test_the_largest_class_is_first_in_the_legend():
    labels = np.zeros((480, 480), dtype=np.uint8)
    labels[100:] = 1
    legend = np.asarray(draw_overlay(black(480, 480), labels, ["small", "large"]))[:, 480:]
    rows = [np.nonzero((legend == color).all(axis=2).any(axis=1))[0].min() for color in class_colors(2)]
    assert rows[1] < rows[0]


def written(overlay, labels, name, names):
    """Rows and columns of the white letters inside a segment, outlines left out."""
    white = (np.asarray(overlay)[: labels.shape[0], : labels.shape[1]] == 255).all(axis=2)
    return np.nonzero(white & (labels == names.index(name)))


def test_names_stand_inside_their_segments_of_large_images_too():
    labels = np.zeros((1500, 1900), dtype=np.uint8)
    labels[900:1400, 1203:1800] = 1
    names = ["sky", "car"]
    overlay = draw_overlay(black(1500, 1900), labels, names)
    assert len(written(overlay, labels, "sky", names)[0]) > 200
    y, x = written(overlay, labels, "car", names)
    assert (y.mean(), x.mean()) == pytest.approx((1150, 1500), abs=40)


def test_each_large_segment_of_a_class_has_its_name_and_small_ones_have_none():
    labels = np.zeros((480, 900), dtype=np.uint8)
    labels[100:200, 100:300] = labels[300:400, 600:800] = 1
    labels[20:26, 500:506] = 1
    y, x = written(draw_overlay(black(480, 900), labels, ["sky", "car"]), labels, "car", ["sky", "car"])
    first = x < 450
    assert (y[first].mean(), x[first].mean()) == pytest.approx((150, 200), abs=5)
    assert (y[~first].mean(), x[~first].mean()) == pytest.approx((350, 700), abs=5)


def test_letters_and_outlines_grow_with_the_image():
    def height_and_outline(side):
        labels = np.zeros((side, side), dtype=np.uint8)
        labels[side // 2 :] = 1
        overlay = draw_overlay(black(side, side), labels, ["sky", "car"])
        y, _ = written(overlay, labels, "sky", ["sky", "car"])
        column = np.asarray(overlay)[: side // 2, 0]
        return np.ptp(y), (column == class_colors(2)[0]).all(axis=1).sum()

    small, large = height_and_outline(800), height_and_outline(2400)
    assert large[0] == pytest.approx(3 * small[0], abs=4)
    assert large[1] == pytest.approx(3 * small[1], abs=1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 3000), (5000, 2), (300, 6000), (4300, 200), (2, 2)])
def test_every_shape_is_drawn_with_its_legend_beside_it(shape):
    labels = np.zeros(shape, dtype=np.int64)
    labels.flat[labels.size // 2 :] = 1
    overlay = draw_overlay(np.full((*shape, 3), 90, np.uint8), labels, ["dot", "line"])
    assert max(overlay.size) <= drawing.LONGEST_SIDE + 300
    pixels = np.asarray(overlay)
    if shape[1] >= 2 * shape[0]:
        assert (pixels[-1] == 255).all()
    else:
        assert (pixels[:, -1] == 255).all()
        assert overlay.height >= 480


def test_a_comparison_has_the_errors_in_red_and_the_iou_of_each_class(monkeypatch):
    image = np.full((400, 600, 3), 100, np.uint8)
    truth = np.zeros((400, 600), dtype=np.int64)
    truth[:, 300:] = 1
    prediction = truth.copy()
    prediction[:, 300:400] = 0
    truth[300:] = 255
    prediction[350:] = 3  # not scored, so no class of this image
    seen, legend = [], drawing._draw_legend
    monkeypatch.setattr(
        drawing, "_draw_legend", lambda entries, *rest, **more: seen.extend(entries) or legend(entries, *rest, **more)
    )
    drawn = np.asarray(draw_comparison(image, prediction, truth, ["sea", "sky", "boat", "car"], 255, "a.png"))
    rows = [(entry.name, entry.share) for entry in seen]
    assert rows == [("sea", "IoU 75 %"), ("sky", "IoU 67 %"), ("error", "17 %"), ("not scored", "25 %")]
    top, step = 4 * 14, 614
    assert drawn.shape[1] == 4 * step + 14
    at = [drawn[top + 50, 14 + place * step + 350] for place in range(4)]
    sea, sky = (class_colors(4)[index].astype(float) for index in (0, 1))
    np.testing.assert_array_equal(at[0], 100)
    np.testing.assert_allclose(at[1], (100 + sea) / 2, atol=1)
    np.testing.assert_allclose(at[2], (100 + sky) / 2, atol=1)
    np.testing.assert_allclose(at[3], 0.8 * np.array(drawing.ERROR) + 20, atol=1)
    np.testing.assert_array_equal(drawn[top + 50, 14 + 3 * step + 100], 100)  # right
    np.testing.assert_array_equal(drawn[top + 320, 14 + 3 * step + 100], 0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (90, 200)])
def test_comparisons_of_every_shape_are_drawn(shape):
    truth = np.full(shape, 255)
    drawn = draw_comparison(black(*shape), np.zeros(shape, np.int64), truth, ["sea", "sky"], 255, "only filling")
    assert max(drawn.size) <= 4 * (drawing.LONGEST_PANEL + 100)


def test_huge_images_are_reduced_and_not_copied(monkeypatch):
    image, labels = black(3000, 6000), np.zeros((3000, 6000), dtype=np.int64)
    image[:, 3000:], labels[:, 3000:] = 200, 1
    monkeypatch.setattr(drawing, "LONGEST_SIDE", 600)
    tracemalloc.start()
    overlay = draw_overlay(image, labels, ["left", "right"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert overlay.width == 600
    np.testing.assert_allclose(np.asarray(overlay)[20, 580], (200 + class_colors(2)[1].astype(float)) / 2, atol=1)
    assert peak < 0.25 * image.nbytes


def test_strips_fit_together(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (300, 40, 3), dtype=np.uint8)
    monkeypatch.setattr(drawing, "_STRIP", 7)
    for size in ((33, 90), (40, 480)):
        whole = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        assert np.max(ImageChops.difference(drawing._resized(image, *size), whole)) == 0


def test_a_long_legend_has_columns_and_says_how_many_more():
    labels = np.arange(400).repeat(500).reshape(400, 500)
    assert draw_overlay(black(400, 500), labels, [f"class {i}" for i in range(400)]).height == 480
    few = draw_overlay(black(400, 500), labels // 10, [f"class {i}" for i in range(40)])
    colors = class_colors(40)
    assert all(has_color(np.asarray(few)[:, 600:], color) for color in colors)
    wide = draw_overlay(black(100, 4000), labels.reshape(100, -1)[:, :2000].repeat(2, 1), list(map(str, range(400))))
    assert wide.height < 500


def test_long_names_are_cut():
    names = ["long " * 40, "x" * 10_000, "sky"]
    labels = np.arange(3).repeat(100_000).reshape(3 * 250, 400)
    overlay = draw_overlay(black(750, 400), labels, names)
    assert overlay.width < 900
    assert len(written(overlay, labels, names[0], names)[0]) > 10


@pytest.mark.parametrize("name", ["naïve", "Ελληνικά", "русский", "nai\u0308ve"])
def test_letters_of_the_usual_font_are_no_boxes(name, caplog):
    draw_overlay(black(480, 600), np.zeros((480, 600), np.uint8), [name])
    assert not caplog.records
    shown = lettering.drawable(name)
    assert "?" not in shown
    letters, boxes = (list(lettering.font_for(shown, 20).getmask(text)) for text in (shown, "\ue000" * len(shown)))
    assert letters != boxes


def test_another_font_is_found_for_other_letters_and_lacking_ones_are_told(monkeypatch, caplog, tmp_path):
    from matplotlib import font_manager

    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    (tmp_path / "Damaged-Regular.ttf").write_bytes(b"no font")
    fonts = [str(tmp_path / "Damaged-Regular.ttf"), str(tmp_path / "missing.ttf"), f"{folder}/STIXNonUni.ttf"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: fonts)
    for cached in (lettering._font_file, lettering.drawable):
        cached.cache_clear()
    glyphs = {file: lettering._glyphs(file) for file in (f"{folder}/DejaVuSans.ttf", fonts[-1])}
    letter = chr(min(code for code in glyphs[fonts[-1]] - glyphs[f"{folder}/DejaVuSans.ttf"] if code > 255))
    assert lettering.font_for(letter, 20).path == fonts[-1]
    with caplog.at_level(logging.WARNING):
        assert lettering.drawable("sea 海と空") == "sea ?"
        draw_overlay(black(48, 60), np.zeros((48, 60), np.uint8), ["海"])
    assert lettering.shown_name(["sea", "海"], 1) == "? (class 1)"
    assert "no font of this machine has all letters of 'sea 海と空'" in caplog.text
    for cached in (lettering._font_file, lettering.drawable):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red\x1b[31m\n\tcar\x00", "red [31m car"),
        ("a\u202eb\u2066c\ufeff, so\u00adft", "abc, soft"),
        ("  two   words \u2028", "two words"),
        ("nai\u0308ve", "naïve"),
        ("\ud800x", "x"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_names_are_printed_on_one_line_without_control_characters(name, expected):
    assert printable(name) == expected


@pytest.mark.parametrize("name", ["\x1b\x00", "", "\ud800", "\u202e", "🌊" * 300, "e" + "\u0301" * 500])
def test_no_name_stops_the_drawing(name):
    assert draw_overlay(black(20, 30), np.zeros((20, 30), np.uint8), [name]).height == 480


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1e-9, "<1 %"), (0.0099, "<1 %"), (0.01, "1 %"), (0.414, "41 %"), (0.9999, ">99 %"), (1, "100 %")],
)
def test_shares_for_people(share, text):
    assert percent(share) == text


def test_labels_are_counted():
    labels = np.array([[0, 2, 2], [4, 4, 4]], dtype=np.uint8)
    assert count_labels(labels, 6).tolist() == [1, 0, 2, 0, 3, 0]
