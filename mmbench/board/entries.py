"""What the board keeps of a configuration: values under both mask rules, users' values, how it was made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import hash_json
from mmbench.board.checks import Check, has_fault, offline_checks
from mmbench.board.inside import Inside, look_inside
from mmbench.board.manifest import SUFFIX
from mmbench.board.opened import Bundle, opened
from mmbench.board.outdated import why_outdated
from mmbench.board.private import clean_record, without_private
from mmbench.board.verification import LEVELS, Level, read_verdict
from mmbench.choices import MaskRule
from mmbench.errors import DataError, MmbenchError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.metrics import DEFAULT_METRICS, Metric
from mmbench.reporting.gather import OTHER_RULE
from mmbench.reporting.labels import group_runs, is_floor
from mmbench.runs.plan import FEATURE_CHANGES, RANKING_SETTINGS
from mmbench.runs.store import RunRecord, read_all
from mmbench.settings.config import DELIBERATE, Setting, TrainConfig
from mmbench.tuning.origin import settings_origin

MAIN = Metric("NDCG", 10)  # orders the rows and tests their differences
METRICS = (MAIN, *(metric for metric in DEFAULT_METRICS if metric != MAIN))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The validation values of a seed: epoch -> value, the epochs of all stages in their order."""

    seed: int
    points: tuple[tuple[int, float], ...]
    best: int  # the epoch that was ranked, 0 for none


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A configuration on the board.

    values    by mask rule, the protocol's and the other: float64 [S, M], seeds x METRICS; NaN = unknown
    per_user  by mask rule: MAIN of each user, mean over seeds, float32 [U]; absent where it is unknown
    level     what was verified; `checks` say it in words
    bundle    the archive, None for runs of the results folder
    inside    slices and lists of a few users, None where they cannot or must not be shown
    """

    record: RunRecord
    seeds: tuple[int, ...]
    failed: Mapping[str, str]
    values: Mapping[MaskRule, np.ndarray]
    per_user: Mapping[MaskRule, np.ndarray]
    users: str  # hash of the users
    n_users: int
    budget: str
    curves: tuple[Curve, ...]
    hours: float  # of a training, mean over seeds
    level: Level = "claimed"
    checks: tuple[tuple[str, str, str], ...] = ()
    bundle: Path | None = None
    inside: Inside | None = None

    @property
    def name(self) -> str:
        return self.record.display or self.record.model

    @property
    def rules(self) -> tuple[MaskRule, MaskRule]:
        """Return the protocol's mask rule and the other."""
        rule = self.record.mask_seen
        return rule, OTHER_RULE[rule]

    @property
    def is_floor(self) -> bool:
        return is_floor(self.record.model)

    @property
    def day(self) -> str:
        """Return the day on which the first seed was computed, "" where it is not known."""
        return str(self.record.environment.get("finished", ""))[:10]

    @property
    def outdated(self) -> str:
        """Return the fix that came after this row; "" for none. What is not trained is never outdated."""
        if self.record.external or self.record.stopped == "closed form" or not self.day:
            return ""
        return why_outdated(model=self.record.model, dataset=self.record.dataset, day=self.day)

    @property
    def key(self) -> str:
        """Return what a later entry of the same configuration replaces."""
        return f"{self.record.title.rpartition('/')[0]}/{self.record.fingerprint}"

    @property
    def content(self) -> str:
        """Return a hash of what the board says about the configuration."""
        values = [[None if np.isnan(value) else value for value in row] for row in self.values[self.rules[0]]]
        facts = [self.key, list(self.seeds), dict(self.failed), values, self.level, self.day, self.budget]
        return hash_json(facts)[:8]

    def setting(self, key: str) -> str:
        setting: Setting | None = self.record.settings.get(key)
        return "" if setting is None else str(setting.value)

    def mean(self, metric: int, rule: MaskRule) -> float:
        """Return the mean over seeds of METRICS[metric]; NaN where it is unknown."""
        return float(self.values[rule][:, metric].mean())


def make_entry(
    records: Sequence[RunRecord],
    ranking: Callable[[RunRecord, str], Ranking],
    *,
    data_dir: Path | None = None,
    **extra: Any,
) -> Entry:
    """Return the entry of a configuration's finished runs, whose test rankings `ranking` returns.

    data_dir  where prepared data lie, from which slices and lists of users are shown; None = show none
    """
    first = records[0]
    rules: tuple[MaskRule, MaskRule] = (first.mask_seen, OTHER_RULE[first.mask_seen])
    rankings = [ranking(record, "test") for record in records]
    users = rankings[0].user
    order = np.argsort(users, kind="stable")
    seconds = [record.seconds.get("train", 0.0) + record.seconds.get("valid", 0.0) for record in records]
    per_user = {
        rule: np.stack([MAIN.values(ranked.ranks(rule))[order] for ranked in rankings]).mean(0).astype(np.float32)
        for rule in rules if all(_can(MAIN, ranked, rule) for ranked in rankings)
    }  # fmt: skip
    inside = None if data_dir is None else look_inside(records, ranking, per_user.get(rules[0]), data_dir)
    return Entry(
        record=clean_record(first), seeds=tuple(record.seed for record in records),
        values={rule: np.array([_values(ranked, rule) for ranked in rankings]) for rule in rules},
        per_user=per_user, inside=inside,
        users=hash_json(users[order].tolist())[:16], n_users=len(users),
        budget=_budget(first), curves=tuple(map(_curve, records)), hours=float(np.mean(seconds)) / 3600, **extra,
    )  # fmt: skip


def _can(metric: Metric, ranking: Ranking, rule: MaskRule) -> bool:
    return (
        rule in ranking.counts
        and metric.is_exact(ranking.limits.get(rule))
        and (metric.k or 0) <= ranking.n_items
    )


def _values(ranking: Ranking, rule: MaskRule) -> list[float]:
    return [metric.value(ranking, rule) if _can(metric, ranking, rule) else np.nan for metric in METRICS]


def _budget(record: RunRecord) -> str:
    """Return how the settings were found, in words."""
    if record.external:
        return "unknown"
    return settings_origin(record).cost or ("set by hand" if chosen_settings(record) else "recipe")


def chosen_settings(record: RunRecord) -> dict[str, Setting]:
    """Return the settings that somebody chose for a run and that it reads: without a training, none of training."""
    keys = set(record.settings)
    if record.stopped == "closed form":
        keys -= {parameter.name for parameter in fields(TrainConfig)}.difference(
            RANKING_SETTINGS, FEATURE_CHANGES
        )
    return {key: record.settings[key] for key in sorted(keys) if record.settings[key].origin in DELIBERATE}


def _curve(record: RunRecord) -> Curve:
    metric = record.selection.metric if record.selection else ""
    points = [point[metric] for point in record.curve if metric in point]
    best = 0
    if record.selection is not None and points:
        last = [point for point in record.curve if metric in point][-1].get("stage")
        before = sum(metric in point and point.get("stage") != last for point in record.curve)
        best = before + record.selection.epoch
    return Curve(seed=record.seed, points=tuple(enumerate(points, start=1)), best=best)


# -- where entries come from ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeftOut:
    """Something that is not on the board, and why."""

    name: str
    reason: str


def entries_of_bundles(
    folder: Path, *, on_left_out: Callable[[LeftOut], object], data_dir: Path | None = None
) -> Iterator[Entry]:
    """Yield an entry per bundle of a folder; of those that fail a check, call `on_left_out`."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with opened(path) as bundle:
                checks = list(offline_checks(bundle))
                if has_fault(checks):
                    fault = next(check for check in checks if check.status == "fault")
                    on_left_out(LeftOut(path.name, f"{fault.name}: {fault.text}"))
                else:
                    yield _entry_of_bundle(bundle, checks, data_dir)
        except MmbenchError as error:
            on_left_out(LeftOut(path.name, _public(error)))


def _entry_of_bundle(bundle: Bundle, checks: Sequence[Check], data_dir: Path | None) -> Entry:
    verdict = read_verdict(bundle.path, bundle.sha256)
    texts = tuple((check.name, check.status, check.text) for check in checks)
    return make_entry(
        bundle.records, bundle.ranking, data_dir=data_dir, failed=bundle.manifest.failed, bundle=bundle.path,
        level="claimed" if verdict is None else verdict.level, checks=texts if verdict is None else verdict.checks,
    )  # fmt: skip


def _public(error: MmbenchError) -> str:
    """Return an error as the pages may show it."""
    text: str = without_private(str(error), is_free_text=True)
    return text


def entries_of_results(
    results_dir: Path, *, on_left_out: Callable[[LeftOut], object], data_dir: Path | None = None
) -> Iterator[Entry]:
    """Yield an entry per configuration of a results folder; of runs that cannot be read, call `on_left_out`."""

    def unreadable(path: Path, error: DataError) -> None:
        on_left_out(LeftOut(path.name, _public(error)))

    records = list(read_all(results_dir, on_error=unreadable))
    for group in group_runs(records)[0]:
        if not group.finished:
            continue
        try:
            yield make_entry(
                group.finished, lambda record, split: record.ranking(split), data_dir=data_dir,
                failed=without_private(
                    {str(record.seed): record.reason for record in group.failed}, is_free_text=True
                ),
            )  # fmt: skip
        except DataError as error:
            on_left_out(LeftOut(f"{group.model} on {group.dataset}", _public(error)))


def without_repeats(entries: Sequence[Entry], *, on_left_out: Callable[[LeftOut], object]) -> list[Entry]:
    """Return an entry per configuration: the best verified, then a bundle, then that with the most seeds."""

    def strength(entry: Entry) -> tuple[int, bool, int]:
        return LEVELS.index(entry.level), entry.bundle is not None, len(entry.seeds)

    chosen: dict[str, Entry] = {}
    for entry in entries:
        other = chosen.get(entry.key)
        weaker = entry if other is not None and strength(other) >= strength(entry) else other
        if weaker is not entry:
            chosen[entry.key] = entry
        if weaker is not None and weaker.bundle is not None:
            on_left_out(LeftOut(weaker.bundle.name, "another bundle of the same configuration is stronger"))
    return list(chosen.values())
