"""Small prepared data sets on disk, made of arrays, for checks that go through the whole engine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.manifest import Facts
from mmbench.data.protocol import Protocol
from mmbench.data.statistics import coverage, describe
from mmbench.data.store import Prepared
from mmbench.data.writing import Content, write_prepared
from mmbench.features.manifest import MadeBy
from mmbench.features.store import write_features

N_USERS, N_ITEMS = 120, 60
START = 1_400_000_000
PROTOCOL = Protocol(
    name="toy", duplicates="keep", min_user=3, min_item=1, item_counts="events", iterate=False, require=(),
    ties="file", split="leave-one-out", valid_share=0.0, test_share=0.0, max_len=10, mask_seen="none",
    selection_metric="NDCG@10", patience=3,
)  # fmt: skip


def random_histories(
    *, n_users: int = N_USERS, n_items: int = N_ITEMS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return items 1..n_items, times and offsets of users with 3 to 14 events.

    Item i is usually followed by i + 7 (mod n_items); about a sixth of the events share the time of the event before.
    """
    rng = np.random.default_rng(seed)
    lengths = 3 + np.arange(n_users) % 12
    items, times = [], []
    for length in lengths:
        item, now = int(rng.integers(n_items)), START + int(rng.integers(0, 10_000_000))
        for _ in range(length):
            items.append(item + 1)
            times.append(now)
            item = (item + 7) % n_items if rng.random() < 0.8 else int(rng.integers(n_items))
            now += int(rng.integers(1, 500_000)) * int(rng.random() > 1 / 6)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.array(items), np.array(times), offsets


def write_data_set(
    data_dir: Path,
    name: str,
    histories: tuple[np.ndarray, np.ndarray, np.ndarray],
    records: Sequence[dict[str, Any]],
    *,
    protocol: Protocol = PROTOCOL,
    owned: Sequence[Sequence[int]] | None = None,
    n_categories: int = 0,
    user_ids: Sequence[str] | None = None,
    **facts: Any,
) -> Prepared:
    """Write a data set with the statistics that `prepare` would have counted.

    owned  categories of each item, numbers below n_categories
    facts  further fields of the manifest
    """
    items, times, offsets = histories
    owned = [[] for _ in records] if owned is None else owned
    blank: dict[str, Any] = {"title": "", "brand": "", "categories": [], "text": "", "image": None}
    full = [{**blank, **record} for record in records]
    members = frozenset(str(record["image"]) for record in full if record["image"])
    statistics = describe(
        items=items, times=times, offsets=offsets, n_items=len(records), protocol=protocol,
        coverage=coverage(full, members),
    )  # fmt: skip
    known = {"dataset": name.split("@")[0], "title": name.title(), "synthetic": True, "created": 1.0, **facts}
    content = Content(
        items=items, times=times, offsets=offsets, item_records=full,
        user_ids=[f"u{u:05}" for u in range(len(offsets) - 1)] if user_ids is None else user_ids,
        category_names=[f"category {c}" for c in range(n_categories)],
        category_ids=np.array([c for categories in owned for c in categories]),
        category_offsets=np.concatenate([[0], np.cumsum([len(categories) for categories in owned])]),
    )  # fmt: skip
    written = Facts(name=name, protocol=protocol, statistics=statistics, **known)
    return write_prepared(data_dir, written, content)


def write_toy(
    data_dir: Path,
    name: str = "toy",
    *,
    features: bool = True,
    n_items: int = N_ITEMS,
    histories: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    created: float = 1.0,
    seed: int = 0,
    **protocol: Any,
) -> Prepared:
    """Write the data set `name`; keywords change its protocol."""
    prepared = write_data_set(
        data_dir,
        name,
        histories or random_histories(n_items=n_items, seed=seed),
        [{"id": f"i{i:05}", "title": f"thing {i}", "text": f"thing {i}"} for i in range(n_items)],
        protocol=replace(PROTOCOL, **protocol),
        owned=[[] if i % 10 == 3 else sorted({i % 6, (i * i) % 6}) for i in range(n_items)],
        n_categories=6,
        created=created,
    )
    if features:
        for modality, dim in (("text", 12), ("image", 8)):
            add_features(prepared, modality, "toy", dim=dim)
    return prepared


def add_features(
    prepared: Prepared, modality: str, encoder: str, *, dim: int = 8, seed: int = 0, layers: int = 0
) -> None:
    """Store random features of which a tenth is absent; with `layers` a vector for each layer."""
    rng = np.random.default_rng(seed + dim)
    shape = (prepared.n_items + 1, layers, dim) if layers else (prepared.n_items + 1, dim)
    values = rng.normal(size=shape).astype(np.float32)
    present = rng.random(prepared.n_items + 1) > 0.1
    write_features(prepared, modality, encoder, values, present, MadeBy(identity={"dim": dim, "seed": seed}))
