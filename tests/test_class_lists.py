import pytest

from san_cliptrase.class_lists import read_class_list
from san_cliptrase.errors import DataError


def test_lines_are_names_whatever_the_editor_that_wrote_them(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffsky \r\nsea, ocean\r\nGr\u00e4s\r\n".encode())
    assert read_class_list(file) == ("sky", "sea, ocean", "Gr\u00e4s")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"sky\n\nsea\n", "no name in line 2 of 3"),
        (b"sky\n , \n", "no name in line 2 of 2"),
        (b"sky\nsea\nsky \n", "names 'sky' more than once, in lines 1 and 3"),
        (b"sky\xff\n", "cannot read the class file .* UTF-8"),
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
