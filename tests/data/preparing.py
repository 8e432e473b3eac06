"""Shorthands around `prepare` for tests of prepared data."""

from pathlib import Path

from mmbench.data.prepare import prepare
from mmbench.data.store import Prepared


def made(tmp_path: Path, name: str = "mine", **options: object) -> Prepared:
    """Prepare `name` into tmp_path / "data"."""
    return prepare(name, tmp_path / "data", **options).prepared  # type: ignore[arg-type]


def history(prepared: Prepared, user: str) -> list[str]:
    """Raw item ids of a user, in order."""
    place = prepared.user_ids.index(user)
    events = prepared.items[prepared.offsets[place] : prepared.offsets[place + 1]]
    return [prepared.item_records[item - 1]["id"] for item in events]
