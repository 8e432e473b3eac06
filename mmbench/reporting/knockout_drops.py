"""What knock-outs cost: the drop of a metric with its interval, and a sentence about each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmbench.choices import MaskRule, SplitName
from mmbench.errors import UsageError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import t_interval
from mmbench.reporting.labels import Group
from mmbench.runs.knockout import UNREAD, KnockedOut

LEVEL = 0.95  # of all intervals of a table together
# By name or kind: what a run that loses something uses.
_USES = {
    "text": "texts", "image": "pictures", "time=year": "the year", "time": "times", "order": "the order",
}  # fmt: skip


@dataclass(frozen=True)
class Drop:
    """What a knock-out costs a row of runs.

    name      of the knock-out, "text=constant"; its kind alone where the runs do not read it
    intact    mean over users and runs of the metric as trained
    drop      the same mean minus that under the knock-out; None where nothing was computed
    interval  of the drop; None where no rank changed or a single user is ranked
    sentence  what it says about the runs
    """

    name: str
    intact: float
    drop: float | None
    interval: tuple[float, float] | None
    sentence: str


@dataclass(frozen=True)
class RowOfDrops:
    """The knock-outs of a configuration's runs, which differ in the seed."""

    group: Group
    drops: tuple[Drop, ...]


@dataclass(frozen=True)
class _Differences:
    """Per-user differences intact - knocked out, means over runs, float64 [n]; None where nothing was computed."""

    name: str
    intact: float
    values: np.ndarray | None
    is_changed: bool = False
    reason: str = ""


def rows_of_drops(
    groups: Sequence[Group],
    results: Mapping[str, Sequence[KnockedOut]],
    *,
    metric: Metric,
    split: SplitName = "test",
) -> list[RowOfDrops]:
    """Return a row per configuration.

    results  by title of the run, the same knock-outs in the same order for all runs of a group

    The intervals hold jointly: each has the level 1 - .05 / m, m the number of intervals (Bonferroni).
    """
    metric.check_of_ranks("mmbench knockout")
    measured = [(group, _measure(group, results, metric, split)) for group in groups]
    n_intervals = sum(part.is_changed for _, parts in measured for part in parts)
    level = 1 - (1 - LEVEL) / max(n_intervals, 1)
    return [
        # What is not read has a single line for its kind.
        RowOfDrops(group, tuple(dict.fromkeys(_drop(part, level) for part in parts)))
        for group, parts in measured
    ]


def _measure(
    group: Group, results: Mapping[str, Sequence[KnockedOut]], metric: Metric, split: SplitName
) -> list[_Differences]:
    intact = {record.title: record.ranking(split) for record in group.finished}
    rule = group.finished[0].mask_seen
    mean = float(np.mean([metric.value(ranking, rule) for ranking in intact.values()]))
    by_knockout = zip(*(results[title] for title in intact), strict=True)
    return [
        _differences(mean, list(zip(intact.values(), parts, strict=True)), metric, rule, split)
        for parts in by_knockout
    ]


def _differences(
    mean: float, pairs: Sequence[tuple[Ranking, KnockedOut]], metric: Metric, rule: MaskRule, split: SplitName
) -> _Differences:
    """Return the differences of a knock-out, mean over runs."""
    name = pairs[0][1].name
    reasons = [knocked.reason for _, knocked in pairs if knocked.reason]
    if reasons:
        return _Differences(name, mean, None, reason=reasons[0])
    values, is_changed = [], False
    for intact, knocked in pairs:
        n_different = intact.n_different(knocked.rankings[split])
        if n_different is None:
            raise UsageError(f"{name} of {intact.made_by.run} ranks other targets; run it again")
        is_changed = is_changed or n_different > 0
        values.append(metric.values(intact.ranks(rule)) - metric.values(knocked.rankings[split].ranks(rule)))
    if any(not np.array_equal(intact.user, pairs[0][0].user) for intact, _ in pairs):
        raise UsageError(
            f"runs of {pairs[0][0].made_by.run} rank other users than their first; run them again"
        )
    return _Differences(name, mean, np.mean(values, axis=0), is_changed)


def _drop(part: _Differences, level: float) -> Drop:
    if part.values is None:
        name = part.name.partition("=")[0] if part.reason.startswith(UNREAD) else part.name
        return Drop(name, part.intact, None, None, part.reason)
    if not part.is_changed:
        return Drop(part.name, part.intact, 0.0, None, f"no rank changes: {_not_used(part.name)}")
    interval = t_interval(part.values, level=level)
    return Drop(part.name, part.intact, float(part.values.mean()), interval, _sentence(part.name, interval))


def as_retrained(row: RowOfDrops) -> RowOfDrops:
    """Return drops of runs that were trained with the knock-out, with sentences about that."""
    return replace(row, drops=tuple(replace(drop, sentence=_worth(drop)) for drop in row.drops))


def _worth(drop: Drop) -> str:
    """Return what a drop under retraining says: not what a network leans on, but what the content is worth to it."""
    if drop.drop is None or drop.interval is None:
        return drop.sentence
    low, high = drop.interval
    content = _USES[drop.name.partition("=")[0]]
    if low > 0:
        return f"{content} are worth this much"
    return "better without" if high < 0 else f"within noise: no worth of {content} is shown"


def _sentence(name: str, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "a single user: no interval"
    low, high = interval
    if low > 0:
        return _used(name)
    return "better without" if high < 0 else f"within noise: {_not_used(name)}"


def _used(name: str) -> str:
    kind, _, how = name.partition("=")
    if kind == "history":
        return f"uses more than the newest {how}" if how != "1" else "uses more than the newest event"
    return f"uses {_USES.get(name) or _USES[kind]}"


def _not_used(name: str) -> str:
    kind, _, how = name.partition("=")
    if kind == "history":
        return f"the newest {how} suffice" if how != "1" else "the newest event suffices"
    return f"shows no use of {_USES.get(name) or _USES[kind]}"
