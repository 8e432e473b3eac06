"""`colour-gradient`: which colours a picture has, where they are, and in which directions its edges run.

No pretrained knowledge. Each picture is resized to 64 x 64 (its aspect ratio is lost, but shops frame their pictures
similarly) and described by three blocks, each square-rooted (so that a large plain background does not drown the rest)
and scaled to its weight; the whole row then has length 1.

    colour    joint histogram over L*a*b*, 4 x 6 x 6 bins          144
    layout    the same with 2 x 3 x 3 bins in each of 3 x 3 cells  162
    gradient  8 edge directions in each of 6 x 6 cells             288

Every value is shared between the two nearest bins of each axis, so that a shade near a border does not jump.
Axes: n pictures of a chunk, S = 64 pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.features.manifest import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 64
CHUNK = 64  # pictures processed together: a few MB per intermediate array
COLOUR_BINS = (4, 6, 6)
LAYOUT_BINS, LAYOUT_CELLS = (2, 3, 3), 3
DIRECTIONS, GRADIENT_CELLS = 8, 6
# On real product photos, shape says more about the kind of product than colour does, hence its weight.
WEIGHTS = {"colour": 1.0, "layout": 0.7, "gradient": 2.0}
CHROMA_RANGE = 9.0  # bounds sign(a) sqrt(|a|), so |a*|, |b*| up to 81; the root spreads the crowded greys

_RGB_TO_XYZ = np.array(  # sRGB primaries, D65 white
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
)
_WHITE = np.array([0.95047, 1.0, 1.08883], dtype=np.float32)


@dataclass(frozen=True)
class ColourGradient:
    """Encodes a picture as colour histograms and histograms of oriented gradients, 594 numbers."""

    name = "colour-gradient"
    modality: Modality = "image"

    def identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": 1,
            "resize": f"{SIZE}x{SIZE} bilinear, antialiased, aspect ratio not kept",
            "colour": f"L*a*b* {COLOUR_BINS}, chroma root range {CHROMA_RANGE}",
            "layout": f"L*a*b* {LAYOUT_BINS} in {LAYOUT_CELLS}x{LAYOUT_CELLS} cells",
            "gradient": f"{DIRECTIONS} unsigned directions of L* in {GRADIENT_CELLS}x{GRADIENT_CELLS} cells",
            "scaling": "square root, blocks of length 1 times weight, rows of length 1",
            "weights": WEIGHTS,
        }

    def encode(self, inputs: Iterable["Image | None"]) -> tuple[np.ndarray, np.ndarray]:
        """Encode RGB pictures as float32 [n, 594] with rows of length 1; None is absent."""
        parts, present = [], []
        for chunk in _chunks(iter(inputs)):
            is_present = np.array([pixels is not None for pixels in chunk])
            values = np.zeros((len(chunk), _width()), np.float32)
            if is_present.any():
                values[is_present] = describe(np.stack([pixels for pixels in chunk if pixels is not None]))
            parts.append(values)
            present.append(is_present)
        if not parts:
            return np.zeros((0, _width()), np.float32), np.zeros(0, bool)
        return np.concatenate(parts), np.concatenate(present)


def _width() -> int:
    cells = LAYOUT_CELLS**2 * int(np.prod(LAYOUT_BINS))
    return int(np.prod(COLOUR_BINS)) + cells + GRADIENT_CELLS**2 * DIRECTIONS


def _chunks(inputs: Iterator["Image | None"]) -> Iterator[list[np.ndarray | None]]:
    while chunk := [None if image is None else _shrink(image) for image in islice(inputs, CHUNK)]:
        yield chunk


def _shrink(image: "Image") -> np.ndarray:
    """Return the picture as uint8 [S, S, 3]."""
    from PIL.Image import Resampling

    return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Resampling.BILINEAR))


def describe(pixels: np.ndarray) -> np.ndarray:
    """Describe pictures: uint8 [n, S, S, 3] -> float32 [n, 594], rows of length 1."""
    lab = to_lab(pixels.astype(np.float32) / 255)
    blocks = {
        "colour": _colour_histogram(lab, COLOUR_BINS, cells=1),
        "layout": _colour_histogram(lab, LAYOUT_BINS, cells=LAYOUT_CELLS),
        "gradient": _gradient_histogram(lab[..., 0] / 100),
    }
    row = np.concatenate([WEIGHTS[name] * _unit(np.sqrt(block)) for name, block in blocks.items()], axis=1)
    return _unit(row).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB in 0..1 [..., 3] to CIE L*a*b* (D65): L* 0..100, a* and b* about -128..128."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (24389 / 27 / 116) + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _cell(cells: int) -> np.ndarray:
    """Return the number of the cell in which each pixel lies, [S, S], row by row."""
    side = np.arange(SIZE) * cells // SIZE
    return side[:, None] * cells + side


def _shares(values: np.ndarray, low: float, high: float, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower of the two nearest bins, and the share that belongs to the upper."""
    scaled = np.clip((values - low) / (high - low), 0, 1) * (bins - 1)
    lower = np.minimum(scaled.astype(np.int64), bins - 2)
    return lower, scaled - lower


def _colour_histogram(lab: np.ndarray, bins: tuple[int, int, int], *, cells: int) -> np.ndarray:
    """Count pixels per cell and L*a*b* bin: [n, S, S, 3] -> [n, cells * cells * bins]."""
    n = len(lab)
    chroma = np.sign(lab[..., 1:]) * np.sqrt(np.abs(lab[..., 1:]))
    axes = [
        _shares(lab[..., 0], 0, 100, bins[0]),
        _shares(chroma[..., 0], -CHROMA_RANGE, CHROMA_RANGE, bins[1]),
        _shares(chroma[..., 1], -CHROMA_RANGE, CHROMA_RANGE, bins[2]),
    ]
    cell = np.arange(n)[:, None, None] * cells**2 + _cell(cells)
    total = np.zeros(n * cells**2 * int(np.prod(bins)))
    for corner in product((0, 1), repeat=3):
        index, weight = cell, np.ones(1)
        for (lower, share), upper, size in zip(axes, corner, bins, strict=True):
            index = index * size + lower + upper
            weight = weight * (share if upper else 1 - share)
        total += np.bincount(index.ravel(), weight.ravel(), minlength=len(total))
    return total.reshape(n, -1)


def _gradient_histogram(grey: np.ndarray) -> np.ndarray:
    """Sum edge strength per cell and unsigned direction: [n, S, S] in 0..1 -> [n, cells * cells * directions]."""
    n = len(grey)
    framed = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    dy = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
    dx = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
    strength = np.hypot(dx, dy)
    turn = np.arctan2(dy, dx) % np.pi / np.pi * DIRECTIONS
    lower = turn.astype(np.int64)
    share = turn - lower
    first_bin = (np.arange(n)[:, None, None] * GRADIENT_CELLS**2 + _cell(GRADIENT_CELLS)) * DIRECTIONS
    total = np.zeros(n * GRADIENT_CELLS**2 * DIRECTIONS)
    for upper, weight in ((0, 1 - share), (1, share)):
        index = first_bin + (lower + upper) % DIRECTIONS
        total += np.bincount(index.ravel(), (strength * weight).ravel(), minlength=len(total))
    return total.reshape(n, -1)
