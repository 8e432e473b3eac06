"""Options whose values may be written with commas."""

from collections.abc import Iterable


def words(texts: Iterable[str] | None) -> list[str]:
    """Return the values of a repeatable option: `-d a -d b` and `-d a,b` are the same."""
    return [part.strip() for text in texts or [] for part in text.split(",") if part.strip()]
