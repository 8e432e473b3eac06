"""Which events are for what: drawn examples, and the promise that nothing from the future is used."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from mmbench.data.protocol import PROTOCOLS, Protocol
from mmbench.data.split import Split, Target, by_time, leave_one_out, make_split
from mmbench.errors import DataError


def positions(split: Split) -> list[tuple[int, int, int]]:
    return list(zip(split.train_len.tolist(), split.valid_pos.tolist(), split.test_pos.tolist(), strict=True))


def test_leave_one_out_as_drawn() -> None:
    """6 events: 0 1 2 3 | 4 | 5; fewer than 3 are in no part."""
    split = leave_one_out(np.array([6, 3, 2, 1, 0]))
    assert positions(split) == [(4, 4, 5), (1, 1, 2), (0, -1, -1), (0, -1, -1), (0, -1, -1)]


def test_time_split_as_drawn() -> None:
    """Ten events in all; the newest 20 % are test time (from 90 on), 20 % before it validation time (from 70)."""
    times = np.array([10, 20, 70, 90, 30, 40, 80, 50, 60, 95])
    split = by_time(times, np.array([0, 4, 7, 10]), valid_share=0.2, test_share=0.2)
    assert positions(split) == [(2, 2, 3), (2, 2, -1), (2, -1, 2)]


def borders(n_events: int, valid_share: float, test_share: float) -> tuple[int, int]:
    """How many of so many events, all at other times, lie before the border of validation, and of test time."""
    shares = {"valid_share": valid_share, "test_share": test_share}
    split = by_time(np.arange(n_events), np.array([0, n_events]), **shares, target="last")
    return int(split.train_len[0]), int(split.valid_pos[0]) + 1


def test_borders_are_exact() -> None:
    """Six of 11 events lie before .6 of the ten steps; 1 - .2 - .2 in floats is above .6, which made it seven."""
    assert borders(11, 0.2, 0.2) == (6, 8)
    for valid, test in itertools.product(range(1, 50, 3), repeat=2):
        for n_events in (*range(2, 22), 51, 101, 1001):
            expected = [-(-(100 - rest) * (n_events - 1) // 100) for rest in (valid + test, test)]
            if 0 < expected[0] < expected[1]:
                assert borders(n_events, valid / 100, test / 100) == tuple(expected), (n_events, valid, test)


def test_the_shares_of_the_protocols_give_the_borders_that_stored_runs_have() -> None:
    """Until 0.2.0 the borders were quantiles in floats: exact for a tenth and a tenth, so no stored split moves."""
    shares = {(protocol.valid_share, protocol.test_share) for protocol in PROTOCOLS.values()} - {(0, 0)}
    n = np.arange(1_000_000)
    for valid, test in shares:
        for share, tenths in ((1 - valid - test, 8), (1 - test, 9)):
            assert (np.ceil(share * n) == -(-tenths * n // 10)).all()
    assert shares == {(0.1, 0.1)}


def test_time_splits_with_another_target_as_drawn() -> None:
    """One user with training, validation and test events (two, three and three), and one with training events alone."""
    times = np.array([1, 2, 51, 52, 53, 81, 82, 83, 3, 4])
    shares = {"valid_share": 0.3, "test_share": 0.3}
    offsets = np.array([0, 8, 10])
    assert positions(by_time(times, offsets, **shares, target="first")) == [(2, 2, 5), (2, -1, -1)]
    assert positions(by_time(times, offsets, **shares, target="last")) == [(2, 4, 7), (2, -1, -1)]


def test_random_targets_are_uniform_and_those_of_the_two_spans_independent() -> None:
    n_users = 3000
    times = np.tile([1, 2, 51, 52, 53, 81, 82, 83], n_users)
    shares = {"valid_share": 0.375, "test_share": 0.375}
    split = by_time(times, np.arange(0, 8 * n_users + 1, 8), **shares, target="random")
    assert set(split.valid_pos) == {2, 3, 4}
    assert set(split.test_pos) == {5, 6, 7}
    counts = np.zeros((3, 3))
    np.add.at(counts, (split.valid_pos - 2, split.test_pos - 5), 1)
    assert chi2_contingency(counts).pvalue > 0.001
    assert chisquare(counts.ravel()).pvalue > 0.001
    again = by_time(times, np.arange(0, 8 * n_users + 1, 8), **shares, target="random")
    assert (again.test_pos == split.test_pos).all()


def test_equal_times_stay_on_one_side_of_a_border() -> None:
    times = np.array([1, 5, 5, 5, 2, 5, 5, 5, 3, 5])
    split = by_time(times, np.array([0, 4, 8, 10]), valid_share=0.2, test_share=0.2)
    assert positions(split) == [(1, -1, 1), (1, -1, 1), (1, -1, 1)]


def test_a_user_who_begins_after_the_border_is_not_evaluated_there() -> None:
    times = np.array([1, 2, 3, 4, 5, 6, 9, 10])
    split = by_time(times, np.array([0, 6, 8]), valid_share=0.25, test_share=0.25)
    assert positions(split)[1] == (0, -1, -1)


@st.composite
def histories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Times, sorted inside each user, with many ties, and offsets; users may be empty."""
    users = draw(st.lists(st.lists(st.integers(0, 30), max_size=8), min_size=1, max_size=8))
    if not any(users):
        users.append([draw(st.integers(0, 30))])
    offset = draw(st.sampled_from([0, 1_400_000_000, 2**40]))
    times = np.array([offset + t for user in users for t in sorted(user)], dtype=np.int64)
    return times, np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64)


@settings(max_examples=300, deadline=None)
@given(histories(), st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.1, 0.25, 0.4]))
def test_time_split_never_uses_the_future(
    drawn: tuple[np.ndarray, np.ndarray], valid_share: float, test_share: float
) -> None:
    times, offsets = drawn
    split = by_time(times, offsets, valid_share=valid_share, test_share=test_share)
    train, valid_input, valid, test_input, test = ([] for _ in range(5))
    for user, (train_len, valid_pos, test_pos) in enumerate(positions(split)):
        own = times[offsets[user] : offsets[user + 1]].tolist()
        train += own[:train_len]
        if valid_pos >= 0:
            assert valid_pos >= 1
            valid_input += own[:valid_pos]
            valid.append(own[valid_pos])
        if test_pos >= 0:
            assert test_pos >= 1
            test_input += own[:test_pos]
            test.append(own[test_pos])
        if valid_pos >= 0 and test_pos >= 0:
            assert valid_pos < test_pos
    for before, after in (
        (train, valid),
        (train, test),
        (valid_input, valid),
        (test_input, test),
        (valid, test),
    ):
        if before and after:
            assert max(before) < min(after)


@settings(max_examples=100, deadline=None)
@given(histories(), st.sampled_from(["last", "random"]))
def test_other_targets_lie_in_the_same_spans_of_the_same_users(
    drawn: tuple[np.ndarray, np.ndarray], target: Target
) -> None:
    shares = {"valid_share": 0.25, "test_share": 0.25}
    first, other = (by_time(*drawn, **shares, target=rule) for rule in ("first", target))
    assert (first.train_len == other.train_len).all()
    has_valid, has_test = first.valid_pos >= 0, first.test_pos >= 0
    assert ((other.valid_pos >= 0) == has_valid).all()
    assert ((other.test_pos >= 0) == has_test).all()
    lengths, before_test = np.diff(drawn[1]), np.where(has_test, first.test_pos, np.diff(drawn[1]))
    if target == "last":
        assert (other.test_pos == lengths - 1)[has_test].all()
        assert (other.valid_pos == before_test - 1)[has_valid].all()
    assert (first.test_pos <= other.test_pos)[has_test].all()
    assert (other.test_pos < lengths)[has_test].all()
    assert (first.valid_pos <= other.valid_pos)[has_valid].all()
    assert (other.valid_pos < before_test)[has_valid].all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_leave_one_out_uses_every_event_once(lengths: list[int]) -> None:
    for length, (train_len, valid_pos, test_pos) in zip(
        lengths, positions(leave_one_out(np.array(lengths))), strict=True
    ):
        if length >= 3:
            assert [*range(train_len), valid_pos, test_pos] == list(range(length))
        else:
            assert (train_len, valid_pos, test_pos) == (0, -1, -1)


def protocol(**changes: Any) -> Protocol:
    return replace(PROTOCOLS["clean"], valid_share=0.1, test_share=0.1, **changes)


def test_a_split_that_leaves_nobody_is_refused() -> None:
    times, offsets = np.array([1, 2, 3, 4]), np.array([0, 2, 4])
    with pytest.raises(DataError, match="leaves no user with a validation target"):
        make_split(protocol(), times, offsets)
    with pytest.raises(DataError, match="no user with a validation target"):
        make_split(replace(protocol(split="time"), valid_share=0.0), times, offsets)
    with pytest.raises(DataError):
        make_split(protocol(split="time"), np.zeros(0, np.int64), np.array([0]))
