"""Histories of the shape of Amazon Beauty, generated; in memory, or written as a prepared data set.

22,363 users, 12,101 items, 8.9 events a user: at least five, median 7, one in a hundred above 38, so that windows
of long histories occur as often as in the real data. Popularity falls like 1 / (rank + n_items / 200). There is
nothing to learn in them, as they are for measuring time and memory, until `with_successors` puts it there.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmbench.data.manifest import Facts
from mmbench.data.protocol import PROTOCOLS
from mmbench.data.statistics import coverage, describe
from mmbench.data.store import Prepared
from mmbench.data.writing import Content, write_prepared
from mmbench.features.manifest import MODALITIES, MadeBy
from mmbench.features.store import write_features

USERS, ITEMS = 22_363, 12_101
LEAST, LONGEST = 5, 300
START, DAY = 1_300_000_000, 86_400
CATEGORIES, OF_ITEM, BRANDS = 200, 3, 500
LAYERED = {"text": "bert-base-uncased+layers", "image": "vit-base-patch16-224+layers"}


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


def histories(
    n_users: int = USERS, n_items: int = ITEMS, seed: int = 0, *, n_events: int | None = None
) -> Histories:
    """Every item occurs where there are events enough; times are whole days, some events share one.

    With `n_events` the lengths are stretched, and then changed by one for some users, until they add up to it.
    """
    rng = np.random.default_rng(seed)
    scale = 7 if n_events is None else 1.6 * (n_events / n_users - LEAST + 0.5)
    lengths = np.minimum(LEAST + (rng.pareto(2.6, n_users) * scale).astype(np.int64), LONGEST)
    while missing := 0 if n_events is None else n_events - int(lengths.sum()):
        able = np.flatnonzero((lengths > LEAST) | (missing > 0))
        lengths[rng.choice(able, min(abs(missing), len(able)), replace=False)] += np.sign(missing)
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


def with_successors(made: Histories, share: float, seed: int = 0) -> Histories:
    """Return histories in which each item has a fixed successor, which follows it with this probability."""
    rng = np.random.default_rng(seed)
    successor, items = np.append(0, rng.permutation(made.n_items) + 1), made.items.copy()
    lengths, follows = np.diff(made.offsets), rng.random(len(items)) < share
    for place in range(1, int(lengths.max())):
        events = (made.offsets[:-1] + place)[lengths > place]
        events = events[follows[events]]
        items[events] = successor[items[events - 1]]
    return replace(made, items=items)


def write(data_dir: Path, name: str, made: Histories, *, features: int = 0, layers: int = 0) -> Prepared:
    """The histories as a prepared data set without titles.

    features  width of random text and image features; with them, every item has random categories and a brand
    layers    how many random states so wide each item has besides, under the names that IISAN's recipe reads
    """
    rng = np.random.default_rng(0)
    protocol, blank = PROTOCOLS["clean"], {"title": "", "categories": [], "text": "", "image": None}
    brands = [f"b{number:03}" if features else "" for number in rng.integers(0, BRANDS, made.n_items)]
    records = [{"id": f"i{number:07}", "brand": brand, **blank} for number, brand in enumerate(brands)]
    of_item = OF_ITEM if features else 0
    owned = rng.integers(0, CATEGORIES // OF_ITEM, (made.n_items, of_item)) * OF_ITEM + np.arange(of_item)
    statistics = describe(
        items=made.items, times=made.times, offsets=made.offsets, n_items=made.n_items, protocol=protocol,
        coverage=coverage(records, None),
    )  # fmt: skip
    facts = Facts(
        name=name,
        dataset=name,
        title=name,
        synthetic=True,
        protocol=protocol,
        statistics=statistics,
        created=0.0,
    )
    content = Content(
        items=made.items, times=made.times, offsets=made.offsets, item_records=records,
        user_ids=[f"u{number:07}" for number in range(made.n_users)],
        category_names=[f"c{number:03}" for number in range(CATEGORIES if features else 0)],
        category_ids=owned.reshape(-1), category_offsets=np.arange(made.n_items + 1) * of_item,
    )  # fmt: skip
    prepared = write_prepared(data_dir, facts, content)
    for modality in MODALITIES if features else ():
        values = rng.standard_normal((made.n_items + 1, features), dtype=np.float32)
        made_by = MadeBy(identity={"random": features})
        write_features(prepared, modality, "random", values, np.ones(len(values), bool), made_by)
    for modality, encoder in LAYERED.items() if layers else ():
        states = rng.standard_normal((made.n_items + 1, layers, features), dtype=np.float32).astype(
            np.float16
        )
        made_by = MadeBy(identity={"random": [layers, features]})
        write_features(
            prepared, modality, encoder, states, np.ones(len(states), bool), made_by, dtype="float16"
        )
    return prepared
