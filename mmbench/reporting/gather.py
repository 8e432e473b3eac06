"""Stored rankings -> values per run and per user, after checking that the rows of a data set are comparable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from mmbench import paths
from mmbench.choices import MaskRule
from mmbench.errors import DataError, OtherVersionError, ProtocolMismatchError, UsageError
from mmbench.evaluation.data_facts import DataFacts
from mmbench.evaluation.evidence import ListsError, Ranking
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.labels import Group, RowKey
from mmbench.reporting.protocols import check_protocols
from mmbench.reporting.request import TableRequest
from mmbench.runs.facts import data_facts
from mmbench.runs.store import RunRecord

V = TypeVar("V")
# A table names the winners under this rule if they differ.
OTHER_RULE: dict[MaskRule, MaskRule] = {"none": "input", "input": "none", "train": "none"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Values of a group's runs: S runs, M metrics, U users in ascending order of id."""

    seeds: tuple[int, ...]
    values: np.ndarray  # float64 [S, M]
    under_other: np.ndarray  # float64 [M], means over runs under OTHER_RULE; NaN if undefined
    per_user: (
        np.ndarray
    )  # float64 [M, U], means over runs; NaN where a user has no value in some run, or nobody has
    users: np.ndarray  # int64 [U]
    n_candidates: int
    tie_share: float  # share of users with a tied target, mean over runs
    deterministic: bool


@dataclass(frozen=True)
class Fault:
    """A run that is left out of the table, and why."""

    record: RunRecord
    reason: str


@dataclass(frozen=True)
class _Run:
    """The numbers of a run: [M], [M], [M, U], and its users in ascending order of id."""

    record: RunRecord
    values: np.ndarray
    under_other: np.ndarray
    per_user: np.ndarray
    users: np.ndarray
    n_candidates: int
    tie_share: float


def measure(group: Group, request: TableRequest) -> tuple[Measured | None, list[Fault]]:
    """Return the metrics of a group's finished runs, None when there are none, and the runs that cannot be read.

    Of a deterministic model, only a single run is measured.
    """
    runs, faults = list[_Run](), list[Fault]()
    deterministic = all(record.deterministic for record in group.finished)
    for record in group.finished:
        if deterministic and runs:
            break
        try:
            ranking = record.ranking(request.split)
        except OtherVersionError:
            raise
        except DataError as error:
            faults.append(Fault(record, str(error)))
        else:
            reason = _why_not(record, ranking, request)
            if reason:
                faults.append(Fault(record, reason))
            else:
                runs.append(_measure_run(record, ranking, request))
    for run in runs[1:]:
        _check_same_users(runs[0], run)
    return (_measured(runs, deterministic) if runs else None), faults


def _why_not(record: RunRecord, ranking: Ranking, request: TableRequest) -> str:
    """Return why another program's lists do not give the metrics of a request; "" where they do."""
    rule = request.mask_seen or record.mask_seen
    if rule not in ranking.counts:
        return (
            f"{record.path} has ranks under mask rule {' and '.join(ranking.counts)} only, not under {rule}"
        )
    limit = ranking.limits.get(rule)
    missing = [str(metric) for metric in request.metrics if not metric.is_exact(limit)]
    return (
        f"{record.path}: its lists give metrics up to @{limit}, so no {', '.join(missing)}" if missing else ""
    )


def _measured(runs: Sequence[_Run], deterministic: bool) -> Measured:
    return Measured(
        seeds=tuple(run.record.seed for run in runs),
        values=np.stack([run.values for run in runs]),
        under_other=np.mean([run.under_other for run in runs], axis=0),
        per_user=np.mean([run.per_user for run in runs], axis=0),
        users=runs[0].users,
        n_candidates=runs[0].n_candidates,
        tie_share=float(np.mean([run.tie_share for run in runs])),
        deterministic=deterministic,
    )


def _measure_run(record: RunRecord, ranking: Ranking, request: TableRequest) -> _Run:
    rule = request.mask_seen or record.mask_seen
    ranks, order = ranking.ranks(rule), np.argsort(ranking.user, kind="stable")
    per_user = np.full((len(request.metrics), len(order)), np.nan)
    values = np.empty(len(request.metrics))
    for index, metric in enumerate(request.metrics):
        facts = facts_for(metric, record, request)
        if metric.per == "user":
            of_users = _with_advice(metric, record, metric.per_user, ranking, rule, request.ties, facts)
            per_user[index], values[index] = of_users[order], metric.mean(of_users)
        else:
            values[index] = _with_advice(metric, record, metric.value, ranking, rule)
    under_other = [
        _under_other(metric, record, ranking, OTHER_RULE[rule], request) for metric in request.metrics
    ]
    return _Run(
        record, values, np.array(under_other), per_user, ranking.user[order], ranking.n_items,
        float((ranks.equal > 0).mean()),
    )  # fmt: skip


def facts_for(metric: Metric, record: RunRecord, request: TableRequest) -> DataFacts | None:
    """Return what a metric reads of a run's data set; None for a metric that reads the ranking alone."""
    if not metric.reads_data:
        return None
    return data_facts(record, request.split, request.data_dir or paths.data_dir())


def _with_advice(metric: Metric, record: RunRecord, compute: Callable[..., V], *arguments: object) -> V:
    """Return what a metric computes; where lists are missing, the error says how they are made."""
    try:
        return compute(*arguments)
    except ListsError as error:
        raise UsageError(
            f"{metric} of {record.path}: {error}; run: mmbench evaluate {record.path} --lists {metric.k}"
        ) from error


def _under_other(
    metric: Metric, record: RunRecord, ranking: Ranking, rule: MaskRule, request: TableRequest
) -> float:
    if metric.name == "AUC" and rule != "none":
        return np.nan
    if rule not in ranking.counts or not metric.is_exact(ranking.limits.get(rule)):
        return np.nan
    facts = facts_for(metric, record, request)
    return _with_advice(metric, record, metric.value, ranking, rule, request.ties, facts)


def _check_same_users(first: _Run, second: _Run) -> None:
    _check_comparable(
        (first.record, second.record), (first.users, second.users), (first.n_candidates, second.n_candidates)
    )


def check_users(measured: Sequence[tuple[Group, Measured]]) -> None:
    """Raise ProtocolMismatchError unless all rows of a data set rank the same users among as many items."""
    for group, row in measured[1:]:
        first_group, first = measured[0]
        _check_comparable(
            (first_group.finished[0], group.finished[0]),
            (first.users, row.users),
            (first.n_candidates, row.n_candidates),
        )


def _check_comparable(
    records: tuple[RunRecord, RunRecord], users: tuple[np.ndarray, np.ndarray], n_items: tuple[int, int]
) -> None:
    names = " and ".join(f"{record.model} ({record.config_id})" for record in records)
    rows = f"{records[0].dataset}: {names}"
    if n_items[0] != n_items[1]:
        raise ProtocolMismatchError(
            f"{rows} rank {n_items[0]:,} and {n_items[1]:,} items, so they cannot share a table; run either again"
        )
    if not np.array_equal(*users):
        only = len(np.setdiff1d(*users)), len(np.setdiff1d(users[1], users[0]))
        raise ProtocolMismatchError(
            f"{rows} were measured on different users ({only[0]:,} only in the first, {only[1]:,} only in "
            "the second), so they cannot share a table; run either again"
        )


@dataclass
class Grid:
    """Groups and their measured runs by data set and row."""

    request: TableRequest
    datasets: list[str]
    keys: list[RowKey]
    groups: dict[tuple[str, RowKey], Group] = field(default_factory=dict)
    measured: dict[tuple[str, RowKey], Measured] = field(default_factory=dict)
    faults: dict[tuple[str, RowKey], list[Fault]] = field(default_factory=dict)
    footnotes: list[str] = field(default_factory=list)
    # Says why there are no runs; "" needs no footnote.
    reasons: dict[tuple[str, RowKey], str] = field(default_factory=dict)

    def add(self, key: RowKey, group: Group) -> None:
        self.groups[group.dataset, key] = group
        measured, faults = measure(group, self.request)
        if measured is not None:
            self.measured[group.dataset, key] = measured
        if faults:
            self.faults[group.dataset, key] = faults

    def check(self) -> None:
        """Raise the error that makes the whole table impossible: incomparable rows, or no readable run."""
        for dataset in self.datasets:
            check_users(
                [(self.groups[cell], row) for cell, row in self.measured.items() if cell[0] == dataset]
            )
        if self.faults and not self.measured:
            raise DataError(next(iter(self.faults.values()))[0].reason)

    def footnote(self, text: str) -> int:
        """Return the index of a footnote; equal texts share an index."""
        if text not in self.footnotes:
            self.footnotes.append(text)
        return self.footnotes.index(text)

    def runs(self, key: RowKey) -> list[RunRecord]:
        """Return the runs of a row, data set by data set."""
        groups = (self.groups.get(cell) for cell in self.in_order([key]))
        return [run for group in groups if group is not None for run in group.records]

    def rules(self, dataset: str) -> list[MaskRule]:
        """Return the mask rules of a data set's numbers."""
        runs = [run for (name, _), group in self.groups.items() if name == dataset for run in group.finished]
        return list(dict.fromkeys(self.request.mask_seen or run.mask_seen for run in runs))

    def in_order(self, keys: Sequence[RowKey]) -> Iterator[tuple[str, RowKey]]:
        """Yield the cells (data set, row) of the table, data set by data set."""
        yield from ((dataset, key) for dataset in self.datasets for key in keys)

    @cached_property
    def leaky(self) -> set[RowKey]:
        return {key for key in self.keys if any(run.leaky for run in self.runs(key))}


def check_runs(records: Sequence[RunRecord], datasets: Sequence[str], request: TableRequest) -> None:
    """Raise unless the runs of each data set share a protocol under which the metrics make sense.

    If the request names a mask rule, runs may have been selected under different rules.
    """
    request.check_test()
    for dataset in datasets:
        finished = [record for record in records if record.dataset == dataset and record.status == "finished"]
        check_protocols(dataset, finished, ignored=("mask_seen",) if request.mask_seen else ())
        rules = {request.mask_seen or record.mask_seen for record in finished}
        if rules - {"none"} and any(metric.name == "AUC" for metric in request.metrics):
            raise UsageError(
                f"{dataset}: AUC needs a fixed number of candidates, which mask_seen changes; leave AUC out"
            )
