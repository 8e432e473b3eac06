"""Hashes of prepared data sets that this version knows, from known_data.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmbench import strict


@dataclass(frozen=True, kw_only=True)
class KnownData(strict.Strict):
    """A data set as it was prepared by this version: hash of the data, items, users with a test target."""

    hash: str
    items: int
    test_users: int


@cache
def known_data() -> dict[str, KnownData]:
    """Return what is known, by the name of the prepared data set."""
    content = tomllib.loads(Path(__file__).with_name("known_data.toml").read_text(encoding="utf-8"))
    return {name: KnownData.from_json(table) for name, table in content.items()}
