"""Prepared data as each part of an experiment sees them. What a part must not know is not in its arrays.

training_view holds training events only, and target_view of "valid" ends with each user's validation target, so
neither can show a test item, whatever code reads it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmbench.data.split import Split
from mmbench.data.store import Prepared


@dataclass(frozen=True)
class TrainView:
    """Training events of every user, flat."""

    items: np.ndarray  # int64 [E]
    times: np.ndarray  # int64 [E]
    offsets: np.ndarray  # int64 [U + 1]

    @property
    def users(self) -> np.ndarray:
        """User of each event, int64 [E]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True)
class TargetView:
    """A held-out target for each evaluated user, and the history before it that a model may read."""

    items: np.ndarray  # int64 [E], histories only
    times: np.ndarray  # int64 [E]
    offsets: np.ndarray  # int64 [n + 1], history k is offsets[k]:offsets[k+1]
    user: np.ndarray  # int64 [n]
    target: np.ndarray  # int64 [n], item 1..N
    train_len: np.ndarray  # int64 [n], the number of training events in history k

    def __len__(self) -> int:
        return len(self.user)

    def spread(self, n: int) -> "TargetView":
        """Return `n` of the targets, evenly spread over all in their order; all of them where there are no more."""
        chosen = np.linspace(0, len(self) - 1, min(n, len(self))).astype(np.int64)
        starts, lengths = self.offsets[chosen], np.diff(self.offsets)[chosen]
        return TargetView(
            items=_take(self.items, starts, lengths), times=_take(self.times, starts, lengths),
            offsets=_offsets(lengths), user=self.user[chosen], target=self.target[chosen],
            train_len=self.train_len[chosen],
        )  # fmt: skip


def _take(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate flat[start : start + length] over all rows."""
    return np.asarray(flat)[ranges(starts, lengths)].astype(np.int64)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return start, start+1, .. start+length-1 of every row, concatenated; int64."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def training_view(prepared: Prepared, split: Split) -> TrainView:
    """Return every user's training events."""
    starts, lengths = np.asarray(prepared.offsets[:-1]), split.train_len
    return TrainView(
        items=_take(prepared.items, starts, lengths),
        times=_take(prepared.times, starts, lengths),
        offsets=_offsets(lengths),
    )


def target_view(prepared: Prepared, split: Split, part: Literal["valid", "test"]) -> TargetView:
    """Return the targets of a part and the histories before them."""
    position = split.valid_pos if part == "valid" else split.test_pos
    user = np.flatnonzero(position >= 0)
    starts, lengths = np.asarray(prepared.offsets[:-1])[user], position[user]
    return TargetView(
        items=_take(prepared.items, starts, lengths),
        times=_take(prepared.times, starts, lengths),
        offsets=_offsets(lengths),
        user=user,
        target=np.asarray(prepared.items)[starts + lengths].astype(np.int64),
        train_len=np.minimum(split.train_len[user], lengths),
    )
