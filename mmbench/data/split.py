"""Which events are for training, validation and test: pure functions without input or output.

leave-one-out   train train train ... train | valid | test        (every user with at least 3 events)
time            train ... | T_valid  valid ... | T_test  test ... (a global clock, no future leaks)
"""

from dataclasses import dataclass

import numpy as np

from mmbench.data.protocol import Protocol
from mmbench.errors import DataError


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


def by_time(times: np.ndarray, offsets: np.ndarray, *, valid_share: float, test_share: float) -> Split:
    """Split at global times: the newest `test_share` of events is test time, `valid_share` before it validation.

        all users     ----- train ----- T_valid -- valid -- T_test -- test --
        a user        e e e   e e          v' e              t'  e

    v' and t' (the user's first event in each span) are the targets; their input is everything before them.
    Training sees only events before T_valid. A user with nothing before the target is not evaluated.
    """
    if len(times) == 0:
        raise DataError("time split: there are no events")
    starts, ends = offsets[:-1], offsets[1:]
    t_valid, t_test = np.quantile(
        times, [1 - valid_share - test_share, 1 - test_share], method="higher"
    ).astype(np.int64)
    user = np.repeat(np.arange(len(starts)), ends - starts)
    train_len = np.bincount(user[times < t_valid], minlength=len(starts))
    before_test = np.bincount(user[times < t_test], minlength=len(starts))
    lengths = ends - starts
    return Split(
        train_len=train_len,
        valid_pos=np.where((before_test > train_len) & (train_len > 0), train_len, -1),
        test_pos=np.where((lengths > before_test) & (before_test > 0), before_test, -1),
    )


def make_split(protocol: Protocol, times: np.ndarray, offsets: np.ndarray) -> Split:
    """Return the split that a protocol names; DataError when it leaves no user to evaluate."""
    if protocol.split == "leave-one-out":
        split = leave_one_out(np.diff(offsets))
    else:
        split = by_time(times, offsets, valid_share=protocol.valid_share, test_share=protocol.test_share)
    for part, positions in (("validation", split.valid_pos), ("test", split.test_pos)):
        if not (positions >= 0).any():
            raise DataError(
                f"split {protocol.split!r} leaves no user with a {part} target; the histories are too short"
            )
    return split
