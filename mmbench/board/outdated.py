"""Which rows a fix of mmbench touches, from outdated.toml: those that were computed before it."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmbench import strict


@dataclass(frozen=True, kw_only=True)
class Fix(strict.Strict):
    """A fix that moved numbers; no models or no datasets: all trained models, all data sets."""

    date: str
    words: str
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()

    def touches(self, *, model: str, dataset: str, day: str) -> bool:
        """Return whether a row of a trained model that was computed on a day (YYYY-MM-DD) is older than the fix."""
        names = {model, model.partition(":")[0]}
        is_meant = not self.models or bool(names & set(self.models))
        return (
            is_meant and day < self.date and (not self.datasets or dataset.partition("@")[0] in self.datasets)
        )


@cache
def fixes() -> tuple[Fix, ...]:
    """Return all fixes in the order of the changelog."""
    content = tomllib.loads(Path(__file__).with_name("outdated.toml").read_text(encoding="utf-8"))
    return tuple(Fix.from_json(table) for table in content["fix"])


def why_outdated(*, model: str, dataset: str, day: str) -> str:
    """Return the newest fix that touches a row, as the changelog names it; "" where none does."""
    touching = [fix for fix in fixes() if fix.touches(model=model, dataset=dataset, day=day)]
    newest = max(touching, key=lambda fix: fix.date, default=None)
    return "" if newest is None else f"{newest.words} ({newest.date})"
