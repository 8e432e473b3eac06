"""Stored rankings -> values per run and per user, after checking that the rows of a data set are comparable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from mmbench import paths
from mmbench.choices import MaskRule, SplitName
from mmbench.errors import DataError, OtherVersionError, ProtocolMismatchError, UsageError
from mmbench.evaluation.data_facts import DataFacts
from mmbench.evaluation.evidence import ListsError, Ranking
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.labels import Group, RowKey
from mmbench.reporting.protocols import check_protocols
from mmbench.reporting.request import TableRequest
from mmbench.runs.facts import data_facts
from mmbench.runs.known_rankings import KnownRankings, hash_of_users, known_rankings, name_of
from mmbench.runs.store import RunRecord

V = TypeVar("V")
# A table names the winners under this rule if they differ.
OTHER_RULE: dict[MaskRule, MaskRule] = {"none": "input", "input": "none", "train": "none"}


@dataclass(frozen=True)
class OfUsers:
    """Values of users, who are in ascending order of id.

    users   int64 [U]
    values  float64 [M, U]; NaN where a user has no value, or nobody has
    """

    users: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Values of a group's runs: S runs, M metrics, U users in ascending order of id."""

    seeds: tuple[int, ...]
    values: np.ndarray  # float64 [S, M]
    under_other: np.ndarray  # float64 [M], means over runs under OTHER_RULE; NaN if undefined
    n_users: int
    users_hash: str
    n_candidates: int
    tie_share: float  # share of users with a tied target, mean over runs
    deterministic: bool
    read_users: Callable[[], OfUsers] = field(repr=False, compare=False)  # reads the rankings

    @cached_property
    def _of_users(self) -> OfUsers:
        return self.read_users()

    @property
    def users(self) -> np.ndarray:
        """Return the ids, int64 [U]."""
        return self._of_users.users

    @property
    def per_user(self) -> np.ndarray:
        """Return means over runs, float64 [M, U]; NaN where a user has no value in some run, or nobody has."""
        return self._of_users.values


@dataclass(frozen=True)
class Fault:
    """A run that is left out of the table, and why."""

    record: RunRecord
    reason: str


@dataclass(frozen=True)
class _Run:
    """The numbers of a run: values [M] under its mask rule and under the other, and whom it ranks among what."""

    record: RunRecord
    values: np.ndarray
    under_other: np.ndarray
    tie_share: float
    n_candidates: int
    n_users: int
    users_hash: str
    of_users: OfUsers | None = None  # None: not read


def measure(
    group: Group, request: TableRequest, *, with_users: bool = False
) -> tuple[Measured | None, list[Fault]]:
    """Return the metrics of a group's finished runs, None when there are none, and the runs that cannot be read.

    Of a deterministic model, only a single run is measured.

    with_users  the caller needs values of users: every ranking is read at once. Without, only rankings are read whose
                numbers no earlier command stored, and values of users when they are asked for.
    """
    runs, faults = list[_Run](), list[Fault]()
    deterministic = all(record.deterministic for record in group.finished)
    with known_rankings() as known:
        for record in group.finished:
            if deterministic and runs:
                break
            run = (None if with_users else _known_run(record, request, known)) or _read_run(
                record, request, known, with_users=with_users
            )
            if isinstance(run, Fault):
                faults.append(run)
            else:
                runs.append(run)
    for run in runs[1:]:
        _check_same_users(runs[0], run, request.split)
    return (_measured(runs, request, deterministic) if runs else None), faults


def _measured(runs: Sequence[_Run], request: TableRequest, deterministic: bool) -> Measured:
    first = runs[0]
    return Measured(
        seeds=tuple(run.record.seed for run in runs),
        values=np.stack([run.values for run in runs]),
        under_other=np.mean([run.under_other for run in runs], axis=0),
        n_users=first.n_users,
        users_hash=first.users_hash,
        n_candidates=first.n_candidates,
        tie_share=float(np.mean([run.tie_share for run in runs])),
        deterministic=deterministic,
        read_users=partial(_mean_of_users, runs, request),
    )


def _mean_of_users(runs: Sequence[_Run], request: TableRequest) -> OfUsers:
    """Return the means over runs of each user's values."""
    read = [run.of_users or _of_users(run.record, run.record.ranking(request.split), request) for run in runs]
    return OfUsers(read[0].users, np.mean([run.values for run in read], axis=0))


def _known_run(record: RunRecord, request: TableRequest, known: KnownRankings) -> _Run | None:
    """Return the numbers of a run that an earlier command stored; None where its ranking must be read."""
    if any(metric.reads_data for metric in request.metrics):
        return None
    ranking = known.get(record, request.split)
    if ranking is None:
        return None
    names = _names(record, request)
    if not all(name in ranking.numbers for name in names):
        return None
    *numbers, tie_share = np.array(
        [ranking.numbers[name] for name in names], dtype=np.float64
    )  # None becomes NaN
    values, under_other = np.array(numbers).reshape(2, -1)
    return _Run(
        record, values, under_other, float(tie_share), ranking.n_items, ranking.n_users, ranking.users
    )


def _names(record: RunRecord, request: TableRequest) -> list[str]:
    """Return under which names the numbers of a run are kept: metrics, metrics under the other rule, ties."""
    rule = request.mask_seen or record.mask_seen
    return [
        *(name_of(metric, rule, request.ties) for metric in request.metrics),
        *(f"{metric} beside {rule}, ties {request.ties}" for metric in request.metrics),
        f"tied under {rule}",
    ]


def _read_run(
    record: RunRecord, request: TableRequest, known: KnownRankings, *, with_users: bool
) -> _Run | Fault:
    """Return the numbers of a run from its ranking, or why they cannot be had."""
    try:
        ranking = known.read(record, request.split)
    except OtherVersionError:
        raise
    except DataError as error:
        return Fault(record, str(error))
    reason = _why_not(record, ranking, request)
    return Fault(record, reason) if reason else _measure_run(record, ranking, request, known, with_users)


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


def _measure_run(
    record: RunRecord, ranking: Ranking, request: TableRequest, known: KnownRankings, with_users: bool
) -> _Run:
    """Return the numbers of a run, and keep those that rest on its ranking alone."""
    rule = request.mask_seen or record.mask_seen
    values = [_value(metric, record, ranking, rule, request) for metric in request.metrics]
    under_other = [
        _under_other(metric, record, ranking, OTHER_RULE[rule], request) for metric in request.metrics
    ]
    tie_share = float((ranking.ranks(rule).equal > 0).mean())
    if not any(metric.reads_data for metric in request.metrics):
        numbers = [None if np.isnan(number) else number for number in (*values, *under_other, tie_share)]
        known.add(record, request.split, dict(zip(_names(record, request), numbers, strict=True)))
    return _Run(
        record, np.array(values), np.array(under_other), tie_share, ranking.n_items, len(ranking.user),
        hash_of_users(ranking), _of_users(record, ranking, request) if with_users else None,
    )  # fmt: skip


def _value(
    metric: Metric, record: RunRecord, ranking: Ranking, rule: MaskRule, request: TableRequest
) -> float:
    facts = facts_for(metric, record, request)
    return _with_advice(metric, record, metric.value, ranking, rule, request.ties, facts)


def _of_users(record: RunRecord, ranking: Ranking, request: TableRequest) -> OfUsers:
    """Return the values of a run's users; NaN for a metric of the catalogue."""
    rule, order = request.mask_seen or record.mask_seen, np.argsort(ranking.user, kind="stable")
    values = np.full((len(request.metrics), len(order)), np.nan)
    for index, metric in enumerate(request.metrics):
        if metric.per == "user":
            facts = facts_for(metric, record, request)
            of_users = _with_advice(metric, record, metric.per_user, ranking, rule, request.ties, facts)
            values[index] = of_users[order]
    return OfUsers(ranking.user[order], values)


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
    return _value(metric, record, ranking, rule, request)


def _check_same_users(first: _Run, second: _Run, split: SplitName) -> None:
    """Raise ProtocolMismatchError unless two runs rank the same users among as many items."""
    records = first.record, second.record
    _check_same_items(records, (first.n_candidates, second.n_candidates))
    if first.users_hash != second.users_hash:
        a, b = (np.sort(record.ranking(split).user) for record in records)
        raise _other_users(records, (a, b))


def check_users(measured: Sequence[tuple[Group, Measured]]) -> None:
    """Raise ProtocolMismatchError unless all rows of a data set rank the same users among as many items."""
    for group, row in measured[1:]:
        first_group, first = measured[0]
        records = first_group.finished[0], group.finished[0]
        _check_same_items(records, (first.n_candidates, row.n_candidates))
        if first.users_hash != row.users_hash:
            raise _other_users(records, (first.users, row.users))


def _rows_of(records: tuple[RunRecord, RunRecord]) -> str:
    names = " and ".join(f"{record.model} ({record.config_id})" for record in records)
    return f"{records[0].dataset}: {names}"


def _check_same_items(records: tuple[RunRecord, RunRecord], n_items: tuple[int, int]) -> None:
    if n_items[0] != n_items[1]:
        raise ProtocolMismatchError(
            f"{_rows_of(records)} rank {n_items[0]:,} and {n_items[1]:,} items, so they cannot share a table; "
            "run either again"
        )


def _other_users(
    records: tuple[RunRecord, RunRecord], users: tuple[np.ndarray, np.ndarray]
) -> ProtocolMismatchError:
    """Return the error for two runs that rank other users, whose ids are given for both."""
    only = len(np.setdiff1d(users[0], users[1])), len(np.setdiff1d(users[1], users[0]))
    return ProtocolMismatchError(
        f"{_rows_of(records)} were measured on different users ({only[0]:,} only in the first, {only[1]:,} only in "
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
        measured, faults = measure(group, self.request, with_users=self.request.test == "users")
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
