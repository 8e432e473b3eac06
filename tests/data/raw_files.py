"""Tiny raw files in every format that is read, written by the tests themselves."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmbench.data.catalog import read_catalog
from mmbench.data.spec import DatasetSpec

DAY = 86_400
START = 1_400_000_000
Event = tuple[str, str, int]
TIED: list[Event] = [(user, item, START) for user in "abcdef" for item in "pqrstu"]  # all at one moment


def write_lines(file: Path, lines: Iterable[str]) -> Path:
    """gzip when the name ends in .gz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)
    return file


def review(user: str, item: str, time: int) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time})


def grid(n_users: int = 6, n_items: int = 6) -> list[Event]:
    """Every user has every item, a day apart, each beginning elsewhere: nothing is filtered out of it."""
    return [
        (f"u{user}", f"i{(user + step) % n_items}", START + step * DAY)
        for user in range(n_users)
        for step in range(n_items)
    ]


def write_2014(folder: Path, events: Sequence[Event], meta: Sequence[dict[str, Any]] | None = None) -> Path:
    """reviews_Demo_5.json.gz and meta_Demo.json.gz; without `meta` every item has a title and two categories."""
    if meta is None:
        items = sorted({item for _, item, _ in events})
        meta = [
            {"asin": item, "title": f"Title {item}", "categories": [["Root", f"Node {item}"]]}
            for item in items
        ]
    write_lines(folder / "reviews_Demo_5.json.gz", (review(*event) for event in events))
    write_lines(folder / "meta_Demo.json.gz", (repr(record) for record in meta))
    return folder


def write_toml(folder: Path, body: str, name: str = "mine") -> Path:
    """A datasets.toml with one table."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "datasets.toml"
    file.write_text(f"[{name}]\n{body}", encoding="utf-8")
    return file


AMAZON_2014 = """
title = "Mine"
parser = "amazon-2014"
files.interactions = { name = "reviews_Demo_5.json.gz" }
files.items = { name = "meta_Demo.json.gz" }
"""
TABLE = """
title = "Mine"
parser = "table"
files.interactions = { name = "events.tsv" }
files.items = { name = "items.tsv" }
columns.items = { item = "item", title = "title", categories = "genres", category_separator = "|" }
"""


def spec_of(folder: Path, body: str) -> DatasetSpec:
    return read_catalog(write_toml(folder, body))["mine"]
