"""Counts, bins and shares by hand."""

import numpy as np
import pytest

from mmbench.look.gather import plain
from mmbench.look.numbers import (
    DAY,
    HOUR,
    intervals,
    lengths,
    most_common_pair,
    neighbours,
    over_time,
    pick_different,
    pick_spread,
    popularity,
)
from mmbench.look.plots import duration
from mmbench.look.terminal import bars


def test_thirty_equal_spans_hold_every_event_once() -> None:
    actual = over_time(np.array([0, 1, 29, 30, 59, 60]))
    assert (len(actual.counts), actual.days) == (30, 2 / DAY)
    assert (actual.counts[0], actual.counts[14], actual.counts[15], actual.counts[29]) == (2, 1, 1, 2)
    assert actual.counts.sum() == 6


def test_equal_times_are_one_span() -> None:
    actual = over_time(np.array([7, 7, 7]))
    assert (actual.edges.tolist(), actual.counts.tolist(), actual.days) == ([7, 7], [3], 0)


def test_intervals_stay_inside_a_user_and_limits_inside_their_class() -> None:
    times = np.array([0, 0, HOUR, HOUR + 1 + HOUR, 5, 5 + 100 * DAY, 5 + 200 * DAY + 1, 5 + 600 * DAY])
    near = neighbours(np.arange(1, 9), times, np.array([0, 4, 8]))
    assert near.gap.tolist() == [0, HOUR, HOUR + 1, 100 * DAY, 100 * DAY + 1, 400 * DAY - 1]
    actual = intervals(near.gap)
    assert actual.counts.tolist() == [1, 1, 1, 0, 0, 1, 1, 1]
    assert actual.long_share == pytest.approx(2 / 6)


def test_no_interval_at_all() -> None:
    actual = intervals(neighbours(np.array([1, 2]), np.array([0, 9]), np.array([0, 1, 2])).gap)
    assert (actual.n, actual.long_share, actual.quantiles) == (0, 0.0, {})


def pair_of(*histories: list[tuple[int, int]]) -> tuple[int, int, list[int]] | None:
    items = np.array([item for history in histories for item, _ in history])
    times = np.array([time for history in histories for _, time in history])
    actual = most_common_pair(neighbours(items, times, np.cumsum([0, *map(len, histories)])))
    return actual and (actual.first, actual.second, actual.seconds.tolist())


def test_the_most_common_pair_is_ordered_and_counts_users_not_events() -> None:
    often = [(1, 0), (2, 5), (1, 6), (2, 7), (1, 8), (2, 9)]  # one user, three times: the first time counts
    assert pair_of(often, [(3, 0), (1, 9), (2, 10)], [(2, 0), (1, 50)]) == (1, 2, [1, 5])
    assert pair_of([(3, 0), (4, 8)], [(3, 0), (4, 2)], [(4, 0), (3, 1)]) == (3, 4, [2, 8])


def test_a_pair_that_is_always_bought_at_once_gives_way_to_one_with_a_gap() -> None:
    assert pair_of([(1, 0), (2, 0)], [(1, 0), (2, 0)], [(3, 0), (4, 9)]) == (3, 4, [9])
    assert pair_of([(1, 0), (2, 0)], [(1, 0), (2, 0)], [(3, 0), (4, 0)]) == (1, 2, [0, 0])


def test_no_two_different_items_are_neighbours() -> None:
    assert pair_of([(1, 0), (1, 5)], [(2, 0)]) is None


def test_few_lengths_have_a_class_each() -> None:
    actual = lengths(np.array([3, 3, 5]))
    assert (actual.counts.tolist(), actual.open_end) == ([2, 0, 1], False)
    assert [actual.label(at) for at in range(3)] == ["3", "4", "5"]


def test_the_longest_hundredth_shares_the_last_class() -> None:
    values = np.concatenate([np.arange(5, 95).repeat(10), [1000, 5000]])
    actual = lengths(values)
    assert len(actual.counts) <= 31
    assert actual.counts.sum() == len(values)
    assert (actual.label(0), actual.label(len(actual.counts) - 1)) == ("5-7", "95+")
    assert actual.counts[-1] == 2


def test_one_length_only() -> None:
    actual = lengths(np.array([8, 8]))
    assert (actual.counts.tolist(), actual.label(0)) == ([2], "8")


def test_popularity_and_its_head() -> None:
    actual = popularity(np.array([3, 3, 3, 3, 3, 3, 1, 2, 2, 5]), n_items=5)
    assert actual.items.tolist() == [3, 2, 1, 5, 4]  # ties by item; the fourth item has no event
    assert actual.counts.tolist() == [6, 2, 1, 1, 0]
    assert (actual.n_head, actual.head_share) == (1, 0.6)


def test_items_to_show() -> None:
    ranked = np.arange(100, 0, -1)
    assert pick_spread(ranked, 4).tolist() == [100, 99, 98, 1]
    assert pick_spread(ranked, 6).tolist() == [100, 99, 98, 97, 49, 1]
    assert pick_spread(ranked[:3], 4).tolist() == [100, 99, 98]
    assert pick_different(np.array([1, 2, 3, 4]), ["a", "a", "b", None], 3).tolist() == [1, 3, 4]
    assert pick_different(np.array([1, 2, 3, 4]), ["a", "a", "a", "a"], 3).tolist() == [1, 2, 3]


def test_bars_are_as_high_as_the_largest_allows() -> None:
    assert bars(np.array([0, 1, 40, 80])) == " ▁▄█"
    assert bars(np.array([0, 1, 40, 80]), ascii_only=True) == " .=@"
    assert bars(np.zeros(2)) == "  "


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 minute"),
        (5400, "1.5 hours"),
        (DAY, "1 day"),
        (3000 * DAY, "3,000 days"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == text


def test_titles_become_one_printable_line() -> None:
    assert plain("a\tb\x00\n\u202ec\u200b  d") == "a b c d"
    assert plain("x" * 50, 10) == "x" * 9 + "…"
