"""Colours of classes: far apart for normal and for colour-blind eyes, and the same in every image."""

from __future__ import annotations

import functools

import numpy as np

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of curves and bars: Okabe and Ito's, which the colour-blind can tell apart; without yellow, too faint on white."""
LEVELS = 13
"""Values of a channel in the lattice that colours are taken from."""
CHROMA = 60
"""Difference of a colour's largest and smallest channel, at least: greys mean no class."""
GREYS = (0, 128, 255)
"""They mean no class, outlines and paper: colours keep away from them."""

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009,
# table 1, severity 1.0; they multiply linear RGB.
VISIONS = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
# sRGB's primaries in CIE XYZ (IEC 61966-2-1).
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@functools.cache
def class_colors(count: int) -> np.ndarray:
    """Distinct RGB colours, (count, 3) uint8; the first ones do not depend on ``count``.

    Each colour is the one of a lattice that is farthest from all before it, as in Glasbey et al., "Colour displays for
    categorical images", 2007. Far is the distance in CIELAB as the worst of :data:`VISIONS` sees it.
    """
    levels = np.linspace(0, 255, LEVELS).round()
    lattice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lattice = lattice[np.ptp(lattice, axis=1) >= CHROMA]
    seen = lab_as_seen(lattice)
    taken = lab_as_seen(np.repeat(GREYS, 3).reshape(-1, 3))
    distance = np.linalg.norm(seen[:, :, None] - taken[:, None], axis=-1).min((0, 2))
    colors = np.empty((count, 3), dtype=np.uint8)
    for index in range(count):
        chosen = distance.argmax()
        colors[index] = lattice[chosen]
        distance = np.minimum(distance, np.linalg.norm(seen - seen[:, [chosen]], axis=-1).min(0))
    return colors


def lab_as_seen(colors: np.ndarray) -> np.ndarray:
    """CIELAB (1976, white D65) of RGB colours as each of :data:`VISIONS` sees them.

    Args:
        colors: (N, 3) in [0, 255], sRGB.

    Returns:
        (4, N, 3), lightness in [0, 100] first; a distance of 2.3 is just noticeable.
    """
    values = np.asarray(colors, dtype=np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.stack([(linear @ np.array(matrix).T).clip(0, 1) for matrix in VISIONS.values()])
    x, y, z = np.moveaxis(_lab_response(seen @ _XYZ.T / _XYZ.sum(1)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lab_response(ratio: np.ndarray) -> np.ndarray:
    """CIELAB's cube root, straight near zero."""
    return np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
