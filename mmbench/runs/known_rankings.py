"""Stored rankings that an earlier command read: that they are whole, and their metrics.

An entry counts while size, times and inode of the ranking's file are those that it had when it was read
(mmbench.runs.shelves). Any other file is read in full, so that damage is noticed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from mmbench import strict
from mmbench.choices import MaskRule, Ties
from mmbench.evaluation.evidence import Ranking, file_name
from mmbench.evaluation.metrics import Metric
from mmbench.runs.shelves import Shelves, stamp_of
from mmbench.runs.store import RANKINGS, RunRecord


@dataclass(frozen=True, kw_only=True)
class KnownRanking(strict.Strict):
    """What is known of a whole ranking of a run.

    stamp    of its file when it was read
    users    hash of the users' ids
    numbers  values by what they are, such as "NDCG@10 none expected"; None for a value that is not defined
    """

    stamp: str
    n_items: int
    n_users: int
    users: str
    numbers: dict[str, float | None] = field(default_factory=dict)


class KnownRankings:
    """The rankings that this and earlier commands read."""

    def __init__(self) -> None:
        self._shelves = Shelves("rankings", KnownRanking)

    def get(self, record: RunRecord, name: str) -> KnownRanking | None:
        """Return what is known of a run's ranking; None where its file must be read, also for damage."""
        if not _lies_at_home(record):
            return None
        known = self._shelves.get(record.path, name)
        is_same = (
            known is not None and known.stamp == _stamp(record, name) and known.n_items == record.n_items
        )
        return known if is_same else None

    def read(self, record: RunRecord, name: str) -> Ranking:
        """Return a run's ranking and keep that it is whole; DataError as `RunRecord.ranking`."""
        stamp = _stamp(record, name)
        ranking = record.ranking(name)
        is_new = self.get(record, name) is None
        if is_new and stamp and stamp == _stamp(record, name) and _lies_at_home(record):
            known = KnownRanking(
                stamp=stamp, n_items=ranking.n_items, n_users=len(ranking.user), users=hash_of_users(ranking)
            )
            self._shelves.put(record.path, name, known)
        return ranking

    def add(self, record: RunRecord, name: str, numbers: Mapping[str, float | None]) -> None:
        """Keep numbers of a ranking that is known."""
        known = self.get(record, name)
        if known is not None:
            self._shelves.put(record.path, name, replace(known, numbers={**known.numbers, **numbers}))

    def value(self, record: RunRecord, name: str, metric: Metric) -> float:
        """Return a metric under the run's own mask rule; errors are those of `RunRecord.metrics`."""
        number, known = name_of(metric, record.mask_seen, "expected"), self.get(record, name)
        value = None if known is None else known.numbers.get(number)
        if value is None:
            value = metric.value(self.read(record, name), record.mask_seen)
            self.add(record, name, {number: value})
        return value

    def save(self) -> None:
        self._shelves.save()


@contextmanager
def known_rankings() -> Iterator[KnownRankings]:
    """Yield what is known of rankings; store at the end what was learned."""
    known = KnownRankings()
    try:
        yield known
    finally:
        known.save()


def name_of(metric: Metric, rule: MaskRule, ties: Ties) -> str:
    """Return under which name a metric of a ranking is kept."""
    return f"{metric} under {rule}, ties {ties}"


def hash_of_users(ranking: Ranking) -> str:
    """Return the hash of the users of a ranking, whatever their order."""
    return hashlib.sha256(np.sort(ranking.user).astype(np.int64).tobytes()).hexdigest()[:32]


def _stamp(record: RunRecord, name: str) -> str:
    try:
        return stamp_of(record.path / RANKINGS / file_name(name))
    except OSError:
        return ""


def _lies_at_home(record: RunRecord) -> bool:
    """Return whether a run lies in a results folder, not in an opened bundle."""
    return "/".join(record.path.parts[-4:]) == record.title
