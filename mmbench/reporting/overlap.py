"""How alike the lists of rows are: rows with equal means may recommend other items, and so may seeds of one row."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmbench.choices import MaskRule
from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.gather import check_runs, measure
from mmbench.reporting.labels import Group, group_runs, names_of
from mmbench.reporting.request import TableRequest
from mmbench.runs.store import RunRecord

QUALITY = Metric("NDCG", 10)  # orders the rows


@dataclass(frozen=True)
class OverlapTable:
    """Shares of common items in the lists of a data set's users, the row with the highest NDCG@10 first.

    shares    float64 [R, R]: of two rows, the mean over their runs of equal seed, or over all pairs of runs where no
              seed is equal; on the diagonal the mean over pairs of seeds, NaN with a single one
    chance    what lists drawn at random have in common
    left_out  a line about each row without lists of this length
    """

    dataset: str
    k: int
    rule: MaskRule
    rows: tuple[str, ...]
    shares: np.ndarray
    chance: float
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Lists:
    """The lists of a row's runs by seed, int32 [n, k] each, all of the same users."""

    name: str
    of_seeds: Mapping[int, np.ndarray]
    users: np.ndarray
    n_items: int


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean over users of the share of items that two lists have in common.

    first, second  int [n, k], an item at most once in a list; 0 fills lists that have fewer items
    """
    # An item of both lists stands beside itself once they are sorted together.
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    common = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] > 0)).sum(1)
    longest = np.maximum((first > 0).sum(1), (second > 0).sum(1))
    return float((common / np.maximum(longest, 1)).mean())


def overlap_tables(
    records: Sequence[RunRecord], *, k: int, mask_seen: MaskRule | None = None
) -> list[OverlapTable]:
    """Return how alike the rows' lists of `k` items are, a table for each data set.

    Raises UsageError where no row has such lists, ProtocolMismatchError where rows are not comparable.
    """
    if k < 1:
        raise UsageError(f"--overlap {k}: lists have at least 1 item")
    finished = [record for record in records if record.status == "finished"]
    names = sorted({record.dataset for record in finished})
    check_runs(finished, names, TableRequest(metrics=(QUALITY,), mask_seen=mask_seen))
    groups, _ = group_runs(finished)
    by_dataset: dict[str, list[tuple[str, Group]]] = defaultdict(list)
    for name, group in zip(names_of(groups), groups, strict=True):
        by_dataset[group.dataset].append((name, group))
    tables = [_table(name, by_dataset[name], k, mask_seen) for name in names]
    if not any(table.rows for table in tables):
        reasons = "; ".join(reason for table in tables for reason in table.left_out)
        raise UsageError(f"--overlap {k}: no row has such lists: {reasons or 'there is no finished run'}")
    return [table for table in tables if table.rows]


def _table(
    dataset: str, rows: Sequence[tuple[str, Group]], k: int, mask_seen: MaskRule | None
) -> OverlapTable:
    rule = mask_seen or rows[0][1].finished[0].mask_seen
    lists, left_out = [], []
    for name, group in sorted(rows, key=lambda row: -_quality(row[1], mask_seen)):
        try:
            lists.append(_lists_of(name, group, rule, k))
        except MmbenchError as error:
            left_out.append(f"{name} on {dataset}: {error}")
    for other in lists[1:]:
        if not np.array_equal(lists[0].users, other.users):
            raise DataError(f"{dataset}: {lists[0].name} and {other.name} ranked for different users")
    shares = np.full((len(lists), len(lists)), np.nan)
    for i, j in itertools.combinations_with_replacement(range(len(lists)), 2):
        shares[i, j] = shares[j, i] = _share(lists[i], lists[j], is_same=i == j)
    chance = min(1.0, k / lists[0].n_items) if lists else 0.0
    return OverlapTable(dataset, k, rule, tuple(row.name for row in lists), shares, chance, tuple(left_out))


def _quality(group: Group, mask_seen: MaskRule | None) -> float:
    """Return the NDCG@10 by which rows are ordered; those without one come last."""
    metric = QUALITY.within(group.finished[0].n_items)
    measured, _ = measure(group, TableRequest(metrics=(metric,), mask_seen=mask_seen))
    return -1.0 if measured is None else float(measured.values.mean())


def _lists_of(name: str, group: Group, rule: MaskRule, k: int) -> _Lists:
    rankings = {record.seed: record.ranking("test") for record in group.finished}
    first = next(iter(rankings.values()))
    if not all(np.array_equal(first.user, ranking.user) for ranking in rankings.values()):
        raise DataError("its runs ranked for different users")
    of_seeds = {seed: ranking.top(rule, k) for seed, ranking in rankings.items()}
    return _Lists(name, of_seeds, first.user, first.n_items)


def _share(first: _Lists, second: _Lists, *, is_same: bool) -> float:
    if is_same:
        pairs = list(itertools.combinations(first.of_seeds.values(), 2))
    elif equal := sorted(first.of_seeds.keys() & second.of_seeds.keys()):
        pairs = [(first.of_seeds[seed], second.of_seeds[seed]) for seed in equal]
    else:
        pairs = list(itertools.product(first.of_seeds.values(), second.of_seeds.values()))
    return float(np.mean([overlap(*pair) for pair in pairs])) if pairs else np.nan
