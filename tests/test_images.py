import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from san_cliptrase.errors import DataError
from san_cliptrase.images import image_size, read_image, read_values


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.new(mode, (20, 10)).save(path)
    found = read_image(path)
    assert found.shape == (10, 20, 3)
    assert found.dtype == np.uint8


def test_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held sideways
    Image.new("L", (20, 10), 128).save(tmp_path / "grey.jpg", exif=exif)
    assert read_image(str(tmp_path / "grey.jpg")).shape == (20, 10, 3)


@pytest.mark.parametrize("orientation", [*range(1, 9), None])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_the_size_in_a_files_head_is_that_of_the_image_read(tmp_path, orientation, ending):
    path, exif = tmp_path / f"picture.{ending}", Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("L", (20, 10), 128).save(path, exif=exif)
    assert image_size(path) == read_image(path).shape[:2]
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="picture"):
        image_size(path)


def test_values_of_label_files_are_kept(tmp_path):
    values = np.array([[0, 1], [300, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "wide.png")
    assert read_values(tmp_path / "wide.png").tolist() == values.tolist()


@pytest.mark.parametrize("read", [read_image, read_values])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "gif", "bmp"])
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_named(tmp_path, read, ending, kept):
    path = tmp_path / f"broken.{ending}"
    Image.fromarray(np.random.RandomState(0).randint(256, size=(60, 60)).astype(np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"cannot read the (image|label file) .*broken\."):
        read(path)


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=path.name):
            read_image(path)


def test_a_decompression_bomb_is_an_error_like_others(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(DataError, match="cannot read the image .*bomb.png: .*10000 pixels"):
        read_image(tmp_path / "bomb.png")


def header(width, height):
    """A PNG that promises so many pixels and holds none."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + size
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (200_000_000, 1), (0, 5)])
@pytest.mark.parametrize("read", [read_image, read_values])
def test_absurd_headers_are_refused_before_anything_is_decoded(tmp_path, read, size):
    (tmp_path / "absurd.png").write_bytes(header(*size))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"absurd\.png"):
        read(tmp_path / "absurd.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
