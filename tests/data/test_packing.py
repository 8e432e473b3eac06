"""mmbench.data.packing: histories side by side, none over another, few places left."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.packing import arrange, arrange_even, pack


@given(lengths=st.lists(st.integers(1, 64), max_size=200))
@settings(max_examples=100, deadline=None)
def test_pack_puts_each_row_once_without_overlap(lengths: list[int]) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    bins, place = pack(sizes, 64)
    taken = set()
    for row, start, length in zip(bins.tolist(), place.tolist(), lengths, strict=True):
        assert 0 <= start <= 64 - length
        cells = {(row, start + k) for k in range(length)}
        assert not cells & taken
        taken |= cells
    assert len(taken) == sum(lengths)
    # Best fit leaves at most one bin that is not more than half full.
    filled = np.bincount(bins, weights=sizes) if len(lengths) else np.zeros(0)
    assert (filled <= 32).sum() <= 1


def best_fit(lengths: list[int], width: int) -> list[tuple[int, int]]:
    """Best-fit decreasing as it is told: (bin, first place) of each history; of bins alike, the first."""
    answer, free = [(0, 0)] * len(lengths), list[int]()
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fitting = [(room, number) for number, room in enumerate(free) if room >= lengths[row]]
        if not fitting:
            free.append(width)
            fitting = [(width, len(free) - 1)]
        room, number = min(fitting)
        answer[row] = number, width - room
        free[number] -= lengths[row]
    return answer


@given(
    steps=st.lists(st.lists(st.integers(1, 20), max_size=30), min_size=1, max_size=5),
    width=st.sampled_from([20, 33, 40_000]),
)
@settings(max_examples=80, deadline=None)
def test_many_steps_at_once_are_each_packed_best_fit(steps: list[list[int]], width: int) -> None:
    step = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    bins, place = pack(
        np.concatenate([np.array(sizes, np.int64) for sizes in steps]), width, step, len(steps)
    )
    expected = [pair for lengths in steps for pair in best_fit(lengths, width)]
    assert list(zip(bins.tolist(), place.tolist(), strict=True)) == expected


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
@given(
    steps=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=2, max_size=6),
    group=st.sampled_from([1, 2]),
    is_even=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_arranged_histories_lie_apart_and_are_numbered(
    layout: str, steps: list[list[int]], group: int, is_even: bool
) -> None:
    steps = steps[: len(steps) // group * group]
    lengths = np.concatenate([np.array(sizes, np.int64) for sizes in steps])
    step = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    grids = arrange(
        lengths,
        step,
        len(steps),
        layout=layout,
        max_len=9,
        group=group,
        is_even=is_even,  # type: ignore[arg-type]
    )
    for number, (height, width) in enumerate(grids.shapes):
        assert grids.base[number + 1] - grids.base[number] == height * width
        assert grids.shapes[number] == grids.shapes[number // group * group]
        assert not is_even or height % 8 == 0
        taken = np.zeros((height, width), int)
        rows: dict[int, list[tuple[int, int]]] = {}
        chosen = step == number
        for place, length, k in zip(grids.start[chosen], lengths[chosen], grids.number[chosen], strict=True):
            row, column = divmod(int(place), width)
            assert column + length <= width
            taken[row, column : column + length] += 1
            rows.setdefault(row, []).append((column, int(k)))
        assert taken.max() == 1
        assert all([k for _, k in sorted(row)] == list(range(1, len(row) + 1)) for row in rows.values())


@pytest.mark.parametrize(
    ("n_short", "max_len", "is_even", "shape"),
    [
        (0, 50, False, (40, 50)),  # 40 windows
        (28, 50, False, (43, 50)),  # and 28 histories of 5 places, less than an eighth of all
        (100, 50, False, (42, 64)),  # now they fill the gaps of 14
        (0, 50, True, (40, 64)),  # on a GPU
        (0, 20, False, (14, 64)),  # three side by side
        (0, 70, False, (40, 70)),
    ],
)
def test_rows_are_as_wide_as_windows_where_hardly_anything_fills_their_gaps(
    n_short: int, max_len: int, is_even: bool, shape: tuple[int, int]
) -> None:
    lengths = np.repeat([max_len, 5], [40, n_short])
    grids = arrange(lengths, np.zeros_like(lengths), 1, layout="packed", max_len=max_len, is_even=is_even)
    assert grids.shapes == [shape]


def test_even_shapes_are_few_and_waste_an_eighth_at_most() -> None:
    shapes = set()
    for height in range(65, 2_000):
        lengths = np.full(height, 5)
        grids = arrange(lengths, np.zeros_like(lengths), 1, layout="fixed", max_len=5, is_even=True)
        assert height <= grids.shapes[0][0] <= 1.13 * height
        shapes |= set(grids.shapes)
    assert len(shapes) < 60


@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_histories_of_like_length_lie_in_columns(lengths: list[int]) -> None:
    sizes = np.array(lengths, np.int64)
    grid = arrange_even(sizes, layout="packed", max_len=50)
    height, width = grid.shapes[0]
    taken = np.zeros(height * width, int)
    for place, length in zip(grid.start, sizes, strict=True):
        assert place % width + length <= width
        taken[place : place + length] += 1
    assert taken.max(initial=0) <= 1
    assert width == max(16, max(lengths))
