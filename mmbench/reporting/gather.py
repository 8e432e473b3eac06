"""Stored ranks -> values per run and per user, after checking that the rows of a data set are comparable."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmbench.errors import DataError, ProtocolMismatchError, UsageError
from mmbench.evaluation.metrics import Metric, Ties
from mmbench.reporting.labels import Group, RowKey
from mmbench.reporting.protocols import check_protocols
from mmbench.runs.store import RunRecord, SplitName


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Values of one group's runs: S runs, M metrics, U users in ascending id."""

    seeds: tuple[int, ...]
    values: np.ndarray  # float64 [S, M], means over users
    per_user: np.ndarray  # float64 [M, U], means over runs
    users: np.ndarray  # int64 [U]
    n_candidates: int
    tie_share: float  # users with a tied target, mean over runs
    deterministic: bool


def measure(group: Group, metrics: Sequence[Metric], *, split: SplitName, ties: Ties) -> Measured | None:
    """Metrics of a group's finished runs; one run of a deterministic model; None when no run finished."""
    runs = group.finished
    if not runs:
        return None
    deterministic = all(one.deterministic for one in runs)
    runs = runs[:1] if deterministic else runs
    values, tied = [], []
    total: np.ndarray | None = None
    users, n_candidates = np.empty(0, dtype=np.int64), 0
    for record in runs:
        ranks = record.ranks(split)
        order = np.argsort(ranks.user, kind="stable")
        found = ranks.user[order]
        if (np.diff(found) == 0).any():
            raise DataError(f"{record.path / 'ranks.npz'} holds a user twice; evaluate the run again")
        if total is not None:
            _same_users(users, found, runs[0], record, n_candidates, ranks.n_candidates)
        users, n_candidates = found, ranks.n_candidates
        one = np.stack([metric.values(ranks, ties)[order] for metric in metrics])
        values.append(one.mean(axis=1))
        tied.append(float((ranks.equal > 0).mean()))
        total = one if total is None else total + one
    assert total is not None
    return Measured(
        seeds=tuple(one.seed for one in runs),
        values=np.stack(values),
        per_user=total / len(runs),
        users=users,
        n_candidates=n_candidates,
        tie_share=float(np.mean(tied)),
        deterministic=deterministic,
    )


def check_users(measured: Sequence[tuple[Group, Measured]]) -> None:
    """Rows of one data set rank the same users among the same number of items."""
    if not measured:
        return
    first_group, first = measured[0]
    for group, one in measured[1:]:
        records = first_group.finished[0], group.finished[0]
        _same_users(first.users, one.users, *records, first.n_candidates, one.n_candidates)


def _same_users(
    a: np.ndarray, b: np.ndarray, first: RunRecord, second: RunRecord, n_first: int, n_second: int
) -> None:
    rows = " and ".join(f"{one.model} ({one.config_id})" for one in (first, second))
    rows = f"{first.dataset}: {rows}"
    if n_first != n_second:
        raise ProtocolMismatchError(
            f"{rows} rank {n_first:,} and {n_second:,} items, so they share no table; run one of them again"
        )
    if len(a) != len(b) or (a != b).any():
        only = len(np.setdiff1d(a, b)), len(np.setdiff1d(b, a))
        raise ProtocolMismatchError(
            f"{rows} were measured on different users ({only[0]:,} only in the first, {only[1]:,} only in "
            "the second), so they share no table; run one of them again"
        )


@dataclass(frozen=True)
class Grid:
    """Groups and their measured runs, by data set and row."""

    datasets: list[str]
    keys: list[RowKey]
    groups: dict[tuple[str, RowKey], Group]
    measured: dict[tuple[str, RowKey], Measured]
    footnotes: list[str]
    reasons: dict[tuple[str, RowKey], str] = field(
        default_factory=dict
    )  # why there are no runs; "" = no footnote

    def add(self, key: RowKey, group: Group, metrics: Sequence[Metric], split: SplitName, ties: Ties) -> None:
        self.groups[group.dataset, key] = group
        found = measure(group, metrics, split=split, ties=ties)
        if found is not None:
            self.measured[group.dataset, key] = found

    def footnote(self, text: str) -> int:
        if text not in self.footnotes:
            self.footnotes.append(text)
        return self.footnotes.index(text)

    def runs(self, key: RowKey) -> list[RunRecord]:
        return [run for (_, other), group in self.groups.items() if other == key for run in group.records]

    @cached_property
    def leaky(self) -> set[RowKey]:
        return {key for key in self.keys if any(run.leaky for run in self.runs(key))}


def check_runs(records: Sequence[RunRecord], datasets: Sequence[str], metrics: Sequence[Metric]) -> None:
    """The runs of each data set share a protocol, under which these metrics make sense."""
    for dataset in datasets:
        finished = [one for one in records if one.dataset == dataset and one.status == "finished"]
        check_protocols(dataset, finished)
        masks = {one.protocol.get("mask_seen", "none") for one in finished}
        if masks - {"none"} and any(metric.name == "AUC" for metric in metrics):
            raise UsageError(
                f"{dataset}: AUC needs a fixed number of candidates, which mask_seen changes; leave AUC out"
            )


def check_grid(grid: Grid) -> None:
    for dataset in grid.datasets:
        check_users([(grid.groups[at], one) for at, one in grid.measured.items() if at[0] == dataset])
