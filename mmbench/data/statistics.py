"""Statistics of a prepared data set, and their comparison with printed counts. Nothing is rounded here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmbench import strict
from mmbench.data.protocol import Protocol
from mmbench.data.spec import Slip
from mmbench.data.split import make_split

DAY = 86_400
LONG_INTERVAL_DAYS = 100
COUNTS = ("users", "items", "interactions")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Coverage(strict.Strict):
    """Shares of items, 0 to 1, that have a title, a text, ..., and how many items lack it."""

    title: float
    text: float
    categories: float
    image_declared: float  # the item names a picture
    image: float  # the picture that it names exists
    n_without_title: int
    n_without_text: int
    n_without_image: int


@dataclass(frozen=True, kw_only=True)
class RawCounts(strict.Strict):
    """What the raw files held, and what was removed."""

    users: int
    items: int
    interactions: int
    duplicates: int  # events that equal an earlier event in user, item and time
    items_dropped_incomplete: int = 0  # items that lack what the protocol requires
    dropped_incomplete: int = 0  # interactions with these items
    filter_rounds: int = 0

    def dropped_by_bounds(self, duplicates: Literal["drop", "keep"], *, left: int) -> int:
        """Return how many interactions the bounds on users and items removed, if `left` are left after all filters."""
        removed = self.dropped_incomplete + (self.duplicates if duplicates == "drop" else 0)
        return self.interactions - removed - left


@dataclass(frozen=True, kw_only=True)
class Statistics(strict.Strict):
    """The statistics of a prepared data set. Shares are between 0 and 1, times in unix seconds.

    What is about times is None where interactions only have an order.
    """

    users: int
    items: int
    interactions: int
    actions_per_user: float
    actions_per_item: float
    sparsity: float
    tied_neighbours: float  # share of neighbouring events of a user with equal times
    long_intervals: float | None  # share of neighbouring events more than LONG_INTERVAL_DAYS apart
    history_length: dict[str, float]  # quantile -> events of a user
    first_time: int | None
    last_time: int | None
    valid_users: int
    test_users: int
    valid_repeats: float  # share of targets that the user had before
    test_repeats: float
    coverage: Coverage
    raw: RawCounts


def describe(
    *,
    items: np.ndarray,
    times: np.ndarray,
    offsets: np.ndarray,
    protocol: Protocol,
    coverage: Coverage,
    raw: RawCounts | None = None,
    n_items: int,
    ticks: np.ndarray | None = None,
    has_times: bool = True,
) -> Statistics:
    """Return the statistics of events in prepared order.

    ticks  the times in the raw file's resolution; None: `times`
    raw    None: nothing was filtered out
    has_times  False: the times are not times but an order

    Raises DataError when the split leaves no user to evaluate.
    """
    lengths = np.diff(offsets)
    n_users, n_events = len(lengths), len(items)
    user = np.repeat(np.arange(n_users), lengths)
    neighbours = user[1:] == user[:-1]
    gaps = np.diff(times)[neighbours]
    split = make_split(protocol, times, offsets)
    seen = _seen_before(user, items)
    return Statistics(
        users=n_users,
        items=n_items,
        interactions=n_events,
        actions_per_user=n_events / n_users,
        actions_per_item=n_events / n_items,
        sparsity=1 - len(np.unique(user * np.int64(n_items + 1) + items)) / (n_users * n_items),
        tied_neighbours=_share(np.diff(times if ticks is None else ticks)[neighbours] == 0),
        long_intervals=_share(gaps > LONG_INTERVAL_DAYS * DAY) if has_times else None,
        history_length=dict(zip(map(str, QUANTILES), np.quantile(lengths, QUANTILES).tolist(), strict=True)),
        first_time=int(times.min()) if has_times else None,
        last_time=int(times.max()) if has_times else None,
        valid_users=int((split.valid_pos >= 0).sum()),
        test_users=int((split.test_pos >= 0).sum()),
        valid_repeats=_share(_values_at(seen, offsets, split.valid_pos)),
        test_repeats=_share(_values_at(seen, offsets, split.test_pos)),
        coverage=coverage,
        raw=raw or RawCounts(users=n_users, items=n_items, interactions=n_events, duplicates=0),
    )


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _seen_before(user: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return bool [E], True where the same user had the same item before."""
    order = np.lexsort((items, user))
    repeated = (np.diff(user[order]) == 0) & (np.diff(items[order]) == 0)
    seen = np.zeros(len(user), dtype=bool)
    seen[order[1:][repeated]] = True
    return seen


def _values_at(values: np.ndarray, offsets: np.ndarray, position: np.ndarray) -> np.ndarray:
    has = position >= 0
    return values[offsets[:-1][has] + position[has]]


@dataclass(frozen=True)
class Compared:
    """A statistic beside its printed value; `remark` is "" where there is nothing to say."""

    statistic: str
    computed: float
    printed: float | None
    remark: str

    @property
    def ok(self) -> bool:
        return self.remark in ("", "as printed") or self.remark.startswith("slip")


def compare(
    statistics: Statistics,
    printed: Mapping[str, float],
    slips: Sequence[Slip],
    *,
    protocol: str,
    default_protocol: str,
) -> list[Compared]:
    """Return counts and averages beside the printed values; differences and known slips always get a remark."""
    slip_of: dict[str, Slip] = {slip.statistic: slip for slip in slips}
    rows = []
    for name in (*COUNTS, "actions_per_user", "actions_per_item", "sparsity"):
        computed, slip = getattr(statistics, name), slip_of.get(name)
        value = slip.printed if slip else printed.get(name)
        remark = _remark(name, computed, value, slip, protocol, default_protocol)
        rows.append(Compared(name, computed, value, remark))
    return rows


def _agrees(name: str, computed: float, value: float) -> bool:
    """Return whether two values agree to the digits that tables print: whole counts, else two decimals."""
    if name in COUNTS:
        return abs(computed - value) < 0.5
    return abs(computed - value) <= (0.5e-4 if name == "sparsity" else 0.005) + 1e-9


def _remark(
    name: str, computed: float, value: float | None, slip: Slip | None, protocol: str, default: str
) -> str:
    if value is None:
        return ""
    if slip is not None:
        agrees = _agrees(name, computed, slip.correct)
        if agrees or computed != value:
            is_other = not agrees and protocol == default
            tail = f"; the computed value differs from {slip.correct:g}, too" if is_other else ""
            return f"slip in {slip.source}: {slip.why}{tail}"
    if _agrees(name, computed, value):
        return "as printed"
    difference = f"differs by {computed - value:+,g}"
    return difference if protocol == default else f"{difference} (printed under {default})"


def coverage(records: Sequence[Mapping[str, Any]], members: frozenset[str] | None) -> Coverage:
    """Return the shares of items with a title, a text, categories, a declared picture, and an existing picture."""
    n = len(records)
    declared = [record["image"] for record in records if record["image"] is not None]
    n_existing = sum(image in members for image in declared) if members else 0
    return Coverage(
        title=sum(bool(record["title"]) for record in records) / n,
        text=sum(bool(record["text"]) for record in records) / n,
        categories=sum(bool(record["categories"]) for record in records) / n,
        image_declared=len(declared) / n,
        image=n_existing / n,
        n_without_title=sum(not record["title"] for record in records),
        n_without_text=sum(not record["text"] for record in records),
        n_without_image=n - n_existing,
    )
