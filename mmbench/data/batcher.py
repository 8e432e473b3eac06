"""Batches out of flat tensors that already lie on the device: the layout of many steps at once, views of it for each.

The host works out where each history lies (mmbench.data.packing) and sends a few numbers per history; everything
that is per event is gathered on the device. No loop over events or histories, no copy of the data.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batch import Batch, PrefixRows, TrainBatch
from mmbench.data.packing import Arrangement, Layout, arrange, arrange_alike, steps_of
from mmbench.data.samples import Rows, join
from mmbench.data.views import ranges


class Batcher:
    """Lays out rows of one set of histories.

    items, times  int64 [E], flat
    is_even       round the shapes of training batches up, so that few different ones occur
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
        """Return the batch of one step: a slot and a target for every place that predicts."""
        return self.training_steps([rows], prefixes=prefixes)[0]

    def training_steps(
        self, steps: Sequence[Rows], *, prefixes: bool = False, group: int = 0
    ) -> list[TrainBatch]:
        """Return the batches of several steps.

        prefixes  each target's history as a row of its own, too (`TrainBatch.prefixes`)
        group     0, or: every `group` consecutive steps become one batch whose tensors have a leading axis [group];
                  these steps must have equally many targets
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
        again = self._prefixes(rows, targets, grids, t_step, len(steps), group) if prefixes else None
        return list(_cut(fields, of_target, grids, t_step, group, again))

    def _send(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        """Copy arrays of one length to the device in one go, which need not be waited for."""
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

        start, n_places, n_events  of each history: its first event, the places that it takes, its events
        """
        begin, first, number, width, length = self._send(
            start, grids.base[step] + grids.place, grids.number, n_places, n_events
        )
        history, within = _spread(width, int(n_places.sum()))
        place, event = first[history] + within, start_clamped(begin[history] + within, len(self.items))
        is_event = within < length[history]
        values = {
            "item_seq": torch.where(is_event, self.items[event], 0) if len(self.items) else torch.zeros_like(within),
            "time_seq": torch.where(is_event, self.times[event], 0) if len(self.items) else torch.zeros_like(within),
            "position": within,
            "segment": number[history],
        }  # fmt: skip
        return {name: _scatter(grids.n_places, place, value) for name, value in values.items()}

    def _prefixes(
        self,
        rows: Rows,
        targets: dict[str, np.ndarray],
        grids: Arrangement,
        step: np.ndarray,
        n_steps: int,
        group: int,
    ) -> tuple[dict[str, Tensor], Arrangement]:
        """Return source and segment, flat, and slot of the rows that hold one target's history each."""
        lengths = targets["length"]
        own = arrange(
            lengths,
            step,
            n_steps,
            layout=self.layout,
            max_len=self.max_len,
            group=group or 1,
            is_even=self.is_even,
        )
        first, number, width, origin, slot = self._send(
            own.base[step] + own.place, own.number, lengths, np.repeat(grids.place, rows.n_targets),
            own.place + lengths - 1,
        )  # fmt: skip
        target, within = _spread(width, int(lengths.sum()))
        place = first[target] + within
        return {
            "source": _scatter(own.n_places, place, origin[target] + within),
            "segment": _scatter(own.n_places, place, number[target]),
            "slot": slot,
        }, own

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

    def evaluation(self, rows: Rows, *, places_after: int = 0) -> Batch:
        """Return a batch with one slot per history: its last event, or the last of the empty places after it.

        The histories should be of like length, which keeps the padding small.
        """
        total = rows.length + places_after
        grid = arrange_alike(total, layout=self.layout, max_len=self.max_len)
        flat = self._fill(grid, np.zeros_like(total), rows.start, total, rows.length)
        slot, user = self._send(grid.place + total - 1, rows.user)
        grids: dict[str, Any] = {name: values.view(grid.shapes[0]) for name, values in flat.items()}
        return Batch(**grids, slot=slot, user=user)


def start_clamped(event: Tensor, n_events: int) -> Tensor:
    """Return indices that exist, also for extra places after the last event."""
    return event.clamp(max=max(n_events - 1, 0))


def _spread(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return for every member of groups of these lengths its group and its number in it, from 0; int64 [total]."""
    group = torch.repeat_interleave(lengths, output_size=total)
    return group, torch.arange(total, device=lengths.device) - (lengths.cumsum(0) - lengths)[group]


def _scatter(n_places: int, place: Tensor, values: Tensor) -> Tensor:
    """Return `values` at their places and 0 elsewhere, int64 [n_places]."""
    return values.new_zeros(n_places).scatter_(0, place, values)


def _targets(rows: Rows, grids: Arrangement) -> dict[str, np.ndarray]:
    """Return of every target its slot, user, the event that it is, and the length of its history; int64 [T]."""
    n = rows.n_targets
    return {
        "slot": ranges(grids.place + rows.loss_from, n),
        "user": np.repeat(rows.user, n),
        "following": ranges(rows.start + rows.loss_from + 1, n),
        "length": ranges(rows.loss_from + 1, n),
    }


def _cuts(step: np.ndarray, n_steps: int, group: int) -> list[int]:
    """Return where each batch begins among what `step` numbers, and the end of the last."""
    return np.searchsorted(step, np.arange(0, n_steps + 1, group)).tolist()


def _cut(
    fields: dict[str, Tensor],
    of_target: dict[str, Tensor],
    grids: Arrangement,
    step: np.ndarray,
    group: int,
    again: tuple[dict[str, Tensor], Arrangement] | None,
) -> Iterator[TrainBatch]:
    """Yield the batch of each step, or of each group of steps, as views of the flat tensors."""
    n = group or 1
    ends = _cuts(step, len(grids.shapes), n)
    for number, (low, high) in enumerate(pairwise(ends)):
        lead = (group, (high - low) // group) if group else (high - low,)
        parts: dict[str, Any] = _grid_views(fields, grids, number * n, group)
        parts |= {name: values[low:high].view(lead) for name, values in of_target.items()}
        if again is not None:
            flat, own = again
            slot = flat["slot"][low:high].view(lead)
            views = _grid_views({name: flat[name] for name in ("source", "segment")}, own, number * n, group)
            parts["prefix_rows"] = PrefixRows(**views, slot=slot)
        yield TrainBatch(**parts)


def _grid_views(fields: dict[str, Tensor], grids: Arrangement, first: int, group: int) -> dict[str, Tensor]:
    """Return the grids of step `first`, or of the `group` steps from it on, [R, W] or [group, R, W]."""
    low, high = int(grids.base[first]), int(grids.base[first + (group or 1)])
    shape = (group, *grids.shapes[first]) if group else grids.shapes[first]
    return {name: values[low:high].view(shape) for name, values in fields.items()}
