"""Which events are for training, validation and test: pure functions without input or output.

leave-one-out   train train train ... train | valid | test        (every user with at least 3 events)
time            train ... | T_valid  valid ... | T_test  test ... (a global clock, no future leaks); the target is a
                user's first event after a point, with `time-last` the last, with `time-random` any of them. Models
                may be ordered otherwise: Gusak et al., RecSys 2025, arXiv 2507.16289
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from mmbench.data.protocol import Protocol
from mmbench.errors import DataError

Target = Literal["first", "last", "random"]
TARGETS: dict[str, Target] = {"time": "first", "time-last": "last", "time-random": "random"}
SEED = 0  # draws the targets of `time-random`


@dataclass(frozen=True)
class Split:
    """Positions are counted inside a user's history, 0 = oldest; -1 if the user has no such target."""

    train_len: np.ndarray  # int64 [U], the number of events, from the oldest, that are for training
    valid_pos: np.ndarray  # int64 [U]
    test_pos: np.ndarray  # int64 [U]


def leave_one_out(lengths: np.ndarray) -> Split:
    """Split by position: the last event is for test, the second last for validation, the rest for training.

        user with 6 events   0 1 2 3 | 4 | 5
                             train     v   t      test input = 0..4, validation input = 0..3

    Users with fewer than 3 events are in no part, because they would have no training item.
    """
    lengths = lengths.astype(np.int64)
    enough = lengths >= 3
    return Split(
        train_len=np.where(enough, lengths - 2, 0),
        valid_pos=np.where(enough, lengths - 2, -1),
        test_pos=np.where(enough, lengths - 1, -1),
    )


def by_time(
    times: np.ndarray,
    offsets: np.ndarray,
    *,
    valid_share: float,
    test_share: float,
    target: Target = "first",
) -> Split:
    """Split at global times: the newest `test_share` of events is test time, `valid_share` before it validation.

        all users     ----- train ----- T_valid -- valid -- T_test -- test --
        a user        e e e   e e          v' e              t'  e

    v' and t' are the targets: of the user's events in a span the first, the last, or one drawn with SEED. Their input
    is everything before them, events of the span too. Training sees only events before T_valid. A user with nothing
    before a span has no target there, so the same users are evaluated whatever `target` is.
    """
    if len(times) == 0:
        raise DataError("time split: there are no events")
    n_users = len(offsets) - 1
    newest_valid, newest_test = _decimal(valid_share), _decimal(test_share)
    t_valid = _time_at(times, 1 - newest_valid - newest_test)
    t_test = _time_at(times, 1 - newest_test)
    user = np.repeat(np.arange(n_users), np.diff(offsets))
    train_len = np.bincount(user[times < t_valid], minlength=n_users)
    before_test = np.bincount(user[times < t_test], minlength=n_users)
    share = {"first": np.zeros((2, n_users)), "last": np.ones((2, n_users))}.get(target)
    draw = np.random.default_rng(SEED).random((2, n_users)) if share is None else share
    return Split(
        train_len=train_len,
        valid_pos=_target(train_len, before_test, draw[0]),
        test_pos=_target(before_test, np.diff(offsets), draw[1]),
    )


def _decimal(share: float) -> Fraction:
    """Return a share as it is written: .1 is a tenth, where the nearest float is not."""
    return Fraction(repr(float(share)))


def _time_at(times: np.ndarray, share: Fraction) -> int:
    """Return the time of the event at `share` (0..1) of all events in the order of time, the later of two neighbours.

    The border is exact: 1 - .2 - .2 in floats is more than .6, and an event of the 60 % would be on the other side.
    """
    index = math.ceil(share * (len(times) - 1))
    return int(np.partition(times, index)[index])


def _target(begin: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the event at `share` (0..1) of the span begin..end of each user; -1 without events in it or before it."""
    place = np.minimum((share * (end - begin)).astype(np.int64), end - begin - 1)
    return np.where((end > begin) & (begin > 0), begin + place, -1)


def make_split(protocol: Protocol, times: np.ndarray, offsets: np.ndarray) -> Split:
    """Return the split that a protocol names; DataError when it leaves no user to evaluate."""
    if protocol.split == "leave-one-out":
        split = leave_one_out(np.diff(offsets))
    else:
        shares = {"valid_share": protocol.valid_share, "test_share": protocol.test_share}
        split = by_time(times, offsets, **shares, target=TARGETS[protocol.split])
    for part, positions in (("validation", split.valid_pos), ("test", split.test_pos)):
        if not (positions >= 0).any():
            raise DataError(
                f"split {protocol.split!r} leaves no user with a {part} target; the histories are too short"
            )
    return split
