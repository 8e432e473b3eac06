"""Which differences the stored runs of a data set can show: over seeds and over users, beside those that they have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmbench.choices import Correction
from mmbench.errors import UsageError, suggest
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.power import ALPHA, pairs_needed, smallest_effect
from mmbench.reporting.gather import Measured, check_runs, check_users, measure
from mmbench.reporting.labels import Group, group_runs, names_of
from mmbench.reporting.request import TableRequest
from mmbench.runs.store import RunRecord

ASSUMED_DEVIATIONS = (0.01, 0.02, 0.05, 0.10)  # of the differences over seeds, as shares of the mean
ASSUMED_SEEDS = (3, 5, 10, 20)


@dataclass(frozen=True)
class Resolution:
    """What n pairs show: seeds or users.

    deviation  standard deviation of the paired differences; None below 2 pairs
    smallest   difference that is detected with power .8; None without a deviation
    needed     pairs for the difference in question; None where there is none, or too many to say
    """

    n: int
    deviation: float | None
    smallest: float | None
    needed: int | None


@dataclass(frozen=True)
class Contrast:
    """A row against another; `difference` is a minus b, or the difference that the user named.

    names  of both rows, as tables have them
    """

    a: Group
    b: Group
    names: tuple[str, str]
    difference: float
    seeds: Resolution
    users: Resolution


@dataclass(frozen=True)
class Power:
    """Contrasts of a data set; `alpha` is the level of each of `n_tests` tests."""

    contrasts: tuple[Contrast, ...]
    alpha: float
    n_tests: int


def power_of_runs(
    records: Sequence[RunRecord],
    dataset: str,
    *,
    metric: Metric,
    a: str | None = None,
    b: str | None = None,
    difference: float | None = None,
    correction: Correction = "holm",
) -> Power | None:
    """Return which differences the runs of a data set can show; None where fewer than two rows are stored.

    a, b        MODEL or MODEL/CONFIG: by default the best row against every other
    difference  must be shown, instead of the differences that the rows have
    correction  unless "none", each test has the level .05 / (number of tests), the hardest step of Holm and of BH
    """
    metric.check_of_ranks("mmbench power")
    request = TableRequest(metrics=(metric,))
    chosen = [record for record in records if record.dataset == dataset]
    check_runs(chosen, [dataset], request)
    groups = group_runs(chosen)[0]
    measured = [
        _Row(group, row, name)
        for group, name in zip(groups, names_of(groups), strict=True)
        if (row := measure(group, request, with_users=True)[0])
    ]
    if len(measured) < 2:
        return None
    check_users([(row.group, row.measured) for row in measured])
    pairs = _pairs(measured, a, b, dataset)
    alpha = ALPHA if correction == "none" else ALPHA / len(pairs)
    contrasts = [_contrast(first, second, difference, alpha) for first, second in pairs]
    return Power(tuple(contrasts), alpha, len(pairs))


def assumed() -> list[tuple[int, list[float]]]:
    """Return seeds and the smallest relative differences that they show under ASSUMED_DEVIATIONS, for a single test."""
    effects = [(n, smallest_effect(n)) for n in ASSUMED_SEEDS]
    return [(n, [effect * share for share in ASSUMED_DEVIATIONS]) for n, effect in effects if effect]


class _Row(NamedTuple):
    """A row of results; `name` as tables have it."""

    group: Group
    measured: Measured
    name: str

    @property
    def title(self) -> str:
        return f"{self.group.model}/{self.group.config_id}"


def _pairs(rows: Sequence[_Row], a: str | None, b: str | None, dataset: str) -> list[tuple[_Row, _Row]]:
    best = max(rows, key=lambda row: row.measured.values.mean())
    first = best if a is None else _named(rows, a, dataset)
    others = [row for row in rows if row is not first] if b is None else [_named(rows, b, dataset)]
    if others == [first]:
        raise UsageError(f"--b {b} is the row --a; name another")
    return [(first, other) for other in others]


def _named(rows: Sequence[_Row], name: str, dataset: str) -> _Row:
    """Return the row of a model, or of MODEL/CONFIG where it has several; UsageError for none or several."""
    model, _, config = name.partition("/")
    matching = [row for row in rows if row.group.model == model and row.group.config_id.startswith(config)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(f"{row.title} ({row.name})" for row in matching)
        raise UsageError(
            f"{name} has {len(matching)} configurations on {dataset}; name a single row: {names}"
        )
    known = {row.group.model for row in rows} | {row.title for row in rows}
    raise UsageError(f"{suggest(name, known, what='row')} (among the results on {dataset})")


def _contrast(first: _Row, second: _Row, difference: float | None, alpha: float) -> Contrast:
    ours, theirs = first.measured, second.measured
    over_seeds, over_users = _over_seeds(ours, theirs), ours.per_user[0] - theirs.per_user[0]
    asked = float(ours.values.mean() - theirs.values.mean()) if difference is None else difference
    return Contrast(
        a=first.group, b=second.group, names=(first.name, second.name), difference=asked,
        seeds=_resolution(over_seeds, asked, alpha), users=_resolution(over_users, asked, alpha),
    )  # fmt: skip


def _over_seeds(a: Measured, b: Measured, metric_index: int = 0) -> np.ndarray:
    """Return the differences of runs with equal seeds; a deterministic row stands for all seeds."""
    if a.deterministic and b.deterministic:
        return np.zeros(0)
    if a.deterministic or b.deterministic:
        return a.values[:, metric_index] - b.values[:, metric_index]
    common = sorted(set(a.seeds) & set(b.seeds))
    x, y = (row.values[[row.seeds.index(seed) for seed in common], metric_index] for row in (a, b))
    return x - y


def seeds_needed(a: Measured, b: Measured, metric_index: int, *, alpha: float) -> Resolution | None:
    """Return what the seeds of two rows show of their difference in a metric; None where they have no deviation."""
    if a.deterministic and b.deterministic:
        return None
    differences = _over_seeds(a, b, metric_index)
    asked = float(a.values[:, metric_index].mean() - b.values[:, metric_index].mean())
    resolution = _resolution(differences, asked, alpha)
    return None if resolution.deviation is None else resolution


def _resolution(differences: np.ndarray, asked: float, alpha: float) -> Resolution:
    n = len(differences)
    deviation = float(differences.std(ddof=1)) if n > 1 else 0.0
    effect = smallest_effect(n, alpha=alpha)
    if not deviation or effect is None:
        return Resolution(n, deviation or None, None, None)
    needed = pairs_needed(asked / deviation, alpha=alpha) if asked else None
    return Resolution(n, deviation, effect * deviation, needed)
