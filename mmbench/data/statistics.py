"""Statistics of a prepared data set, and their comparison with printed counts. Nothing is rounded here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbench.data.split import make_split

DAY = 86_400
LONG_INTERVAL_DAYS = 100
COUNTS = ("users", "items", "interactions")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def describe(
    *,
    items: np.ndarray,
    ticks: np.ndarray,
    times: np.ndarray,
    offsets: np.ndarray,
    n_items: int,
    protocol: dict[str, Any],
) -> dict[str, Any]:
    """Statistics of the events, which are sorted by user and order. Shares are between 0 and 1.

    `ticks` is the time in the raw file's own resolution, `times` in seconds. Raises DataError when the split
    leaves nobody to evaluate.
    """
    lengths = np.diff(offsets)
    n_users, n_events = len(lengths), len(items)
    user = np.repeat(np.arange(n_users), lengths)
    neighbours = user[1:] == user[:-1]
    gaps = np.diff(times)[neighbours]
    split = make_split(protocol, times, offsets)
    seen = _seen_before(user, items)
    return {
        "users": n_users,
        "items": n_items,
        "interactions": n_events,
        "actions_per_user": n_events / n_users,
        "actions_per_item": n_events / n_items,
        "sparsity": 1 - len(np.unique(user * np.int64(n_items + 1) + items)) / (n_users * n_items),
        "tied_neighbours": _share(np.diff(ticks)[neighbours] == 0),
        "long_intervals": _share(gaps > LONG_INTERVAL_DAYS * DAY),
        "history_length": dict(
            zip(map(str, QUANTILES), np.quantile(lengths, QUANTILES).tolist(), strict=True)
        ),
        "first_time": int(times.min()),
        "last_time": int(times.max()),
        "valid_users": int((split.valid_pos >= 0).sum()),
        "test_users": int((split.test_pos >= 0).sum()),
        "valid_repeats": _share(_at(seen, offsets, split.valid_pos)),
        "test_repeats": _share(_at(seen, offsets, split.test_pos)),
    }


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _seen_before(user: np.ndarray, items: np.ndarray) -> np.ndarray:
    """bool [E], True where the same user had the same item at an earlier place."""
    order = np.lexsort((items, user))
    again = (np.diff(user[order]) == 0) & (np.diff(items[order]) == 0)
    seen = np.zeros(len(user), dtype=bool)
    seen[order[1:][again]] = True
    return seen


def _at(values: np.ndarray, offsets: np.ndarray, position: np.ndarray) -> np.ndarray:
    has = position >= 0
    return values[offsets[:-1][has] + position[has]]


@dataclass(frozen=True)
class Compared:
    """One statistic beside what is printed for it; `remark` is "" where there is nothing to say."""

    statistic: str
    computed: float
    printed: float | None
    remark: str

    @property
    def ok(self) -> bool:
        return self.remark in ("", "as printed") or self.remark.startswith("slip")


def compare(
    statistics: Mapping[str, Any], printed: Mapping[str, Any], *, protocol: str, default_protocol: str
) -> list[Compared]:
    """Counts and averages beside the printed ones; a difference and a known slip are always said."""
    slips = {one["statistic"]: one for one in printed.get("slips", [])}
    rows = []
    for name in (*COUNTS, "actions_per_user", "actions_per_item", "sparsity"):
        computed, slip = statistics[name], slips.get(name)
        value = slip["printed"] if slip else printed.get(name)
        rows.append(
            Compared(name, computed, value, _remark(name, computed, value, slip, protocol, default_protocol))
        )
    return rows


def _agrees(name: str, computed: float, value: float) -> bool:
    """Equal to the digits that tables print: whole counts, averages and percentages with two decimals."""
    if name in COUNTS:
        return abs(computed - value) < 0.5
    return abs(computed - value) <= (0.5e-4 if name == "sparsity" else 0.005) + 1e-9


def _remark(
    name: str,
    computed: float,
    value: float | None,
    slip: Mapping[str, Any] | None,
    protocol: str,
    default: str,
) -> str:
    if value is None:
        return ""
    if slip is not None:
        agrees = _agrees(name, computed, slip["correct"])
        if agrees or computed != value:
            tail = (
                ""
                if agrees or protocol != default
                else f"; computed differs from {slip['correct']:g} as well"
            )
            return f"slip in {slip['source']}: {slip['why']}{tail}"
    if _agrees(name, computed, value):
        return "as printed"
    difference = f"differs by {computed - value:+,g}"
    return difference if protocol == default else f"{difference} (printed under {default})"


def coverage(records: Sequence[Mapping[str, Any]], members: frozenset[str] | None) -> dict[str, Any]:
    """Shares of items with a title, any text, categories, a declared picture, and a picture that is there."""
    n = len(records)
    there = [
        one["image"] for one in records if one["image"] is not None and members and one["image"] in members
    ]
    return {
        "title": sum(bool(one["title"]) for one in records) / n,
        "text": sum(bool(one["text"]) for one in records) / n,
        "categories": sum(bool(one["categories"]) for one in records) / n,
        "image_declared": sum(one["image"] is not None for one in records) / n,
        "image": len(there) / n,
        "n_without_title": sum(not one["title"] for one in records),
        "n_without_text": sum(not one["text"] for one in records),
        "n_without_image": n - len(there),
    }
