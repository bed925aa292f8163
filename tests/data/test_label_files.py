"""Label files: the values that are in them, or a refusal that says why."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from san_cliptrase.data.mapper import read_labels
from san_cliptrase.errors import DataError
from san_cliptrase.images import read_values
from tests.data.label_files import chunk, png, tiff

VALUES = np.random.default_rng(0).integers(0, 2**16, (19, 13))
EVERY_BITS = [1, 2, 4, 8, 16]


def of(bits):
    return VALUES % 2**bits


def typed(bits):
    return of(bits).astype(np.uint16 if bits == 16 else np.uint8)


@pytest.fixture
def stored(tmp_path):
    """Function of a file's content: the values that are read from it."""

    def read(content):
        path = tmp_path / "labels.png"
        path.write_bytes(content)
        return read_values(path)

    return read


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "palette"), [*((bits, False) for bits in EVERY_BITS), *((b, True) for b in EVERY_BITS[:4])]
)
def test_png_files_of_every_depth_have_the_values_that_were_written(stored, bits, palette, interlaced):
    np.testing.assert_array_equal(stored(png(of(bits), bits, palette, interlaced)), of(bits))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (8, 8)])
def test_small_interlaced_png_files_are_whole(stored, shape):
    values = np.arange(shape[0] * shape[1]).reshape(shape) % 16
    np.testing.assert_array_equal(stored(png(values, 4, interlaced=True)), values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("bits", EVERY_BITS)
def test_tiff_files_of_every_depth_have_the_values_that_were_written(stored, bits, rows, compression, order):
    np.testing.assert_array_equal(stored(tiff(typed(bits), bits, order, compression, rows)), of(bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_files_with_a_palette_have_its_indices(stored, bits):
    content = tiff(typed(bits), bits, t262=3, t320=[7] * 3 * 2**bits)
    np.testing.assert_array_equal(stored(content), of(bits))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "f4"])
def test_negative_values_are_not_taken_for_others(stored, kind, order):
    values = (np.arange(12).reshape(3, 4) - 5).astype(kind)
    np.testing.assert_array_equal(stored(tiff(values, 8 * values.itemsize, order)), values)


def test_values_of_32_bits_without_sign_are_not_negative(stored):
    values = np.array([[0, 2**32 - 1]], np.uint32)
    np.testing.assert_array_equal(stored(tiff(values, 32)), values)


def test_whole_numbers_may_be_stored_as_floats(stored):
    values = np.float32([[0, 3, 255]])
    found = stored(tiff(values, 32))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("odd", [0.9, 1 / 3, np.nan, np.inf, -np.inf, 1e30, 2.0**24])
def test_fractions_and_what_is_no_number_are_refused(stored, odd):
    with pytest.raises(DataError, match=f"labels.png: it holds {odd:.4g}".replace("+", r"\+") + ": labels are whole"):
        stored(tiff(np.float32([[0, odd, 2]]), 32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(typed(4), 4, t262=0), r"photometric interpretation is 0 \(WhiteIsZero\).* 4 bits"),
        (tiff(typed(8), 8, t262=0), "WhiteIsZero"),
        (tiff(typed(8), 8, t262=None), "WhiteIsZero"),
        (tiff(typed(16), 16, t262=0), "WhiteIsZero"),
        (tiff(typed(8), 8, t262=6), "photometric interpretation is 6"),
        (tiff(typed(4), 4, t284=2), "PlanarConfiguration 2"),
        (tiff(typed(8), 8, t274=3), r"EXIF tag turns it \(orientation 3\)"),
        (tiff(typed(8), 8, t274=6), r"EXIF tag turns it \(orientation 6\)"),
    ],
)
def test_tiff_files_whose_values_could_mean_something_else_are_refused(stored, content, message):
    with pytest.raises(DataError, match=message):
        stored(content)


def test_a_png_that_is_to_be_turned_is_refused(stored):
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    with pytest.raises(DataError, match="orientation 3"):
        stored(png(of(8), before=chunk(b"eXIf", exif)))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "JPEG2000"])
def test_other_formats_are_refused_whatever_the_file_is_called(tmp_path, format):
    Image.fromarray(typed(8)).save(tmp_path / "labels.png", format)
    with pytest.raises(DataError, match=f"labels.png: it is a {format} file. Label maps are PNG or TIFF"):
        read_values(tmp_path / "labels.png")


@pytest.mark.parametrize("compression", ["jpeg", "group3", "group4"])
def test_tiff_compressions_that_change_values_or_hide_damage_are_refused(tmp_path, compression):
    image = Image.fromarray(typed(8))
    (image if compression == "jpeg" else image.convert("1")).save(tmp_path / "labels.tif", compression=compression)
    with pytest.raises(DataError, match=rf"its compression \({compression}\) changes values or hides damage"):
        read_values(tmp_path / "labels.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_lossless_compressions_are_read(tmp_path, compression):
    Image.fromarray(typed(8)).save(tmp_path / "labels.tif", compression=compression)
    np.testing.assert_array_equal(read_values(tmp_path / "labels.tif"), of(8))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_files_of_several_images_are_refused(tmp_path, ending):
    images = [Image.fromarray(typed(8) // 2 + number) for number in range(2)]
    images[0].save(tmp_path / f"labels.{ending}", save_all=True, append_images=images[1:])
    with pytest.raises(DataError, match="it holds several images"):
        read_values(tmp_path / f"labels.{ending}")


def test_channels_are_refused_in_tiff_files_too(tmp_path):
    Image.new("RGB", (4, 5)).save(tmp_path / "labels.tif")
    with pytest.raises(DataError, match="it has 3 channels"):
        read_values(tmp_path / "labels.tif")


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_png_whose_data_end_early_is_refused(stored, monkeypatch, cut, interlaced, truncated):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)  # another library may have set it
    with pytest.raises(DataError, match="labels.png: (its data give|image file is truncated)"):
        stored(png(of(8), cut=cut, interlaced=interlaced))


def raster():
    return b"".join(b"\0" + row.tobytes() for row in typed(8))


def parts(*data, end=b"IEND"):
    head = struct.pack(">IIBBBBB", 13, 19, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(data) + (chunk(end, b"") if end else b"")


@pytest.mark.parametrize(
    "content",
    [
        parts(chunk(b"IDAT", zlib.compress(raster())), end=None),
        parts(chunk(b"IDAT", zlib.compress(raster())[:-4])),
        parts(chunk(b"IDAT", zlib.compress(raster())[:-1] + b"?")),
        parts(chunk(b"IDAT", zlib.compress(raster()))[:-1] + b"?"),
        parts(chunk(b"IDAT", zlib.compress(raster() + b"\0" * 14))),
        parts(),
        parts(chunk(b"IDAT", b"")),
        parts(chunk(b"IDAT", zlib.compress(raster())), chunk(b"IHDR", struct.pack(">IIBBBBB", 13, 9, 8, 0, 0, 0, 0))),
        parts(chunk(b"IDAT", zlib.compress(raster())))[:-3],
    ],
    ids=[
        "no end", "no check sum of the data", "a wrong one", "a wrong one of the chunk", "too much", "no data",
        "empty data", "two heads", "a cut end",
    ],
)  # fmt: skip
def test_a_damaged_png_is_refused(stored, content):
    with pytest.raises(DataError, match=r"labels.png: .*"):
        stored(content)


def test_a_png_in_many_chunks_and_with_others_around_is_read(stored):
    data = zlib.compress(raster())
    cut = [chunk(b"IDAT", data[start : start + 50]) for start in range(0, len(data), 50)]
    extra = chunk(b"tEXt", b"Comment\0hello")
    np.testing.assert_array_equal(stored(parts(extra, *cut, extra) + b"rest"), of(8))


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        tiff(typed(8), rows=4)[:200],
        tiff(typed(8), rows=4, t273=[8] * 4, t279=[52] * 4),
        tiff(typed(8), rows=4, t273=[8, 60, 112, 164, 10**6]),
        tiff(typed(8), rows=4, t273=[8, 60, 0, 164, 216]),
        tiff(typed(8), t279=19),
        tiff(typed(8), t257=40),
        tiff(typed(8), compression=8, t279=30),
        tiff(typed(8), compression=8, t257=40),
        tiff(typed(8), compression=8, t257=40, t278=40),
        tiff(typed(8)[:9], compression=8, t257=19, t278=19),
    ],
)
def test_a_tiff_that_is_shorter_than_its_size_is_refused(stored, monkeypatch, content, truncated):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
    with pytest.raises(DataError, match=r"labels.png: .*"):
        stored(content)


def test_this_package_leaves_pillows_switch_for_damaged_files_off():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_classes_are_read_from_few_bits(tmp_path):
    for name, content in (("a.png", png(of(4), 4)), ("b.tif", tiff(typed(2), 2))):
        (tmp_path / name).write_bytes(content)
        labels = read_labels(str(tmp_path / name), 16, 255, (19, 13))
        np.testing.assert_array_equal(labels, of(4 if name == "a.png" else 2))
