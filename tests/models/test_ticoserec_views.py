"""TiCoSeRec's operations on histories, each against the same with lists and loops."""

import math
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.models.registry import find
from mmbench.nn import augmentation
from tests.models.toy import (
    DAY,
    START,
)

TICO = sys.modules[find("ticoserec").load().__module__]
RELEASED = sys.modules[find("ticoserec:as-released").load().__module__]
HAND = [0, 1, 2, 3, 50, 51, 60]  # times of items 1..6 and of the target after them
RATES = [0.1, 0.3, 0.5, 0.7, 1.0]


def rows_of(times: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Items 1, 2, .. with their gaps and lengths; the last time of each list is the target's."""
    width = max(len(time) for time in times) - 1
    items, gaps = (
        torch.zeros(len(times), width, dtype=torch.int64),
        torch.zeros(len(times), width, dtype=torch.int64),
    )
    for row, time in enumerate(times):
        items[row, : len(time) - 1] = torch.arange(1, len(time))
        gaps[row, : len(time) - 1] = torch.tensor(time).diff()
    return items, gaps, torch.tensor([len(time) - 1 for time in times])


def random_times(seed: int = 0, n: int = 60) -> list[list[int]]:
    """Histories of 1 to 20 items whose gaps often repeat, some of them of years."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 21, n)
    steps = np.array([0, DAY, DAY, 3 * DAY, 900 * DAY, 12345])
    return [[START, *(START + np.cumsum(rng.choice(steps, size))).tolist()] for size in sizes]


def window_variance(times: list[int], start: int, width: int) -> float:
    gaps = np.diff(times[start : start + width - 1])
    return float(np.var(gaps)) if len(gaps) > 1 else 0.0


def most_even(times: list[int], width: int) -> int:
    starts = range(len(times) - width)  # the last time is the target's
    least = min(window_variance(times, start, width) for start in starts)
    return max(
        start for start in starts if math.isclose(window_variance(times, start, width), least, rel_tol=1e-9)
    )


def by_gap(times: list[int], *, largest: bool) -> list[int]:
    gaps = np.diff(times)
    return sorted(range(len(gaps)), key=lambda place: -gaps[place] if largest else gaps[place])


def real(items: Tensor, length: Tensor) -> list[list[int]]:
    assert not any(row[n:].any() for row, n in zip(items, length, strict=True))
    return [row[:n].tolist() for row, n in zip(items, length, strict=True)]


def test_the_window_of_the_specification() -> None:
    items, gaps, length = rows_of([HAND])
    assert [window_variance(HAND, start, 4) for start in (0, 1, 2)] == [0, 0, 529]
    assert augmentation.best_window(gaps, length, torch.tensor([4])).tolist() == [1]
    assert real(*augmentation.crop(items, gaps, length, 0.7)) == [[2, 3, 4, 5]]
    similar = items + 100
    assert real(*augmentation.insert(items, gaps, length, 0.1, similar)) == [[1, 2, 3, 4, 104, 5, 6]]
    actual, _ = augmentation.substitute(items, gaps, length, 0.1, similar)
    assert actual.tolist() == [[101, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("rate", RATES)
def test_crop_takes_the_most_even_window(rate: float) -> None:
    times = random_times()
    items, gaps, length = rows_of(times)
    for time, actual in zip(times, real(*augmentation.crop(items, gaps, length, rate)), strict=True):
        width = int(rate * (len(time) - 1))
        if width <= 2:
            assert len(actual) == 1
            assert 1 <= actual[0] < len(time)
            continue
        start = most_even(time, width)
        assert actual == list(range(start + 1, start + width + 1))
        least = window_variance(time, start, width)
        assert all(least <= window_variance(time, k, width) * (1 + 1e-9) for k in range(len(time) - width))


def test_a_crop_of_one_item_takes_any() -> None:
    items, gaps, length = rows_of([HAND[:4]] * 300)
    torch.manual_seed(0)
    actual, size = augmentation.crop(items, gaps, length, 0.5)
    assert size.eq(1).all()
    assert torch.bincount(actual[:, 0]).tolist()[1:] == pytest.approx([100] * 3, abs=35)


def test_equal_variances_are_equal_whatever_stands_before_them() -> None:
    """After a gap of 20 years a sum of squares in float32 or float64 would have lost the days."""
    days = [0, 7300, 7301, 7303, 7304, 7306, 7307, 7309, 7310]
    times = [[START + DAY * day for day in days]]
    _, gaps, length = rows_of(times)
    assert (
        augmentation.best_window(gaps, length, torch.tensor([4])).tolist() == [most_even(times[0], 4)] == [4]
    )


@pytest.mark.parametrize("rate", RATES)
def test_reorder_shuffles_the_most_even_window_only(rate: float) -> None:
    times = random_times()
    items, gaps, length = rows_of(times)
    torch.manual_seed(0)
    moved = 0
    for time, actual in zip(times, real(*augmentation.reorder(items, gaps, length, rate)), strict=True):
        width, given = int(rate * (len(time) - 1)), list(range(1, len(time)))
        start = most_even(time, width) if width > 1 else 0
        if width < 2:
            assert actual == given
        assert actual[:start] == given[:start]
        assert actual[start + width :] == given[start + width :]
        assert sorted(actual) == given
        moved += actual != given
    assert moved > 0 or rate == 0.1


def test_every_order_of_the_window_is_as_likely() -> None:
    items, gaps, length = rows_of([[0, 1, 2, 3]] * 1200)
    torch.manual_seed(0)
    actual, _ = augmentation.reorder(items, gaps, length, 1.0)
    counts = torch.unique(actual, dim=0, return_counts=True)[1]
    assert counts.tolist() == pytest.approx([200] * 6, abs=60)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mode", ["random", "maximum", "minimum"])
def test_mask_hides_its_share(rate: float, mode: str) -> None:
    times = random_times()
    items, gaps, length = rows_of(times)
    torch.manual_seed(0)
    actual, size = augmentation.mask(items, gaps, length, rate, mode)
    assert torch.equal(size, length)
    for time, row in zip(times, actual.tolist(), strict=True):
        n = len(time) - 1
        hidden = {place for place in range(n) if row[place] == 0}
        assert len(hidden) == int(rate * n)
        assert all(row[place] == place + 1 for place in range(n) if place not in hidden)
        if mode != "random":
            assert hidden == set(by_gap(time, largest=mode == "maximum")[: int(rate * n)])


def test_random_mask_is_uniform() -> None:
    items, gaps, length = rows_of([HAND] * 1000)
    torch.manual_seed(0)
    actual, _ = augmentation.mask(items, gaps, length, 0.5, "random", RELEASED.released_positions)
    assert (actual == 0).sum(0).tolist() == pytest.approx([500] * 6, abs=75)


@pytest.mark.parametrize("rate", RATES)
def test_substitute_changes_the_items_with_the_smallest_gaps(rate: float) -> None:
    times = random_times()
    items, gaps, length = rows_of(times)
    actual = real(*augmentation.substitute(items, gaps, length, rate, items + 100))
    for time, row in zip(times, actual, strict=True):
        n = len(time) - 1
        changed = {place for place in range(n) if row[place] == place + 101}
        assert changed == (set(by_gap(time, largest=False)[: max(1, int(rate * n))]) if n > 1 else set())
        assert all(row[place] == place + 1 for place in range(n) if place not in changed)


@pytest.mark.parametrize("rate", RATES)
def test_insert_follows_the_items_with_the_largest_gaps(rate: float) -> None:
    times = random_times()
    items, gaps, length = rows_of(times)
    actual, size = augmentation.insert(items, gaps, length, rate, items + 100)
    for time, row in zip(times, real(actual, size), strict=True):
        n = len(time) - 1
        after = set(by_gap(time, largest=True)[: max(1, int(rate * n))])
        expected = [[place + 1, place + 101] if place in after else [place + 1] for place in range(n)]
        assert row == [item for part in expected for item in part]


def test_no_other_places_of_insertion_make_gaps_more_even() -> None:
    """With each inserted item in the middle of its gap."""
    times = random_times(seed=1, n=20)
    items, gaps, length = rows_of(times)
    actual, size = augmentation.insert(items, gaps, length, 0.3, items + 100)
    for time, row in zip(times, real(actual, size), strict=True):
        between = np.diff(time).astype(float)
        chosen = tuple(item - 101 for item in row if item > 100)

        def variance(places: tuple[int, ...], between: np.ndarray = between) -> float:
            halves = [[gap / 2, gap / 2] if k in places else [gap] for k, gap in enumerate(between)]
            return float(np.var([gap for part in halves for gap in part]))

        every = [variance(places) for places in combinations(range(len(between)), len(chosen))]
        assert variance(chosen) <= min(every) * (1 + 1e-9)


@pytest.mark.parametrize("largest", [True, False])
def test_places_as_released(largest: bool) -> None:
    """The official code asks at which rank item i stands and takes the answer for a place."""
    times = random_times(seed=2)
    _, gaps, length = rows_of(times)
    count = torch.tensor([max(1, (len(time) - 1) // 3) for time in times])
    actual = RELEASED.released_positions(gaps, length, count, largest=largest)
    ranked = augmentation.choose_positions(gaps, length, count, largest=largest)
    for time, row, n in zip(times, actual, count.tolist(), strict=True):
        order = by_gap(time, largest=largest)
        assert set(row.nonzero()[:, 0].tolist()) == {order.index(i) for i in range(n)}
    assert torch.equal(actual.sum(1), ranked.sum(1))
    assert not torch.equal(actual, ranked)


def views_of(times: list[list[int]], **settings: Any) -> list[list[int]]:
    config = find("ticoserec").config(**settings)
    items, gaps, length = rows_of(times)
    alone = torch.zeros(len(times), dtype=torch.bool)
    alone[0] = True
    return real(*TICO.augment(items, gaps, length, similar=items + 100, unchanged=alone, config=config))


def test_short_histories_are_not_cropped_or_reordered() -> None:
    given = list(range(1, 13))
    times = [[k * k for k in range(13)]] * 400
    torch.manual_seed(0)
    actual = views_of(times, reorder_rate=0.7)
    assert actual[0] == given  # told to stay alone
    longer = sum(len(view) == 18 for view in actual[1:])
    masked = sum(0 in view for view in actual[1:])
    changed = sum(any(item > 100 for item in view) and len(view) == 12 for view in actual[1:])
    assert longer + masked + changed == 399
    assert [longer, masked, changed] == pytest.approx([133] * 3, abs=40)


def test_long_histories_get_all_five() -> None:
    given = list(range(1, 14))
    torch.manual_seed(0)
    actual = views_of([[k * k for k in range(14)]] * 500, reorder_rate=0.7)
    assert actual[0] == given
    kinds = {
        "insert": [len(view) > 13 for view in actual[1:]],
        "mask": [0 in view for view in actual[1:]],
        "crop": [len(view) == 9 for view in actual[1:]],
        "substitute": [len(view) == 13 and any(item > 100 for item in view) for view in actual[1:]],
        "reorder": [sorted(view) == given and view != given for view in actual[1:]],
    }
    assert all(sum(ways) == 1 for ways in zip(*kinds.values(), strict=True))
    assert [sum(kind) for kind in kinds.values()] == pytest.approx([100] * 5, abs=40)


def test_left_padding_keeps_the_newest() -> None:
    items = torch.tensor([[1, 2, 3, 4, 5], [6, 0, 7, 0, 0]])
    assert augmentation.left_pad(items, torch.tensor([5, 3]), 4).tolist() == [[2, 3, 4, 5], [0, 6, 0, 7]]
    assert augmentation.left_pad(items, torch.tensor([5, 3]), 7).tolist() == [
        [0, 0, 1, 2, 3, 4, 5],
        [0, 0, 0, 0, 6, 0, 7],
    ]
