"""Small prepared data sets with statistics, for the tests of `datasets stats`."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.store import Prepared
from tests.features.toy import PROTOCOL, at, encoded, picture
from tests.prepared import write_data_set

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
    pictures: Path | None = None,
    name: str = "small",
    categories: Sequence[Sequence[int]] = (),
) -> Prepared:
    """Write a data set of these histories."""
    flat = (
        np.array([item for history in histories for item, _ in history]),
        np.array([time for history in histories for _, time in history]),
        np.concatenate([[0], np.cumsum([len(history) for history in histories])]),
    )
    return write_data_set(
        data_dir,
        name,
        flat,
        plain_records(n_items) if records is None else records,
        protocol=PROTOCOL,
        owned=[*categories, *([[]] * (n_items - len(categories)))],
        n_categories=10,
        user_ids=[f"u{u}" for u in range(len(histories))],
        title=f"The {name} one",
        images=None if pictures is None else at(pictures),
        created=1.0e9,
        text_fields=("title", "brand"),
    )


def write_pictures(file: Path, names: Sequence[str], *, size: tuple[int, int] = (90, 120)) -> Path:
    """Write a zip of pictures."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, encoded(picture(seed, size)))
    return file
