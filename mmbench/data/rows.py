"""How histories become batches: which rows an epoch has, and how rows are laid out side by side.

A row is a window of one user's history: `length` input events from flat index `start`; the places
`loss_from`..`length - 1` predict the event after them. The kinds of samples differ only in their rows
(max_len 3 in the drawing, `.` = input without loss, `>` = input whose next item is a target):

    history      a b c d e             (training events; e is only a target)
    all          >>>        .. >       every target once; the first max_len positions share one row,
                 a b c      b c d      each later target has its own window
    prefix       >   .>   ..>   ..>    one row per target
                 a   ab   abc   bcd
    last-window  >>> of b c d          one row per user, the newest max_len
    sequence     c d e, no targets     the newest max_len training events, for models that mask by themselves
    pairs        (user, item) of each event, no history
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batch import Batch, Prefixes
from mmbench.data.views import ranges
from mmbench.errors import DataError

BIN_WIDTH, NARROWEST_BIN = 64, 16  # of packed rows, in training and at least in a ranking
Layout = Literal["packed", "padded", "fixed"]


@dataclass(frozen=True)
class Rows:
    """All int64 [n]; see the module's drawing."""

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


def _join(*parts: Rows) -> Rows:
    return Rows(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__dataclass_fields__)
    )


def plan_rows(offsets: np.ndarray, samples: str, max_len: int) -> Rows:
    """The rows of an epoch over users whose training events are offsets[u]:offsets[u+1], in user order."""
    n_events = np.diff(offsets)
    if samples == "sequence":
        user = np.flatnonzero(n_events >= 1)
        length = np.minimum(n_events[user], max_len)
        return Rows(user, offsets[user + 1] - length, length, length)
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
    return _join(first, _windows(user, offsets[user], head + 1, n_inputs, max_len))


def _windows(user: np.ndarray, first: np.ndarray, low: np.ndarray, high: np.ndarray, max_len: int) -> Rows:
    """One row for each target number low..high of each user (target number t follows t inputs)."""
    count = np.maximum(high - low + 1, 0)
    t = ranges(low, count)
    length = np.minimum(t, max_len)
    return Rows(np.repeat(user, count), np.repeat(first, count) + t - length, length, length - 1)


def plan_steps(rows: Rows, *, batch_size: int, unit: str, generator: np.random.Generator) -> list[Rows]:
    """Shuffle the rows and cut them into steps of exactly `batch_size` targets (or so many rows); the last is shorter.

    Where a step is full in the middle of a row, the row goes on in the next one: its first targets with the
    history up to them, the later ones with the whole history as context. Rows whose targets the model chooses
    itself ("sequence") count as one target.
    """
    rows = rows[generator.permutation(len(rows))]
    if unit == "rows":
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    n_targets = np.maximum(rows.n_targets, 1)
    ends = np.cumsum(n_targets)  # of the row's targets in the epoch's sequence of targets
    first_step, last_step = (ends - n_targets) // batch_size, (ends - 1) // batch_size
    pieces = rows[np.repeat(np.arange(len(rows)), last_step - first_step + 1)]
    step = ranges(first_step, last_step - first_step + 1)
    end = np.repeat(ends, last_step - first_step + 1)
    begin = end - np.maximum(pieces.n_targets, 1)
    before = np.maximum(step * batch_size - begin, 0)  # targets of the row in earlier steps
    after = np.maximum(end - (step + 1) * batch_size, 0)  # and in later ones
    pieces = replace(pieces, loss_from=pieces.loss_from + before, length=pieces.length - after)
    cuts = [0, *(np.flatnonzero(np.diff(step)) + 1).tolist(), len(step)]
    return [pieces[low:high] for low, high in pairwise(cuts)] if len(step) else []


def pack(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best-fit decreasing: put histories of these lengths into bins of `width` places.

    Returns (bin, first place, 1-based number inside the bin) of each, int64.
    """
    bins, place, number = (np.zeros(len(lengths), dtype=np.int64) for _ in range(3))
    free: list[list[int]] = [[] for _ in range(width + 1)]  # free[r] = bins with r free places
    used: list[int] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        room = next((r for r in range(length, width) if free[r]), width)
        if room == width:
            target = len(used)
            used.append(0)
        else:
            target = free[room].pop()
        bins[row], place[row] = target, width - room
        used[target] += 1
        number[row] = used[target]
        free[room - length].append(target)
    return bins, place, number


class Batcher:
    """Builds batches from flat tensors that already lie on the device; no loop over rows, no host copies of data."""

    def __init__(
        self,
        items: np.ndarray,
        times: np.ndarray,
        *,
        layout: Layout,
        max_len: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.items = torch.from_numpy(np.ascontiguousarray(items)).to(device)
        self.times = torch.from_numpy(np.ascontiguousarray(times)).to(device)
        self.layout, self.max_len, self.device = layout, max_len, device

    def _place(
        self, lengths: np.ndarray, bin_width: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """bin, first place and number of each history, and the width of the rows."""
        if self.layout == "packed":
            width = bin_width or max(BIN_WIDTH, self.max_len)
            return *pack(lengths, width), width
        width = self.max_len if self.layout == "fixed" else max(int(lengths.max(initial=1)), 1)
        n = len(lengths)
        return np.arange(n), np.zeros(n, np.int64), np.ones(n, np.int64), width

    def _lay_out(
        self, rows: Rows, extra: int, bin_width: int | None = None
    ) -> tuple[dict[str, Any], np.ndarray]:
        """item_seq, time_seq, position, segment of the rows, and the flat index of each row's first place."""
        total = rows.length + extra
        bins, place, number, width = self._place(total, bin_width)
        n_bins = int(bins.max(initial=-1)) + 1
        first = bins * width + place
        grid = np.zeros((2, n_bins * width), dtype=np.int64)  # position, segment
        everywhere = ranges(first, total)
        grid[0, everywhere] = ranges(np.zeros_like(total), total)
        grid[1, everywhere] = np.repeat(number, total)
        source = np.full(n_bins * width, -1, dtype=np.int64)
        source[ranges(first, rows.length)] = ranges(rows.start, rows.length)
        index = torch.from_numpy(source).to(self.device)
        real = index >= 0
        safe = index.clamp(min=0)
        position, segment = torch.from_numpy(grid).to(self.device)
        shape = (n_bins, width)
        if len(self.items) == 0:
            item_seq = time_seq = torch.zeros_like(index)
        else:
            item_seq = torch.where(real, self.items[safe], 0)
            time_seq = torch.where(real, self.times[safe], 0)
        parts = {"item_seq": item_seq, "time_seq": time_seq, "position": position, "segment": segment}
        return {name: part.view(shape) for name, part in parts.items()}, first

    def training(self, rows: Rows, *, prefixes: bool = False) -> Batch:
        """A step: one slot and target for every place that predicts; with `prefixes`, their histories apart."""
        if (rows.loss_from < 0).any():
            return self._pairs(rows)
        parts, first = self._lay_out(rows, extra=0)
        slots = ranges(first + rows.loss_from, rows.n_targets)
        following = ranges(rows.start + rows.loss_from + 1, rows.n_targets)
        return Batch(
            **parts,
            slot=torch.from_numpy(slots).to(self.device),
            user=torch.from_numpy(np.repeat(rows.user, rows.n_targets)).to(self.device),
            target=self.items[torch.from_numpy(following).to(self.device)],
            prefixes=self._prefixes(rows, first) if prefixes else None,
        )

    def _prefixes(self, rows: Rows, first: np.ndarray) -> Prefixes:
        """One row per target of `rows`, whose places are copies of the batch's places from each row's first on."""
        lengths = ranges(rows.loss_from + 1, rows.n_targets)
        bins, place, number, width = self._place(lengths)
        grid = np.zeros((2, (int(bins.max(initial=-1)) + 1) * width), dtype=np.int64)  # source, segment
        everywhere = ranges(bins * width + place, lengths)
        grid[0, everywhere] = ranges(np.repeat(first, rows.n_targets), lengths)
        grid[1, everywhere] = np.repeat(number, lengths)
        source, segment = torch.from_numpy(grid).to(self.device)
        slot = torch.from_numpy(bins * width + place + lengths - 1).to(self.device)
        return Prefixes(source=source.view(-1, width), segment=segment.view(-1, width), slot=slot)

    def _pairs(self, rows: Rows) -> Batch:
        """(user, item) without histories: sequences of width 0."""
        empty = torch.zeros(len(rows), 0, dtype=torch.int64, device=self.device)
        return Batch(
            item_seq=empty, time_seq=empty, position=empty, segment=empty,
            slot=torch.zeros(0, dtype=torch.int64, device=self.device),
            user=torch.from_numpy(rows.user).to(self.device),
            target=self.items[torch.from_numpy(rows.start).to(self.device)],
        )  # fmt: skip

    def evaluation(self, rows: Rows, *, extra_slots: int = 0) -> Batch:
        """One slot per history: its last event, or the last of the extra places after it."""
        # The histories of a batch are of like length (mmbench.evaluation.ranking): narrower bins, smaller attention.
        longest = int(rows.length.max(initial=0)) + extra_slots
        parts, first = self._lay_out(rows, extra_slots, max(NARROWEST_BIN, longest))
        slots = first + rows.length + extra_slots - 1
        return Batch(
            **parts,
            slot=torch.from_numpy(slots).to(self.device),
            user=torch.from_numpy(rows.user).to(self.device),
        )


def last_rows(offsets: np.ndarray, user: np.ndarray, max_len: int) -> Rows:
    """One row per history offsets[k]:offsets[k+1]: its newest `max_len` events."""
    length = np.minimum(np.diff(offsets), max_len)
    return Rows(user, offsets[1:] - length, length, length - 1)


class NegativeSampler:
    """Uniform negatives outside each user's own items, exact and without rejection.

    With a user's items sorted, h_1 < .. < h_m, there are h_k - k other items below h_k. The x-th of the
    N - m other items (x = 1..N-m) is therefore x + #{k: h_k - k < x}, one binary search per draw.
    """

    def __init__(
        self, users: np.ndarray, items: np.ndarray, *, n_users: int, n_items: int, device: torch.device | str
    ) -> None:
        self.n_items = n_items
        pairs = np.unique(users * (n_items + 1) + items)  # sorted by user, then item; repeats removed
        user, item = np.divmod(pairs, n_items + 1)
        count = np.bincount(user, minlength=n_users)
        if len(count) and count.max() >= n_items:
            raise DataError(f"user number {int(count.argmax())} has all {n_items} items: no negative is left")
        first = np.cumsum(count) - count
        below = item - (np.arange(len(item)) - first[user] + 1)
        self.keys = torch.from_numpy(user * (n_items + 1) + below).to(device)
        self.first = torch.from_numpy(first).to(device)
        self.n_others = torch.from_numpy(n_items - count).to(device)

    def draw(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """user int64 [T] -> items int64 [T, n], each 1..N and not the user's."""
        uniform = torch.rand(len(user), n, generator=generator, dtype=torch.float64, device=user.device)
        x = (uniform * self.n_others[user][:, None]).long() + 1
        found = torch.searchsorted(self.keys, user[:, None] * (self.n_items + 1) + x, side="left")
        return x + found - self.first[user][:, None]


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Consecutive groups of `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[slice(start, start + size)]
