"""Small prepared data sets with statistics, for the tests of `datasets stats`."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.statistics import coverage, describe
from mmbench.data.store import Prepared, write_prepared
from tests.features.toy import PROTOCOL, encoded, picture

Event = tuple[int, int]  # item 1..N, seconds


def plain_records(n: int) -> list[dict[str, Any]]:
    """Items i1, i2, ... with a title and a text each."""
    return [
        {"id": f"i{k}", "title": f"thing {k}", "text": f"thing number {k}", "image": None, "categories": []}
        for k in range(1, n + 1)
    ]


def write_data(
    data_dir: Path,
    histories: Sequence[Sequence[Event]],
    *,
    n_items: int,
    records: list[dict[str, Any]] | None = None,
    images: dict[str, str] | None = None,
    name: str = "small",
    categories: Sequence[Sequence[int]] = (),
) -> Prepared:
    """A data set of these histories, with the statistics that `prepare` would have counted."""
    records = plain_records(n_items) if records is None else records
    items = np.array([item for one in histories for item, _ in one])
    times = np.array([time for one in histories for _, time in one])
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in histories])])
    owned = [*categories, *([[]] * (n_items - len(categories)))]
    counts = {"users": len(histories), "items": n_items, "interactions": len(items)}
    found = describe(
        items=items, ticks=times, times=times, offsets=offsets, n_items=n_items, protocol=PROTOCOL
    )
    members = frozenset(str(one["image"]) for one in records if one["image"])
    raw = {**counts, "duplicates": 0}
    return write_prepared(
        data_dir=data_dir,
        manifest={
            "name": name, "dataset": name, "title": f"The {name} one", "synthetic": True, "protocol": PROTOCOL,
            "counts": counts, "statistics": {**found, "coverage": coverage(records, members), "raw": raw},
            "printed": {}, "raw": [], "images": images, "created": 1.0e9, "text_fields": ["title", "brand"],
        },
        items=items,
        times=times,
        offsets=offsets,
        item_records=records,
        user_ids=[f"u{u}" for u in range(len(histories))],
        categories=(
            [f"c{c}" for c in range(10)],
            np.array([c for one in owned for c in one]),
            np.concatenate([[0], np.cumsum([len(one) for one in owned])]),
        ),
    )  # fmt: skip


def write_pictures(file: Path, names: Sequence[str], *, size: tuple[int, int] = (90, 120)) -> dict[str, str]:
    """A zip of pictures, as the manifest names it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, encoded(picture(seed, size)))
    return {"kind": "zip", "path": str(file), "hash": "0"}
