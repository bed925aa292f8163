import os
import socket

import pytest

from san_cliptrase.class_lists import find_background, read_class_file, read_class_list, same_for_clip
from san_cliptrase.clip.build import build_clip
from san_cliptrase.errors import DataError


def test_lines_are_names_whatever_the_editor_that_wrote_them(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffsky \r\nsea, ocean\r\nGr\u00e4s\r\n".encode())
    assert read_class_list(file) == ("sky", "sea, ocean", "Gr\u00e4s")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"sky\n\nsea\n", "no name in line 2 of 3"),
        (b"sky\n , \n", "no name in line 2 of 2"),
        (b"sky\n&nbsp;\n", "no name in line 2 of 2"),
        (b"sky\nsea\nsky \n", "names 'sky' more than once, in lines 1 and 3"),
        (b"sky\nsea\nSKY\n", "the same for CLIP, 'sky' and 'SKY', in lines 1 and 3"),
        ("a\u2028b\nsea\nSea\n".encode(), "in lines 2 and 3"),  # lines as an editor counts them
        (b"sky\xff\n", "cannot read the class file .* UTF-8"),
        (b"sky\n" * 2**20 + b"sea\n", "cannot read the class file .* more than 4194304 bytes"),
        (None, "cannot read the class file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, content, message):
    file = tmp_path / "classes.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_class_list(file)
    assert str(file) in str(caught.value)


def test_names_may_have_colours_several_and_digits_of_their_own(tmp_path):
    (tmp_path / "classes.txt").write_text("sea, ocean 0 0 128, 0  0 64\nroute 66 128 0 0\nroute 1 2 3 7 8 9\n")
    found = read_class_file(tmp_path / "classes.txt")
    assert found.names == ("sea, ocean", "route 66", "route 1 2 3") == read_class_list(tmp_path / "classes.txt")
    assert found.colors == (((0, 0, 128), (0, 0, 64)), ((128, 0, 0),), ((7, 8, 9),))


@pytest.mark.parametrize("line", ["boeing 7 3 737", "route 1 2", "1 2 3", "sea, 1 2 3", "mark 1 2 -3", "a 1 2 \u0663"])
def test_lines_that_do_not_end_in_a_colour_are_names(tmp_path, line):
    (tmp_path / "classes.txt").write_text(f"sky\n{line}\n", encoding="utf-8")
    assert read_class_file(tmp_path / "classes.txt") == (("sky", line), ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sky\nroute 1 2 3\n", r"ends line 2, 'route 1 2 3', with the three numbers of a colour, and line 1, 'sky'"),
        ("sky 1 2 3\nsea 1 2 256\n", "and line 2, 'sea 1 2 256', without"),
        ("sky 1 2 3\n4 5 6\n", "and line 2, '4 5 6', without"),
        ("sky 1 2 3\nsea 1  2 03\n", "gives the colour 1 2 3 to 'sky' and again to 'sea'"),
        ("sky 1 2 3, 1 2 3\n", "gives the colour 1 2 3 to 'sky' and again to 'sky'"),
        ("sky 1 2 3\nSky 4 5 6\n", "the same for CLIP, 'sky' and 'Sky', in lines 1 and 2"),
    ],
)
def test_colours_that_could_be_a_mistake_are_refused(tmp_path, content, message):
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_class_list(tmp_path / "classes.txt")


def test_pipes_sockets_and_devices_are_refused_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.txt")
        (tmp_path / "link.txt").symlink_to("/dev/zero")
        for name in ("pipe.txt", "socket.txt", "link.txt", "/dev/zero"):
            with pytest.raises(DataError, match="cannot read the class file .* not a regular file but a pipe"):
                read_class_list(name)


EQUAL = [
    ("Snow", "snow"),
    ("\uff53\uff4e\uff4f\uff57", "snow"),
    ("snow &amp; ice", "snow & ice"),
    ("&lt;ice&gt;", "<ice>"),
    ("snow \t field", "snow field"),
    ("snow\u00a0field", "snow field"),
    ("snow-field", "snow - field"),
    ("3 D", "3d"),
    ("child\u2019s room", "child's room"),
    ("\ufb01eld", "field"),
    ("caf\u00e9", "cafe\u0301"),
    ("\x1b[31msnow", "snow"),
]
DIFFERENT = [("snow", "snows"), ("m\u00b2", "m2"), ("a_b", "a b"), ("snow field", "snowfield"), ("\u00df", "ss")]


def test_names_are_the_same_where_clips_tokenizer_makes_the_same_of_them():
    tokens = build_clip("scenes_vit", "").text.tokenizer
    for pairs, equal in ((EQUAL, True), (DIFFERENT, False)):
        for one, other in pairs:
            assert (same_for_clip(one) == same_for_clip(other)) is equal, (one, other)
            assert (tokens([one])[0].tolist() == tokens([other])[0].tolist()) is equal, (one, other)


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_names_that_are_the_same_for_clip_are_refused(tmp_path, one, other):
    (tmp_path / "classes.txt").write_text(f"{one}\nlava\n{other}\n", encoding="utf-8")
    with pytest.raises(DataError, match="the same for CLIP, .* in lines 1 and 3"):
        read_class_list(tmp_path / "classes.txt")


def test_background_is_found_in_any_place_and_spelling():
    assert find_background(["Background", "cat"]) == 0
    assert find_background(["cat", "dog"]) is None
