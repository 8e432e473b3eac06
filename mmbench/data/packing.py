"""Where histories lie in the rows of a batch: several side by side, or a single history in each row.

The histories of many steps are arranged at once, because a loop in Python over the histories of a step would cost
more than a small model's step on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmbench.data.views import ranges

BIN_WIDTH, NARROWEST_BIN = 64, 16  # widths of packed rows: in training, and the least in a ranking
WINDOWS = 7 / 8  # of the places; with fewer the other histories fill the gaps
Layout = Literal["packed", "padded", "fixed"]


@dataclass(frozen=True)
class Arrangement:
    """Where histories lie in the flattened grids of S steps, grid after grid."""

    shapes: list[tuple[int, int]]  # rows and width of each step's grid
    base: np.ndarray  # int64 [S + 1], index at which the grid of each step begins
    start: np.ndarray  # int64 [n], index of each history's first event inside its step's grid
    number: np.ndarray  # int64 [n], number of the history inside its row, from 1

    @property
    def size(self) -> int:
        return int(self.base[-1])


def pack(
    lengths: np.ndarray, width: int, step: np.ndarray | None = None, n_steps: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Pack histories into bins of `width` places by best-fit decreasing, separately for each step.

    lengths  int64 [n], each 1..width
    step     int64 [n], sorted: the step of each history
    Returns the bin of each history, counted per step, and the offset at which it begins in the bin, int64 [n].
    """
    step = np.zeros(len(lengths), np.int64) if step is None else step
    order = np.lexsort((-lengths, step))
    count = np.bincount(step, minlength=n_steps)
    column = ranges(np.zeros_like(count), count)
    signed, unsigned = (np.int16, np.uint16) if width < 2**15 else (np.int32, np.uint32)
    sizes = np.zeros((n_steps, int(count.max(initial=0))), signed)
    sizes[step[order], column] = lengths[order]
    free = np.full((n_steps, sizes.shape[1] + 1), width, signed)
    bins, offset = np.zeros((2, *sizes.shape), np.int64)
    every, n_open = np.arange(n_steps), 0
    for number in range(sizes.shape[1]):
        size = sizes[:, number]
        # A bin without room for the history has a negative rest, which is large as an unsigned number. An empty bin
        # has more room than those in use, so it is taken only when no other fits.
        rest = free[:, : n_open + 1] - size[:, None]
        chosen = rest.view(unsigned).argmin(1)
        room = free[every, chosen]
        bins[:, number], offset[:, number] = chosen, width - room
        free[every, chosen] = room - size
        n_open = max(n_open, int(chosen.max()) + 1)
    packed = np.zeros((2, len(lengths)), np.int64)
    packed[:, order] = bins[step[order], column], offset[step[order], column]
    return packed[0], packed[1]


def arrange(
    lengths: np.ndarray,
    step: np.ndarray,
    n_steps: int,
    *,
    layout: Layout,
    max_len: int,
    group: int = 1,
    is_even: bool = False,
) -> Arrangement:
    """Arrange the histories of many steps.

    lengths, step  int64 [n], the number of places of each history, and its step, sorted
    group          the number of consecutive steps whose grids get the same shape
    is_even        round shapes up, so that only a few shapes occur (a CUDA graph serves a single shape)
    """
    if layout == "packed":
        width = max_len if not is_even and are_windows(lengths, max_len) else max(BIN_WIDTH, max_len)
        bins, offset = pack(lengths, width, step, n_steps)
        number, widths = _numbers(step, bins, offset), np.full(n_steps, width)
    else:
        count = np.bincount(step, minlength=n_steps)
        bins, offset, number = (
            ranges(np.zeros_like(count), count),
            np.zeros_like(lengths),
            np.ones_like(lengths),
        )
        widths = np.full(n_steps, max_len) if layout == "fixed" else _largest(lengths, step, n_steps, 1)
    heights = _largest(bins + 1, step, n_steps, 0)
    if is_even:
        heights = np.array([_round_up(int(height)) for height in heights])
        widths = np.minimum(-(-widths // 8) * 8, np.maximum(widths, max_len))
    heights, widths = (values.reshape(-1, group).max(1).repeat(group) for values in (heights, widths))
    base = np.concatenate([[0], np.cumsum(heights * widths)])
    shapes = list(zip(heights.tolist(), widths.tolist(), strict=True))
    return Arrangement(shapes, base, bins * widths[step] + offset, number)


def are_windows(lengths: np.ndarray, max_len: int) -> bool:
    """Return whether almost all places belong to windows of long histories, which have `max_len` places.

    Rows of this width have no gap then; wider ones would, because hardly any history is short enough to fill it.
    """
    return 2 * max_len > BIN_WIDTH and (lengths == max_len).sum() * max_len > WINDOWS * lengths.sum()


def arrange_even(lengths: np.ndarray, *, layout: Layout, max_len: int) -> Arrangement:
    """Arrange the histories of a single grid, whose lengths differ little (in a ranking)."""
    longest = int(lengths.max(initial=0))
    if layout != "packed":
        return arrange(lengths, np.zeros_like(lengths), 1, layout=layout, max_len=max_len)
    width = max(NARROWEST_BIN, longest)
    per_row = width // max(longest, 1)
    row, column = np.divmod(np.arange(len(lengths)), per_row)
    height = -(-len(lengths) // per_row)
    base = np.array([0, height * width])
    return Arrangement([(height, width)], base, row * width + column * longest, column + 1)


def _largest(values: np.ndarray, step: np.ndarray, n_steps: int, least: int) -> np.ndarray:
    """Return the largest value of each step, at least `least`; int64 [n_steps]."""
    largest = np.full(n_steps, least, np.int64)
    np.maximum.at(largest, step, values)
    return largest


def _round_up(height: int) -> int:
    """Round a number of rows up by an eighth at most, in units of 8 or more."""
    unit = max(8, 2 ** (height.bit_length() - 1) // 8)
    return -(-height // unit) * unit


def _numbers(step: np.ndarray, bins: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the 1-based number of each history inside its bin, from left to right; int64 [n]."""
    order = np.lexsort((offset, bins, step))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(bins[order]) != 0) | (np.diff(step[order]) != 0)
    first = np.flatnonzero(is_first)
    count = np.diff(np.append(first, len(order)))
    number = np.zeros(len(order), np.int64)
    number[order] = ranges(np.ones_like(count), count)
    return number


def steps_of(parts: Sequence[object]) -> np.ndarray:
    """Return int64: for each member of the parts, in order, the number of its part."""
    sizes = np.array([len(part) for part in parts], np.int64)  # type: ignore[arg-type]
    return np.repeat(np.arange(len(parts)), sizes)
