"""The drawings of the demo's items: an outline per category, a colour family with a texture per style."""

import colorsys
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 72  # pixels of a finished picture
SCALE = 3  # pictures are drawn this many times larger and reduced, for smooth edges
STYLE_HUES = (0.0, 0.11, 0.36, 0.6, 0.82)  # red, amber, green, blue, purple
Point = tuple[float, float]


def _ring(cx: float, cy: float, radius: float, corners: int, turn: float = 0.0) -> list[Point]:
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    return [(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


# Outlines lie in a unit square, y down; several polygons make a product. Order: mmbench.data.demo.CATEGORIES.
OUTLINES: tuple[list[list[Point]], ...] = (
    [
        _box(0.24, 0.14, 0.78, 0.86),
        *(_box(0.17, y, 0.30, y + 0.05) for y in (0.22, 0.38, 0.54, 0.70)),
    ],  # notebook
    [
        _box(0.18, 0.25, 0.66, 0.84),
        _box(0.66, 0.36, 0.84, 0.44),
        _box(0.76, 0.36, 0.84, 0.70),
        _box(0.66, 0.62, 0.84, 0.70),
    ],  # mug with its handle
    [
        _box(0.14, 0.48, 0.32, 0.84),
        _box(0.68, 0.48, 0.86, 0.84),
        _box(0.18, 0.18, 0.25, 0.5),
        _box(0.75, 0.18, 0.82, 0.5),
        _box(0.18, 0.14, 0.82, 0.23),
    ],  # headphones
    [
        _box(0.12, 0.12, 0.48, 0.48),
        _box(0.52, 0.12, 0.88, 0.48),
        _box(0.12, 0.52, 0.48, 0.88),
        _box(0.52, 0.52, 0.88, 0.88),
    ],  # board game: four fields
    [
        [(0.12, 0.36), (0.52, 0.36), (0.52, 0.64), (0.12, 0.64)],
        [(0.52, 0.36), (0.88, 0.16), (0.88, 0.84), (0.52, 0.64)],
    ],  # bike light with its beam
    [
        [
            (0.12, 0.12),
            (0.5, 0.22),
            (0.88, 0.12),
            (0.78, 0.5),
            (0.88, 0.88),
            (0.5, 0.78),
            (0.12, 0.88),
            (0.22, 0.5),
        ]
    ],  # cushion
    [[(0.28, 0.12), (0.56, 0.12), (0.56, 0.56), (0.88, 0.66), (0.88, 0.86), (0.28, 0.86)]],  # boot
    [_box(0.16, 0.28, 0.84, 0.42), [(0.22, 0.42), (0.78, 0.42), (0.66, 0.88), (0.34, 0.88)]],  # plant pot
    [_box(0.08, 0.34, 0.92, 0.66)],  # towel
    [_ring(0.5, 0.52, 0.3, 6, math.pi / 6), _box(0.4, 0.1, 0.6, 0.24), _box(0.34, 0.8, 0.66, 0.9)],  # lantern
)


def draw(category: int, style: int, rng: np.random.Generator) -> "Image":
    """Draw an RGB picture of SIZE x SIZE; `rng` moves, turns and shades it a little, as photographs differ."""
    from PIL import Image

    side = SIZE * SCALE
    background = Image.new("RGB", (side, side), tuple(int(v) for v in np.full(3, rng.integers(232, 250))))
    background.paste(_fabric(style, side, rng), mask=_mask(category, side, rng))
    return background.resize((SIZE, SIZE), Image.Resampling.BOX)


def _mask(category: int, side: int, rng: np.random.Generator) -> "Image":
    from PIL import Image, ImageDraw

    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    size, turn = rng.uniform(0.82, 1.0), rng.uniform(-0.12, 0.12)
    shift = rng.uniform(-0.04, 0.04, 2)
    cos, sin = size * math.cos(turn), size * math.sin(turn)
    for polygon in OUTLINES[category]:
        moved = [
            (
                side * (0.5 + cos * (x - 0.5) - sin * (y - 0.5) + shift[0]),
                side * (0.5 + sin * (x - 0.5) + cos * (y - 0.5) + shift[1]),
            )
            for x, y in polygon
        ]
        pen.polygon(moved, fill=255)
    return mask


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _fabric(style: int, side: int, rng: np.random.Generator) -> "Image":
    """Draw two shades of the style's colour in the style's texture, RGB [side, side]."""
    from PIL import Image

    hue = STYLE_HUES[style] + rng.uniform(-0.02, 0.02)
    light = _colour(hue, rng.uniform(0.45, 0.6), rng.uniform(0.85, 0.98))
    dark = _colour(hue, rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.7))
    y, x = np.mgrid[:side, :side] / side
    pattern = TEXTURES[style](x + rng.uniform(), y + rng.uniform(), rng.uniform(5, 7))
    return Image.fromarray(np.where(pattern[..., None], light, dark).astype(np.uint8))


Texture = Callable[
    [np.ndarray, np.ndarray, float], np.ndarray
]  # x, y, repeats per picture -> True = light shade
TEXTURES: tuple[Texture, ...] = (
    lambda x, y, n: (n * x) % 1 < 0.5,  # upright stripes
    lambda x, y, n: ((n * x) % 1 - 0.5) ** 2 + ((n * y) % 1 - 0.5) ** 2 > 0.1,  # dots
    lambda x, y, n: ((n * x) % 1 < 0.5) ^ ((n * y) % 1 < 0.5),  # checks
    lambda x, y, n: (n * (x + y) / 1.4) % 1 < 0.5,  # diagonals
    lambda x, y, n: (n * y) % 1 < 0.75,  # lying stripes
)
