import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from san_cliptrase import images
from san_cliptrase.errors import DataError
from san_cliptrase.images import image_size, load_image, read_image, read_values
from tests.data.label_files import png

# Pillow before 13 calls an uncompressed TIFF of this mode truncated, its own too.
YCBCR = pytest.param("YCbCr", marks=pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 13"))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", YCBCR, "LAB"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "YCbCr", "LAB") else "picture.png")
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


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_png_whose_data_end_early_is_refused(tmp_path, cut, interlaced):
    (tmp_path / "short.png").write_bytes(png(GRAY, cut=cut, interlaced=interlaced))
    with pytest.raises(DataError, match="short.png: (its data give|image file is truncated)"):
        read_image(tmp_path / "short.png")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_whole_png_files_that_end_in_black_are_read(tmp_path, bits, interlaced):
    (tmp_path / "black.png").write_bytes(png(np.zeros((5, 7), np.uint8), bits, interlaced=interlaced))
    assert not read_image(tmp_path / "black.png").any()


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


def tiff(values, bits, sample_format=1, photometric=1):
    """A little-endian TIFF of one gray channel, with tags that Pillow does not write."""
    height, width = values.shape
    content = values.tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (277, 1), (278, height)]
    tags += [(279, len(content)), (339, sample_format)]
    tags = sorted([*tags, (273, 8 + 2 + 12 * (len(tags) + 1) + 4)])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + content


GRAY = np.arange(256, dtype=np.uint8).reshape(8, 32)
WIDE = GRAY.astype(np.uint16) * 257


@pytest.mark.parametrize(
    ("image", "endings"),
    [
        (Image.fromarray(WIDE), ["png", "tif", "pgm", "jp2"]),
        (Image.frombytes("I;16B", (32, 8), WIDE.astype(">u2").tobytes()), ["png", "tif"]),
        (Image.fromarray(GRAY.astype(np.uint16) << 8), ["png", "tif"]),
        (Image.fromarray(WIDE.astype(np.int32)), ["tif", "pgm"]),
        (Image.fromarray(GRAY / np.float32(255)), ["tif", "pfm"]),
    ],
    ids=["16 bits", "big-endian", "shifted", "32 bits", "float"],
)
def test_gray_values_of_more_bits_look_like_those_of_8(tmp_path, image, endings):
    expected = np.repeat(GRAY[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load_image(image), expected)
    for ending in endings:
        image.save(tmp_path / f"wide.{ending}")
        np.testing.assert_array_equal(read_image(tmp_path / f"wide.{ending}"), expected)


@pytest.mark.parametrize("value", [0, 256, 30000, 65535])
def test_constant_images_of_16_bits_keep_their_brightness(value):
    assert (load_image(Image.fromarray(np.full((4, 5), value, np.uint16))) == value // 256).all()


def test_tiff_files_of_12_bits_and_with_white_as_zero(tmp_path):
    path = tmp_path / "odd.tif"
    path.write_bytes(
        tiff(np.array([[0x12, 0x3F, 0xFF, 0x80, 0x00, 0x00]], np.uint8), 12).replace(
            struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4)
        )
    )
    assert read_image(path)[0, :, 0].tolist() == [0x12, 0xFF, 0x80, 0]
    path.write_bytes(tiff(WIDE, 16, photometric=0))
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 - GRAY)
    path.write_bytes(tiff(GRAY / np.float32(255), 32, sample_format=3, photometric=0))
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 - GRAY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32([[0.5, np.nan]]), "mode F with values from nan to nan; floats are wanted in 0..1"),
        (np.float32([[0, np.inf]]), "mode F with values from 0.0 to inf"),
        (np.float32([[-0.1, 1]]), "mode F with values from -0.1 to 1.0"),
        (np.float32([[0, 255]]), "mode F with values from 0.0 to 255.0"),
        (np.int32([[-1, 700]]), r"mode I with values from -1 to 700; .* 16 bits, 0\.\.65535"),
        (np.int32([[0, 65536]]), "mode I with values from 0 to 65536"),
        (np.int32([[0, 255]]), "mode I with values from 0 to 255"),
        (np.uint16([[0, 255]]), "mode I;16 with values from 0 to 255"),
    ],
)
def test_values_of_an_unknown_range_are_refused_with_their_mode(tmp_path, values, message):
    for image in (Image.fromarray(values), tmp_path / "odd.tif"):
        if isinstance(image, Image.Image):
            image.save(tmp_path / "odd.tif")
        with pytest.raises(DataError, match=message):
            load_image(image)


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_values_are_refused(tmp_path, bits):
    path = tmp_path / "signed.tif"
    path.write_bytes(tiff(np.arange(-6, 6, dtype=f"int{bits}").reshape(3, 4), bits, sample_format=2))
    with pytest.raises(DataError, match=f"signed.tif: it has signed values of {bits} bits"):
        read_image(path)


def test_files_of_other_ranges_are_refused_with_their_mode(tmp_path):
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2"]
    cards += [
        "NAXIS1  =                    4",
        "NAXIS2  =                    2",
        "BZERO   =                32768",
        "END",
    ]
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    (tmp_path / "stars.fits").write_bytes(header + np.arange(8, dtype=">i2").tobytes().ljust(2880, b"\0"))
    with pytest.raises(DataError, match="mode I;16"):
        read_image(tmp_path / "stars.fits")


def test_images_larger_than_a_strip_are_whole(monkeypatch):
    monkeypatch.setattr(images, "_STRIP_PIXELS", 70)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_image(Image.fromarray(pixels)), pixels)
    np.testing.assert_array_equal(load_image(Image.fromarray(WIDE))[..., 0], GRAY)


@pytest.mark.parametrize("kind", ["path", "text", "home", "PIL", "array", "strided array", "tensor"])
def test_every_kind_of_image_is_the_same_array(tmp_path, monkeypatch, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {
        "path": path,
        "text": str(path),
        "home": "~/photo.png",
        "PIL": Image.fromarray(pixels),
        "array": pixels.copy(),
        "strided array": np.repeat(pixels, 2, axis=1)[:, ::2],
        "tensor": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
    }[kind]
    found = load_image(given)
    np.testing.assert_array_equal(found, pixels)
    assert found.flags.c_contiguous
    if kind in ("array", "tensor"):
        given[:] = 0
        np.testing.assert_array_equal(found, pixels)


def test_pil_images_are_turned_upright_and_left_as_they_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        for _ in range(2):
            np.testing.assert_array_equal(load_image(image)[..., 0], np.rot90(pixels, -1))
        assert image.size == (20, 10)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_files_are_turned_upright_once(tmp_path, mode, compression):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    image = Image.fromarray(pixels.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "turned.tif", exif=exif, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.tif")[..., 0], np.rot90(pixels, -1))
    assert image_size(tmp_path / "turned.tif") == (20, 10)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 7), np.uint8), r"grayscale: np.stack\(\[image\] \* 3, axis=-1\)"),
        (np.zeros((5, 7, 1), np.uint8), r"grayscale: np.repeat\(image, 3, axis=-1\)"),
        (np.zeros((5, 7, 4), np.uint8), r"fourth channel.*image\[..., :3\]"),
        (np.zeros((3, 5, 7), np.uint8), r"\(H, W, 3\) uint8 is wanted.*image.transpose\(1, 2, 0\)"),
        (np.zeros((2, 5, 7, 3), np.uint8), "batch: give its images one at a time"),
        (np.zeros((0, 7, 3), np.uint8), r"\(0, 7, 3\) .*empty"),
        (np.zeros(7, np.uint8), r"\(7,\) and type uint8 is no image"),
        (np.ones((5, 7, 3)) / 2, r"type float64 has values from 0.5 to 0.5.*\(image \* 255\).round\(\).astype"),
        (np.full((5, 7, 3), 200, np.float32), r": image.round\(\).astype\(np.uint8\)"),
        (np.full((5, 7, 3), -2, np.float32), "undo its normalisation"),
        (np.full((5, 7, 3), np.nan), "from nan to nan; .*undo its normalisation"),
        (np.full((5, 7, 3), 200), r": image.astype\(np.uint8\)"),
        (np.full((5, 7, 3), 2000, np.uint16), r"type uint16.*: \(image >> 8\).astype\(np.uint8\), if it has 16 bits"),
        (np.ones((5, 7, 3), bool), r"\(image \* 255\).astype\(np.uint8\)"),
        (np.full((5, 7, 3), "a"), "type <U1 is no image"),
    ],
)
def test_arrays_that_are_no_images_are_told_what_is_wanted(array, message):
    with pytest.raises(DataError, match=message):
        load_image(array)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(5, 7, 3, dtype=torch.uint8), r"a tensor of shape \(5, 7, 3\).*image.permute\(2, 0, 1\)"),
        (torch.zeros(5, 7, dtype=torch.uint8), r"grayscale: image.expand\(3, -1, -1\)"),
        (torch.zeros(4, 5, 7, dtype=torch.uint8), r"fourth channel.*image\[:3\]"),
        (torch.zeros(1, 3, 5, 7, dtype=torch.uint8), "batch"),
        (torch.rand(3, 5, 7, requires_grad=True), r"\(image \* 255\).round\(\).to\(torch.uint8\)"),
        (torch.zeros(3, 5, 7, dtype=torch.bfloat16), "a tensor of torch.bfloat16, torch.strided, on cpu is no image"),
    ],
)
def test_tensors_that_are_no_images_are_told_what_is_wanted(tensor, message):
    with pytest.raises(DataError, match=message):
        load_image(tensor)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", [np.zeros((5, 7, 3), np.uint8)], {"image": 1}, np.uint8(3)])
def test_what_is_no_image_is_a_type_error(thing):
    with pytest.raises(TypeError, match=f"{type(thing).__name__} is no image.*A path, a PIL image"):
        load_image(thing)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.org/photo.jpg", "cannot read the image https://example.org/photo.jpg: .*Download it first"),
        (Path("s3://bucket/photo.jpg"), "Download it first"),
        ("data:image/png;base64," + 100_000 * "A", "Download it first"),
        ("", "it is a folder"),
        ("missing.png", "missing.png: No such file or directory"),
        ("nul\0.png", "null"),
    ],
)
def test_paths_that_lead_to_no_file_are_told_what_is_wanted(path, message):
    with pytest.raises(DataError, match=message):
        load_image(path)


@pytest.mark.parametrize("read", [read_image, read_values, image_size])
def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(DataError, match="it is not a regular file"):
            read(path)


def test_empty_and_closed_pil_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="it is empty: 0x5 pixels"):
        load_image(Image.new("RGB", (0, 5)))
    Image.new("RGB", (4, 5)).save(tmp_path / "closed.png")
    with Image.open(tmp_path / "closed.png") as image:
        pass
    with pytest.raises(DataError, match="cannot read the PIL image of mode RGB"):
        load_image(image)
