"""Counts, bins and shares of a prepared data set's events: arrays in, numbers out, nothing is drawn or rounded.

Axes: E events, U users, N items; events are sorted by user, then by the protocol's order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

HOUR, DAY = 3600, 86_400
TIME_BINS = 30  # HM4SR, appendix A.3
HEAD = 0.2
MAX_CLASSES = 30
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)

# Upper limits in seconds, each inside its class; larger intervals are in the last class.
INTERVAL_LIMITS = (0, HOUR, DAY, 7 * DAY, 30 * DAY, 100 * DAY, 365 * DAY)
INTERVAL_LABELS = (
    "no gap", "up to\n1 hour", "up to\n1 day", "up to\n1 week", "up to\n30 days", "up to\n100 days",
    "up to\n1 year", "more than\n1 year",
)  # fmt: skip
N_LONG = 2  # the last classes lie above TMMSRec's 100 days


@dataclass(frozen=True)
class TimeBins:
    """Events per span of time: `edges` float64 [n + 1] in unix seconds, `counts` int64 [n].

    If all times are equal, n = 1 and both edges are that time.
    """

    edges: np.ndarray
    counts: np.ndarray

    @property
    def days(self) -> float:
        """The width of a bin in days."""
        return float(self.edges[1] - self.edges[0]) / DAY


def over_time(times: np.ndarray, n_bins: int = TIME_BINS) -> TimeBins:
    """Count events in `n_bins` equal spans from the first to the last (HM4SR, figure 7); the last includes its end."""
    first, last = int(times.min()), int(times.max())
    if first == last:
        return TimeBins(np.array([first, last], dtype=np.float64), np.array([len(times)]))
    counts, edges = np.histogram(times, bins=n_bins, range=(first, last))
    return TimeBins(edges, counts.astype(np.int64))


@dataclass(frozen=True)
class Neighbours:
    """Events that follow each other in a user's history, int64 [M] each; gaps of fractions of a second are float64."""

    user: np.ndarray
    first: np.ndarray  # item
    second: np.ndarray  # the item after it
    gap: np.ndarray  # seconds


def neighbours(items: np.ndarray, times: np.ndarray, offsets: np.ndarray) -> Neighbours:
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    same = user[1:] == user[:-1]
    items, times = np.asarray(items, dtype=np.int64), np.asarray(times)
    return Neighbours(user[1:][same], items[:-1][same], items[1:][same], np.diff(times)[same])


@dataclass(frozen=True)
class Intervals:
    """Intervals between neighbouring events by class (INTERVAL_LABELS), int64 [8]."""

    counts: np.ndarray
    quantiles: dict[str, float]  # seconds

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def long_share(self) -> float:
        """The share above 100 days (TMMSRec, figure 2a); 0 if there is no interval."""
        return float(self.counts[-N_LONG:].sum() / self.n) if self.n else 0.0


def intervals(gap: np.ndarray) -> Intervals:
    classes = np.searchsorted(INTERVAL_LIMITS, gap, side="left")
    return Intervals(np.bincount(classes, minlength=len(INTERVAL_LABELS)), quantiles(gap))


def quantiles(values: np.ndarray) -> dict[str, float]:
    if len(values) == 0:
        return {}
    return dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True))


@dataclass(frozen=True)
class PairIntervals:
    """An ordered pair of items, and its interval for each user who had both in immediate succession."""

    first: int
    second: int
    seconds: np.ndarray  # int64 [n users], ascending


def most_common_pair(near: Neighbours) -> PairIntervals | None:
    """Return the ordered pair of different items that most users have as neighbours; each user's first time counts.

    A pair that every user has without a gap (two halves of a bikini) shows nothing about intervals; it is returned only
    if all pairs are like that. Of equally common pairs, the pair with the smaller items is returned; None if no two
    different items are neighbours. TMMSRec's figure 2b shows such a pair.
    """
    differ = near.first != near.second
    if not differ.any():
        return None
    user, first, second, gap = (column[differ] for column in (near.user, near.first, near.second, near.gap))
    key = first * (int(second.max()) + 1) + second
    order = np.lexsort((key, user))  # a stable sort, so a user's first time stays first
    user, key, gap = user[order], key[order], gap[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = (np.diff(user) != 0) | (np.diff(key) != 0)
    key, gap = key[new], gap[new]
    pairs, number, count = np.unique(key, return_inverse=True, return_counts=True)
    with_gap = np.bincount(number[gap > 0], minlength=len(pairs)) > 0
    best = int(pairs[np.where(with_gap if with_gap.any() else True, count, 0).argmax()])
    items = divmod(best, int(second.max()) + 1)
    return PairIntervals(*items, seconds=np.sort(gap[key == best]))


@dataclass(frozen=True)
class Lengths:
    """Whole numbers in classes of equal width: class k holds starts[k] .. starts[k] + width - 1.

    With `open_end`, the last class holds everything from its start on (the longest 1%).
    """

    starts: np.ndarray  # int64 [n]
    width: int
    counts: np.ndarray  # int64 [n]
    open_end: bool
    quantiles: dict[str, float]

    def label(self, index: int) -> str:
        """Return "5", "5-8", or "40+" for an open end."""
        start = int(self.starts[index])
        if self.open_end and index == len(self.starts) - 1:
            return f"{start}+"
        return str(start) if self.width == 1 else f"{start}-{start + self.width - 1}"


def lengths(values: np.ndarray) -> Lengths:
    """Count in at most MAX_CLASSES classes up to the 99th percentile, and a class above it. `values` is not empty."""
    low, top = int(values.min()), int(np.ceil(np.quantile(values, 0.99)))
    width = -(-(top - low + 1) // MAX_CLASSES)
    n = -(-(top - low + 1) // width)
    classes = np.minimum((values - low) // width, n)
    counts = np.bincount(classes, minlength=n)
    return Lengths(low + width * np.arange(len(counts)), width, counts, len(counts) > n, quantiles(values))


@dataclass(frozen=True)
class Popularity:
    """The events of each item, most popular first: `items` int64 [N] (ties by item), `counts` int64 [N]."""

    items: np.ndarray
    counts: np.ndarray

    @property
    def n_head(self) -> int:
        """The number of items in the most popular fifth, at least 1."""
        return max(1, round(HEAD * len(self.counts)))

    @property
    def head_share(self) -> float:
        """The share of the events that belong to the most popular fifth."""
        return float(self.counts[: self.n_head].sum() / self.counts.sum())


def popularity(items: np.ndarray, n_items: int) -> Popularity:
    counts = np.bincount(items, minlength=n_items + 1)[1:]
    order = np.argsort(-counts, kind="stable")
    return Popularity(order + 1, counts[order])


def pick_spread(ranked: np.ndarray, n: int) -> np.ndarray:
    """Pick `n` of the ranked items: half of them the first, the others spread evenly over the rest."""
    if len(ranked) <= n:
        return ranked
    head = n - n // 2
    rest = np.linspace(head, len(ranked) - 1, n - head).round().astype(np.int64)
    return np.concatenate([ranked[:head], ranked[rest]])


def pick_different(ranked: np.ndarray, groups: list[Any], n: int) -> np.ndarray:
    """Pick the `n` first ranked items of different groups (`groups[i]` is of item i + 1), then those skipped."""
    seen: set[Any] = set()
    taken: list[int] = []
    others: list[int] = []
    for item in ranked.tolist():
        group = groups[item - 1]
        (others if group in seen else taken).append(item)
        seen.add(group)
        if len(taken) == n:
            break
    return np.array([*taken, *others][:n], dtype=np.int64)
