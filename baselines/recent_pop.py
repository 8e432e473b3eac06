"""Recent-pop: ranks items by how often they were taken just before the moment of the request. No paper.
Common form: RecTools PopularModel(period=) @ 41a5a63; "Popular-7-days" of the eSASRec benchmark.

A model that beats it has learned more than the calendar. The moment of the request is the time of the user's last input
event, so the score reads no event of the future, although the other models of a leave-one-out table may.

Axes: T histories, R different moments, N items, E training events.
Follows: counts() is the window, decayed() and trend() weigh the past in other ways, with_back_off() orders items
outside the window, with_category() ranks items of the last item's categories first.
Differences from RecTools that matter, all others in the recipe:
 1. The clock is the user's; RecTools' is the newest training event of all (`clock = "global"`).
 2. A window of 7 days holds 7 dates; RecTools includes both ends, so it holds 8.
 3. Items outside the window follow by all their events up to the moment; RecTools leaves them out.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.nn.calendar import DAY
from mmbench.nn.interactions import members, sum_rows
from mmbench.settings.config import NonNegativeFloat, PositiveFloat

NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True)
class RecentPopConfig:
    form: Literal["window", "decay", "trend", "category"] = "window"
    window_days: NonNegativeFloat  # 0 = everything up to the moment
    decay_days: PositiveFloat = 7.0  # "decay": an event counts exp(-age / decay_days)
    clock: Literal["user", "global"]  # moment: the user's last input event, or the last training event of all
    count: Literal["events", "users"]  # of an item in the window: its events, or its distinct users
    backoff: bool  # "window", "category": items that the window lacks are ordered by all their events
    exclude_own: bool = False  # ignores the user's own events

    def __post_init__(self) -> None:
        if self.form == "trend" and not self.window_days:
            raise ValueError(
                "form = 'trend' compares a window with a window four times as long; set window_days"
            )
        if self.form == "decay" and (self.count == "users" or self.exclude_own):
            raise ValueError(
                "form = 'decay' weighs single events of everybody: count = 'events', exclude_own = false"
            )


def next_of_pair(pair: Tensor, times: Tensor) -> Tensor:
    """Return for each event the time of the next event of its (user, item) pair, or NEVER; int64 [E], by time."""
    order = pair.argsort(stable=True)
    following = torch.where(pair[order].diff() == 0, times[order][1:], NEVER)
    return torch.full_like(times, NEVER).index_copy_(0, order[:-1], following)


def of_last(batch: Batch, values: Tensor) -> Tensor:
    """Return values [T, W] at the last event of each history, [T]; those of padding for empty histories."""
    last = (batch.mask.sum(1, keepdim=True) - 1).clamp(min=0)
    return values.gather(1, last)[:, 0]


class RecentPop(Recommender[RecentPopConfig]):
    trainable = False
    deterministic = True
    time_shift = True
    items: Tensor  # int64 [E], items of the training events, oldest first
    times: Tensor  # int64 [E]
    until: Tensor  # int64 [E], when an event stops counting, however long the window is
    user_offsets: Tensor  # int64 [U+1], user u has the events user_events[user_offsets[u]:user_offsets[u+1]]
    user_events: Tensor  # int64 [E]
    category_offsets: Tensor  # int64 [N+2], item i has the categories category_ids[offsets[i]:offsets[i+1]]
    category_ids: Tensor  # int64

    def __init__(self, config: RecentPopConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        order = catalog.train_times.argsort(stable=True)
        users, items, times = (
            catalog.histories.users[order],
            catalog.train_items[order],
            catalog.train_times[order],
        )
        until = torch.full_like(times, NEVER)
        if config.count == "users":
            until = next_of_pair(users * (catalog.n_items + 1) + items, times)
        buffers = {"items": items, "times": times, "until": until}
        if config.exclude_own:
            n_events = torch.bincount(users, minlength=catalog.n_users)
            buffers["user_offsets"] = torch.cat([n_events.new_zeros(1), n_events.cumsum(0)])
            buffers["user_events"] = users.argsort(stable=True)
        if config.form == "category":
            no_categories = torch.zeros(catalog.n_items + 2, dtype=torch.int64)
            offsets, ids = catalog.category_offsets, catalog.category_ids
            buffers["category_offsets"] = no_categories if offsets is None else offsets
            buffers["category_ids"] = no_categories[:0] if ids is None else ids
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.n_categories = catalog.n_categories
        self.window = max(round(config.window_days * DAY), 1) if config.window_days else 0

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def moments(self, batch: Batch) -> Tensor:
        """Return the moment of each request in unix seconds, int64 [T], without reading the target's time."""
        newest = self.times[-1:].sum()  # 0 without events
        if self.config.clock == "global":
            return newest.expand(len(batch.user))
        return torch.where(batch.mask.any(1), of_last(batch, batch.time_seq), newest)

    def counts(self, now: Tensor, window: int, users: Tensor | None = None) -> Tensor:
        """Count the events of each item with now - window < time <= now, float64 [R, N+1].

        now     int64 [R], sorted
        window  seconds; 0 = any time up to now
        users   int64 [R], users whose own events are left out, or None
        """
        ends = self.ends(window)
        enters, leaves = torch.searchsorted(now, self.times), torch.searchsorted(now, ends)
        change = torch.zeros(len(now) + 1, self.n_items + 1, dtype=torch.float64, device=now.device)
        unit = change.new_ones(()).expand(len(self.items))
        change.view(-1).index_add_(0, enters * change.shape[1] + self.items, unit)
        change.view(-1).index_add_(0, leaves * change.shape[1] + self.items, unit, alpha=-1)
        inside = change.cumsum_(0)[:-1]
        if users is not None:
            row, number = members(self.user_offsets, users)
            event = self.user_events[number]
            counted = (self.times[event] <= now[row]) & (now[row] < ends[event])
            index = row * change.shape[1] + self.items[event]
            inside.view(-1).index_add_(0, index, counted.double(), alpha=-1)
        return inside

    def ends(self, window: int) -> Tensor:
        """Return the first moment at which each event no longer counts, int64 [E]."""
        return torch.minimum(self.times + window, self.until) if window else self.until

    def decayed(self, now: Tensor) -> Tensor:
        """Return sums of exp(-age / decay_days) over events up to now [R], which is sorted; float64 [R, N+1]."""
        scale = self.config.decay_days * DAY
        enters = torch.searchsorted(now, self.times)
        past = enters < len(now)
        enters, items = enters[past], self.items[past]
        weight = (-(now[enters] - self.times[past]).double() / scale).exp()
        total = torch.zeros(len(now), self.n_items + 1, dtype=torch.float64, device=now.device)
        total.view(-1).index_add_(0, enters * total.shape[1] + items, weight)
        fading = (-now.diff().double() / scale).exp()
        for row in range(1, len(now)):
            total[row] += total[row - 1] * fading[row - 1]
        return total

    def trend(self, now: Tensor, users: Tensor | None) -> Tensor:
        """Return events per day in the window minus those in a window four times as long, float64 [R, N+1].

        A millionth of all events up to now orders the items outside both windows.
        """
        days = self.config.window_days
        rates = [self.counts(now, m * self.window, users) / (m * days) for m in (1, 4)]
        return rates[0] - rates[1] + 1e-6 * self.counts(now, 0, users)

    def with_back_off(self, counts: Tensor, now: Tensor, users: Tensor | None) -> Tensor:
        """Add a number below 1 that grows with all events up to now, so that the window's count decides first."""
        if not self.config.backoff:
            return counts
        every = self.counts(now, 0, users)
        return counts + every / (every.amax(1, keepdim=True) + 1)

    def with_category(self, counts: Tensor, scores: Tensor, batch: Batch) -> Tensor:
        """Rank items of the window that share a category with the last input item first; all [T, N+1]."""
        row, entry = members(self.category_offsets, of_last(batch, batch.item_seq))
        wanted = counts.new_zeros(self.n_categories + 1, len(counts))
        wanted[self.category_ids[entry], row] = 1.0
        every = torch.ones_like(self.category_ids, dtype=counts.dtype)
        n_shared = sum_rows(wanted, self.category_ids, every, self.category_offsets[:-1]).T
        first = (counts > 0) & (n_shared > 0)
        return torch.where(first, scores + counts.amax(1, keepdim=True) + 1, scores)

    def score(self, batch: Batch) -> Tensor:
        """Return the scores, float64 [T, N]."""
        moments = self.moments(batch)
        if self.config.exclude_own:  # a row for each user
            now, row = moments.sort()
            users, back = batch.user[row], row.argsort()
        else:
            now, back = moments.unique(return_inverse=True)
            users = None
        if self.config.form == "decay":
            return self.decayed(now)[back][:, 1:]
        if self.config.form == "trend":
            return self.trend(now, users)[back][:, 1:]
        counts = self.counts(now, self.window, users)
        scores = self.with_back_off(counts, now, users)
        if self.config.form == "category":
            return self.with_category(counts[back], scores[back], batch)[:, 1:]
        return scores[back][:, 1:]

    def extra_state(self) -> dict[str, Any]:
        """Return the median number of events in the window before an event; 1 means that the window is too short."""
        if not self.window or not len(self.times):
            return {}
        first = torch.searchsorted(self.times, self.times - self.window, right=True)
        n_events = torch.searchsorted(self.times, self.times, right=True) - first
        return {"median_window_events": int(n_events.median())}
