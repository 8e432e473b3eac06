"""What a model is trained and ranked on: windows of histories, an epoch's order, and its steps.

A row is a window of a user's history: `length` input events from flat index `start`; the places
`loss_from`..`length - 1` predict the event after them. The kinds of samples differ only in their rows
(max_len 3 in the drawing, `.` = input without loss, `>` = input whose next item is a target):

    history      a b c d e             (training events; e is only a target)
    all          >>>        .. >       every target once; the first max_len positions share a row,
                 a b c      b c d      each later target has a window
    prefix       >   .>   ..>   ..>    a row per target
                 a   ab   abc   bcd
    last-window  >>> of b c d          a row per user, the newest max_len
    sequence     c d e, no targets     the newest max_len training events, for models that mask by themselves
    sequence-prefix  c, c d, c d e     every beginning of what `sequence` has, no targets either
    pairs        (user, item) of each event, without history
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mmbench.data.views import ranges


@dataclass(frozen=True)
class Rows:
    """Windows of histories, all int64 [n]; see the module's drawing."""

    user: np.ndarray
    start: np.ndarray
    length: np.ndarray
    loss_from: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: np.ndarray | slice) -> "Rows":
        return Rows(self.user[index], self.start[index], self.length[index], self.loss_from[index])

    @property
    def n_targets(self) -> np.ndarray:
        return self.length - self.loss_from


def join(*parts: Rows) -> Rows:
    """Return the rows of all parts, in the parts' order."""
    return Rows(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__dataclass_fields__)
    )


def plan_rows(offsets: np.ndarray, samples: str, max_len: int) -> Rows:
    """Return the rows of an epoch, by user, for users whose training events are offsets[u]:offsets[u+1]."""
    n_events = np.diff(offsets)
    if samples == "sequence":
        user = np.flatnonzero(n_events >= 1)
        length = np.minimum(n_events[user], max_len)
        return Rows(user, offsets[user + 1] - length, length, length)
    if samples == "sequence-prefix":
        n_kept = np.minimum(n_events, max_len)
        length = ranges(np.ones_like(n_kept), n_kept)
        user = np.repeat(np.arange(len(n_events)), n_kept)
        return Rows(user, offsets[user + 1] - n_kept[user], length, length)
    if samples == "pairs":
        user = np.repeat(np.arange(len(n_events)), n_events)
        zero = np.zeros_like(user)
        return Rows(user, np.arange(len(user)), zero, zero - 1)
    user = np.flatnonzero(n_events >= 2)
    n_inputs = n_events[user] - 1
    if samples == "last-window":
        length = np.minimum(n_inputs, max_len)
        return Rows(user, offsets[user] + n_inputs - length, length, np.zeros_like(length))
    if samples == "prefix":
        return _windows(user, offsets[user], np.ones_like(n_inputs), n_inputs, max_len)
    head = np.minimum(n_inputs, max_len)
    first = Rows(user, offsets[user], head, np.zeros_like(head))
    return join(first, _windows(user, offsets[user], head + 1, n_inputs, max_len))


def _windows(user: np.ndarray, first: np.ndarray, low: np.ndarray, high: np.ndarray, max_len: int) -> Rows:
    """Return a row for each target number low..high of each user (target number t follows t inputs)."""
    count = np.maximum(high - low + 1, 0)
    t = ranges(low, count)
    length = np.minimum(t, max_len)
    return Rows(np.repeat(user, count), np.repeat(first, count) + t - length, length, length - 1)


def plan_steps(rows: Rows, *, batch_size: int, unit: str, generator: np.random.Generator) -> list[Rows]:
    """Shuffle the rows and cut them into steps of exactly `batch_size` targets (or rows); the last is shorter.

    When a step becomes full in the middle of a row, the row is split: the step gets its first targets with the
    history up to them, the next step the later targets with the whole history as context. Rows whose targets the
    model chooses itself ("sequence", "sequence-prefix") count as a single target.
    """
    rows = rows[generator.permutation(len(rows))]
    if unit == "rows":
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    n_targets = np.maximum(rows.n_targets, 1)
    ends = np.cumsum(n_targets)  # the end of each row in the epoch's sequence of targets
    first_step, last_step = (ends - n_targets) // batch_size, (ends - 1) // batch_size
    pieces = rows[np.repeat(np.arange(len(rows)), last_step - first_step + 1)]
    step = ranges(first_step, last_step - first_step + 1)
    end = np.repeat(ends, last_step - first_step + 1)
    begin = end - np.maximum(pieces.n_targets, 1)
    before = np.maximum(step * batch_size - begin, 0)  # counts the row's targets in earlier steps
    after = np.maximum(end - (step + 1) * batch_size, 0)  # counts those in later steps
    pieces = replace(pieces, loss_from=pieces.loss_from + before, length=pieces.length - after)
    cuts = [0, *(np.flatnonzero(np.diff(step)) + 1).tolist(), len(step)]
    return [pieces[low:high] for low, high in pairwise(cuts)] if len(step) else []


def last_rows(offsets: np.ndarray, user: np.ndarray, max_len: int) -> Rows:
    """Return a row per history offsets[k]:offsets[k+1]: its newest `max_len` events."""
    length = np.minimum(np.diff(offsets), max_len)
    return Rows(user, offsets[1:] - length, length, length - 1)


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Yield consecutive groups of `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[slice(start, start + size)]
