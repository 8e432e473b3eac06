"""Duplicates, k-core and order, against brute force."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.filters import event_order, first_of_duplicates, k_core

Events = list[tuple[int, int, int]]
EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=40)


def columns(events: Events) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(events, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


@given(EVENTS)
def test_first_of_duplicates_stays(events: Events) -> None:
    seen: set[tuple[int, int, int]] = set()
    expected = [not (event in seen or seen.add(event)) for event in events]  # type: ignore[func-returns-value]
    assert first_of_duplicates(*columns(events)).tolist() == expected


def slow_core(events: Events, k_user: int, k_item: int, *, distinct: bool) -> Events:
    """One offender at a time, in any order: the largest core is unique."""
    events = list(events)
    while True:
        users = Counter(user for user, _, _ in events)
        pairs = {(user, item) for user, item, _ in events} if distinct else [(u, i) for u, i, _ in events]
        items = Counter(item for _, item in pairs)
        bad = [event for event in events if users[event[0]] < k_user or items[event[1]] < k_item]
        if not bad:
            return events
        events = [
            event
            for event in events
            if (event[0] != bad[0][0] if users[bad[0][0]] < k_user else event[1] != bad[0][1])
        ]


@given(EVENTS, st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_k_core_agrees_with_brute_force(events: Events, k_user: int, k_item: int, distinct: bool) -> None:
    user, item, _ = columns(events)
    counts = "users" if distinct else "events"
    keep, _ = k_core(user, item, min_user=k_user, min_item=k_item, item_counts=counts, iterate=True)
    kept = [event for event, stays in zip(events, keep, strict=True) if stays]
    assert kept == slow_core(events, k_user, k_item, distinct=distinct)
    assert all(n >= k_user for n in Counter(row[0] for row in kept).values())


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.just(0)), max_size=9))
def test_k_core_is_the_largest_set_that_holds(events: Events) -> None:
    """No set of events in which every user and item has two is larger (all subsets are tried)."""
    user, item, _ = columns(events)
    keep, _ = k_core(user, item, min_user=2, min_item=2, item_counts="events", iterate=True)

    def holds(subset: tuple[tuple[int, int, int], ...]) -> bool:
        counts = [Counter(pair[axis] for pair in subset) for axis in (0, 1)]
        return all(n >= 2 for count in counts for n in count.values())

    sizes = (size for size in range(len(events), -1, -1) if any(map(holds, combinations(events, size))))
    assert keep.sum() == next(sizes)


def test_without_iteration_each_filter_runs_once() -> None:
    events = [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 2, 0), (2, 2, 0)]
    user, item, _ = columns(events)
    keep, rounds = k_core(user, item, min_user=2, min_item=2, item_counts="events", iterate=False)
    assert (keep.tolist(), rounds) == ([False, True, True, False, False], 1)
    keep, _ = k_core(user, item, min_user=2, min_item=2, item_counts="events", iterate=True)
    assert not keep.any()


TIES = ["file", "reverse", "random:0", "random:1", "random:2"]


@given(EVENTS, st.sampled_from(TIES))
def test_order_sorts_by_user_and_time(events: Events, ties: str) -> None:
    user, _, ticks = columns(events)
    order = event_order(user, ticks, ties)
    assert sorted(order.tolist()) == list(range(len(events)))
    keys = [(user[place], ticks[place]) for place in order]
    assert keys == sorted(keys)
    if ties == "file":
        assert order.tolist() == sorted(
            range(len(events)), key=lambda event: (user[event], ticks[event], event)
        )
    if ties == "reverse":
        assert order.tolist() == sorted(
            range(len(events)), key=lambda event: (user[event], ticks[event], -event)
        )


def test_random_ties_depend_on_the_seed_alone() -> None:
    user, ticks = np.repeat(np.arange(20), 50), np.zeros(1000, dtype=np.int64)
    np.random.seed(1)
    first = event_order(user, ticks, "random:1")
    np.random.seed(2)
    assert (first == event_order(user, ticks, "random:1")).all()
    assert (first != event_order(user, ticks, "random:2")).mean() > 0.9
    assert (first != event_order(user, ticks, "file")).mean() > 0.9
    # not the same shuffle for every user, and nobody keeps the file's first event in front by rule
    assert len(set((first.reshape(20, 50)[:, 0] % 50).tolist())) > 5


@pytest.mark.parametrize("ties", TIES)
def test_peer_bug_float32_order(ties: str) -> None:
    """RecBole's float32 makes ties of seconds that differ at 1.4e9; here no tie rule touches their order."""
    rng = np.random.default_rng(0)
    ticks = 1_400_000_000 + rng.permutation(1000)
    assert np.unique(ticks.astype(np.float32)).size < 20
    order = event_order(np.zeros(1000, dtype=np.int64), ticks, ties)
    assert (np.diff(ticks[order]) == 1).all()


def test_order_of_users_is_blind_to_other_users() -> None:
    """Shuffling the lines of the file changes ties at most: without ties nothing changes."""
    rng = np.random.default_rng(0)
    user, ticks = rng.integers(0, 5, 200), rng.permutation(200)
    shuffle = rng.permutation(200)
    order = event_order(user, ticks, "file")
    again = event_order(user[shuffle], ticks[shuffle], "file")
    assert (shuffle[again] == order).all()
