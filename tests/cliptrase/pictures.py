"""Pictures in which there are regions."""

from tests.clip.tiny import images


def pictures():
    """Three images of other sizes, each half one colour and half another, so that there are regions."""
    result = []
    for index, (h, w) in enumerate([(48, 40), (30, 61), (64, 64)]):
        picture = 0.2 * images(1, h, w)[0]
        picture[index % 3, :, : w // 2] += 2
        picture[(index + 1) % 3, :, w // 2 :] -= 2
        result.append(picture)
    return result
