"""Published archives in small: a few tiny pictures in each original layout."""

import pickle

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (4, 6)  # height, width
STEMS = ("2008_000001", "2008_000002")


def spread(*values, dtype=np.uint8):
    """A label map of :data:`SIZE` with these values in its first row and the last one everywhere else."""
    labels = np.full(SIZE, values[-1], dtype)
    labels[0, : len(values)] = values
    return labels


def write_png(path, array, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette([index // 3 % 256 for index in range(768)])
    image.save(path)


def write_photo(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(256, size=(*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def coco(root, split="val2017", stems=("000000000139", "000000000285")):
    for stem in stems:
        write_photo(root / "coco" / split / f"{stem}.jpg")
        # person, the id behind the first gap, the last thing, the first and the last stuff, unlabelled
        write_png(root / "coco" / "stuffthingmaps" / split / f"{stem}.png", spread(0, 12, 89, 91, 181, 255))


def ade150(root, labels=None):
    for stem in ("ADE_val_00000001", "ADE_val_00000002"):
        write_photo(root / "ADEChallengeData2016/images/validation" / f"{stem}.jpg")
        path = root / "ADEChallengeData2016/annotations/validation" / f"{stem}.png"
        write_png(path, spread(0, 1, 150) if labels is None else labels)


def voc(root):
    folder = root / "VOC2012"
    for stem in (*STEMS, "2008_000009"):
        write_photo(folder / "JPEGImages" / f"{stem}.jpg")
        write_png(folder / "SegmentationClass" / f"{stem}.png", spread(0, 1, 20, 255), palette=True)
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(STEMS) + "\n")
    (lists / "train.txt").write_text("2008_000009\n")


def pascal_context(root):
    folder = root / "VOC2010"
    for stem in (*STEMS, "2008_000009"):
        write_photo(folder / "JPEGImages" / f"{stem}.jpg")
        (folder / "trainval").mkdir(exist_ok=True)
        # nothing, accordion, aeroplane, table, wood, wool
        labels = spread(0, 1, 2, 397, 458, 459, dtype=np.uint16)
        savemat(folder / "trainval" / f"{stem}.mat", {"LabelMap": labels})
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(STEMS) + "\n")
    (lists / "train.txt").write_text("2008_000009\n")


def ade_full(root, objects, seen, size=(4, 6)):
    """One picture; ``objects`` are the names in the index, ``seen`` the numbers (from 1) in the picture's first row."""
    folder = root / "ADE20K_2021_17_01"
    place = folder / "images/ADE/validation/urban/street"
    write_photo(place / "ADE_val_00000001.jpg", size)
    numbers = np.full(size, seen[-1])
    numbers[0, : len(seen)] = seen
    instances = np.arange(numbers.size).reshape(size) % 200
    colours = np.stack([numbers // 256 * 10, numbers % 256, instances], -1).astype(np.uint8)
    write_png(place / "ADE_val_00000001_seg.png", colours)
    write_png(place / "ADE_val_00000001_parts_1.png", colours)
    index = {"objectnames": list(objects), "filename": np.array(["ADE_val_00000001.jpg"], dtype=object)}
    (folder / "index_ade20k.pkl").write_bytes(pickle.dumps(index))


def cityscapes(root):
    for city in ("frankfurt", "lindau"):
        write_photo(root / "cityscapes/leftImg8bit/val" / city / f"{city}_000000_000019_leftImg8bit.png")
        folder = root / "cityscapes/gtFine/val" / city
        write_png(folder / f"{city}_000000_000019_gtFine_labelIds.png", spread(0, 7, 9, 33))
        write_png(folder / f"{city}_000000_000019_gtFine_color.png", np.zeros((*SIZE, 3), np.uint8))
