"""Batches made from flat tensors on the device: many steps are laid out at once, and each batch is a view.

The host works out where each history lies (mmbench.data.packing) and sends a few numbers per history; the events
themselves are gathered on the device. There is no loop over events or histories and no copy of the data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batch import Batch, PrefixRows, TrainBatch
from mmbench.data.packing import Arrangement, Layout, arrange, arrange_even, steps_of
from mmbench.data.samples import Rows, join
from mmbench.data.views import ranges


class Batcher:
    """Lays out rows of a set of histories.

    items, times  int64 [E], flat
    is_even       round the shapes of training batches up, so that only a few shapes occur
    """

    def __init__(
        self,
        items: np.ndarray,
        times: np.ndarray,
        *,
        layout: Layout,
        max_len: int,
        device: torch.device | str = "cpu",
        is_even: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.items = torch.from_numpy(np.ascontiguousarray(items)).to(self.device)
        self.times = torch.from_numpy(np.ascontiguousarray(times)).to(self.device)
        self.layout, self.max_len, self.is_even = layout, max_len, is_even

    def training(self, rows: Rows, *, prefixes: bool = False) -> TrainBatch:
        """Return the batch of a step, with a slot and a target for every place that predicts."""
        return self.training_steps([rows], prefixes=prefixes)[0]

    def training_steps(
        self, steps: Sequence[Rows], *, prefixes: bool = False, group: int = 0
    ) -> list[TrainBatch]:
        """Return the batches of several steps.

        prefixes  add each target's history as a row (`TrainBatch.prefixes`)
        group     0, or the number of consecutive steps that become a single batch, whose tensors have a leading axis
                  [group]; these steps must have equally many targets
        """
        rows, step = join(*steps), steps_of(steps)
        if (rows.loss_from < 0).any():
            return self._pairs(rows, step, len(steps), group)
        grids = arrange(
            rows.length, step, len(steps), layout=self.layout, max_len=self.max_len, group=group or 1,
            is_even=self.is_even,
        )  # fmt: skip
        fields = self._fill(grids, step, rows.start, rows.length, rows.length)
        targets = _targets(rows, grids)
        t_step = np.repeat(step, rows.n_targets)
        slot, user, following = self._send(targets["slot"], targets["user"], targets["following"])
        of_target = {"slot": slot, "user": user, "target": self.items[following]}
        prefix_grids = self._prefixes(rows, targets, grids, t_step, len(steps), group) if prefixes else None
        batches = list(_cut(fields, of_target, grids, t_step, group, prefix_grids))
        if rows.n_targets.any():
            return batches
        (ends,) = self._send(grids.start + rows.length - 1)
        return [
            replace(batch, last_places=ends[low:high].view((group, -1) if group else (-1,)))
            for batch, (low, high) in zip(batches, pairwise(_cuts(step, len(steps), group or 1)), strict=True)
        ]

    def _send(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        """Copy arrays of equal length to the device in a single transfer, without waiting for it."""
        together = torch.from_numpy(np.stack(arrays))
        if self.device.type == "cuda":
            return tuple(together.pin_memory().to(self.device, non_blocking=True))
        return tuple(together)

    def _fill(
        self,
        grids: Arrangement,
        step: np.ndarray,
        start: np.ndarray,
        n_places: np.ndarray,
        n_events: np.ndarray,
    ) -> dict[str, Tensor]:
        """Return item_seq, time_seq, position and segment of all grids, flat int64 [places].

        start, n_places, n_events  per history: its first event, the number of places it takes, its number of events
        """
        begin, first, number, width, length = self._send(
            start, grids.base[step] + grids.start, grids.number, n_places, n_events
        )
        history, within = _spread(width, int(n_places.sum()))
        index, event = first[history] + within, _clamp_events(begin[history] + within, len(self.items))
        is_event = within < length[history]
        values = {
            "item_seq": torch.where(is_event, self.items[event], 0) if len(self.items) else torch.zeros_like(within),
            "time_seq": torch.where(is_event, self.times[event], 0) if len(self.items) else torch.zeros_like(within),
            "position": within,
            "segment": number[history],
        }  # fmt: skip
        return {name: _scatter(grids.size, index, value) for name, value in values.items()}

    def _prefixes(
        self,
        rows: Rows,
        targets: dict[str, np.ndarray],
        grids: Arrangement,
        step: np.ndarray,
        n_steps: int,
        group: int,
    ) -> tuple[dict[str, Tensor], Arrangement]:
        """Return source and segment (flat) and slot of the rows with the prefix of each target, and their grids."""
        lengths = targets["length"]
        prefix_grids = arrange(
            lengths,
            step,
            n_steps,
            layout=self.layout,
            max_len=self.max_len,
            group=group or 1,
            is_even=self.is_even,
        )
        first, number, width, origin, slot = self._send(
            prefix_grids.base[step] + prefix_grids.start,
            prefix_grids.number,
            lengths,
            np.repeat(grids.start, rows.n_targets),
            prefix_grids.start + lengths - 1,
        )
        target, within = _spread(width, int(lengths.sum()))
        index = first[target] + within
        return {
            "source": _scatter(prefix_grids.size, index, origin[target] + within),
            "segment": _scatter(prefix_grids.size, index, number[target]),
            "slot": slot,
        }, prefix_grids

    def _pairs(self, rows: Rows, step: np.ndarray, n_steps: int, group: int) -> list[TrainBatch]:
        """Return batches of (user, item) without histories: sequences of width 0."""
        user, event = self._send(rows.user, rows.start)
        target, made = self.items[event], []
        for low, high in pairwise(_cuts(step, n_steps, group or 1)):
            shape = (group, (high - low) // group) if group else (high - low,)
            empty = torch.zeros(*shape, 0, dtype=torch.int64, device=self.device)
            no_slot = empty.new_zeros((*shape[:-1], 0))
            made.append(
                TrainBatch(
                    item_seq=empty, time_seq=empty, position=empty, segment=empty, slot=no_slot,
                    user=user[low:high].view(shape), target=target[low:high].view(shape),
                )
            )  # fmt: skip
        return made

    def evaluation(self, rows: Rows, *, slots_after: int = 0) -> Batch:
        """Return a batch with a slot per history: its last event, or the last of the empty places after it.

        Histories of similar length keep the padding small.
        """
        total = rows.length + slots_after
        grid = arrange_even(total, layout=self.layout, max_len=self.max_len)
        flat = self._fill(grid, np.zeros_like(total), rows.start, total, rows.length)
        slot, user = self._send(grid.start + total - 1, rows.user)
        grids: dict[str, Any] = {name: values.view(grid.shapes[0]) for name, values in flat.items()}
        return Batch(**grids, slot=slot, user=user)


def _clamp_events(event: Tensor, n_events: int) -> Tensor:
    """Return event indices that exist: extra places after the last event point at it."""
    return event.clamp(max=max(n_events - 1, 0))


def _spread(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return the group of each member of groups with these lengths, and its index in the group; int64 [total]."""
    group = torch.repeat_interleave(lengths, output_size=total)
    return group, torch.arange(total, device=lengths.device) - (lengths.cumsum(0) - lengths)[group]


def _scatter(size: int, index: Tensor, values: Tensor) -> Tensor:
    """Return int64 [size] with `values` at `index` and 0 elsewhere."""
    return values.new_zeros(size).scatter_(0, index, values)


def _targets(rows: Rows, grids: Arrangement) -> dict[str, np.ndarray]:
    """Return slot, user and event of each target, and the length of its history; int64 [T]."""
    n = rows.n_targets
    return {
        "slot": ranges(grids.start + rows.loss_from, n),
        "user": np.repeat(rows.user, n),
        "following": ranges(rows.start + rows.loss_from + 1, n),
        "length": ranges(rows.loss_from + 1, n),
    }


def _cuts(step: np.ndarray, n_steps: int, group: int) -> list[int]:
    """Return where each batch begins in the sorted array `step`, and its end."""
    return np.searchsorted(step, np.arange(0, n_steps + 1, group)).tolist()


def _cut(
    fields: dict[str, Tensor],
    of_target: dict[str, Tensor],
    grids: Arrangement,
    step: np.ndarray,
    group: int,
    prefix_grids: tuple[dict[str, Tensor], Arrangement] | None,
) -> Iterator[TrainBatch]:
    """Yield the batch of each step, or of each group of steps, as views of the flat tensors."""
    n = group or 1
    ends = _cuts(step, len(grids.shapes), n)
    for number, (low, high) in enumerate(pairwise(ends)):
        lead = (group, (high - low) // group) if group else (high - low,)
        parts: dict[str, Any] = _grid_views(fields, grids, number * n, group)
        parts |= {name: values[low:high].view(lead) for name, values in of_target.items()}
        if prefix_grids is not None:
            flat, arrangement = prefix_grids
            slot = flat["slot"][low:high].view(lead)
            views = _grid_views(
                {name: flat[name] for name in ("source", "segment")}, arrangement, number * n, group
            )
            parts["prefix_rows"] = PrefixRows(**views, slot=slot)
        yield TrainBatch(**parts)


def _grid_views(fields: dict[str, Tensor], grids: Arrangement, first: int, group: int) -> dict[str, Tensor]:
    """Return the grids of step `first`, or of the `group` steps from it on, [R, W] or [group, R, W]."""
    low, high = int(grids.base[first]), int(grids.base[first + (group or 1)])
    shape = (group, *grids.shapes[first]) if group else grids.shapes[first]
    return {name: values[low:high].view(shape) for name, values in fields.items()}
