"""Histories of the shape of Amazon Beauty, generated; in memory, or written as a prepared data set.

22,363 users, 12,101 items, 8.9 events a user: at least five, median 7, one in a hundred above 38, so that windows
of long histories occur as often as in the real data. Popularity falls like 1 / (rank + n_items / 200). There is
nothing to learn in them: they are for measuring time and memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.protocol import PROTOCOLS
from mmbench.data.store import Prepared, write_prepared

USERS, ITEMS = 22_363, 12_101
LEAST, LONGEST = 5, 300
START, DAY = 1_300_000_000, 86_400


@dataclass(frozen=True)
class Histories:
    """What the views of mmbench.data.views read of a prepared data set."""

    items: np.ndarray  # int64 [E], 1..n_items
    times: np.ndarray  # int64 [E]
    offsets: np.ndarray  # int64 [U + 1]
    n_items: int

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1


def histories(n_users: int = USERS, n_items: int = ITEMS, seed: int = 0) -> Histories:
    """Every item occurs where there are events enough; times are whole days, some events share one."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(LEAST + (rng.pareto(2.6, n_users) * 7).astype(np.int64), LONGEST)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n_events = int(offsets[-1])
    once = np.tile(np.arange(1, n_items + 1), min(LEAST, n_events // n_items))
    weight = 1 / (np.arange(n_items) + 1 + n_items / 200)
    reached = np.cumsum(weight / weight.sum())
    drawn = np.searchsorted(reached[:-1], rng.random(n_events - len(once)), side="right") + 1
    items = rng.permutation(np.concatenate([once, drawn]))
    clock = np.cumsum(rng.integers(0, 30, n_events))
    times = START + DAY * (clock - np.repeat(clock[offsets[:-1]], lengths))
    return Histories(items, times, offsets, n_items)


def write(data_dir: Path, name: str, made: Histories) -> Prepared:
    """The histories as a prepared data set without texts, pictures and categories."""
    protocol: dict[str, Any] = {**PROTOCOLS["clean"], "name": "clean", "ties": "file"}
    counts = {"users": made.n_users, "items": made.n_items, "interactions": len(made.items)}
    blank = {"title": "", "brand": "", "categories": [], "text": "", "image": None}
    manifest = {
        "name": name, "dataset": name, "title": name, "synthetic": True, "protocol": protocol, "counts": counts,
        "statistics": {}, "printed": {}, "raw": [], "images": None, "created": 0.0,
    }  # fmt: skip
    return write_prepared(
        data_dir=data_dir, manifest=manifest, items=made.items, times=made.times, offsets=made.offsets,
        item_records=[{"id": f"i{number:07}", **blank} for number in range(made.n_items)],
        user_ids=[f"u{number:07}" for number in range(made.n_users)],
        categories=([], np.zeros(0, np.int64), np.zeros(made.n_items + 1, np.int64)),
    )  # fmt: skip
