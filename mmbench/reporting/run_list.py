"""Stored runs as a list: the columns that a user chooses, and the same as JSON."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from mmbench.errors import DataError, UsageError, suggest
from mmbench.evaluation.metrics import MAIN_METRIC, Metric, main_metric, parse_metric
from mmbench.fetch.files import size_text
from mmbench.reporting.energy import energy_json, energy_text
from mmbench.reporting.labels import ignored_settings
from mmbench.reporting.protocols import keep_settings, typed
from mmbench.reporting.rounding import DASH, number
from mmbench.runs.inventory import StoredRun, folder_bytes
from mmbench.runs.known_rankings import KnownRankings, known_rankings
from mmbench.runs.store import RunRecord
from mmbench.runs.time_left import clock
from mmbench.settings.config import DELIBERATE
from mmbench.settings.describe import value_text

DEFAULT_COLUMNS = ("run", "data set", "model", "state", "time", f"valid {MAIN_METRIC}", "age", "set")


def age_text(days: float) -> str:
    """Return an age in its largest unit: "12 min", "5 h", "3 d"."""
    minutes = max(days, 0.0) * 24 * 60
    if minutes < 60:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{days:.0f} d"


def spent(record: RunRecord) -> float:
    """Return the seconds of training and validation."""
    return record.seconds.get("train", 0.0) + record.seconds.get("valid", 0.0)


def chosen_settings(record: RunRecord | None) -> dict[str, Any]:
    """Return the settings that a user, a search or a declared experiment chose."""
    if record is None:
        return {}
    ignored = ignored_settings([record])
    return {
        key: setting.value
        for key, setting in sorted(record.settings.items())
        if setting.origin in DELIBERATE and key not in ignored
    }


def _chosen_text(run: StoredRun) -> str:
    return ", ".join(f"{key}={value_text(value)}" for key, value in chosen_settings(run.record).items())


def _of_record(text: Callable[[RunRecord], str]) -> Callable[[StoredRun], str]:
    return lambda run: text(run.record) if run.record else ""


FACTS: dict[str, Callable[[StoredRun], str]] = {
    "run": lambda run: run.name,
    "data set": lambda run: run.dataset,
    "model": lambda run: run.model,
    "seed": lambda run: str(run.seed),
    "state": lambda run: run.state,
    "reason": lambda run: run.reason,
    "set": _chosen_text,
    "epochs": lambda run: str(run.n_epochs or ""),
    "best": _of_record(lambda record: str(record.best_epoch or "")),
    "time": _of_record(lambda record: clock(spent(record))),
    "energy": _of_record(lambda record: energy_text(record.energy) if record.energy else ""),
    "parameters": _of_record(lambda record: f"{record.n_parameters:,}"),
    "device": _of_record(lambda record: str(record.environment.get("device", ""))),
    "code": _of_record(lambda record: str(record.environment.get("code", {}).get("commit", ""))),
    "age": lambda run: age_text(run.days_old()),
    "size": lambda run: size_text(folder_bytes(run.path)),
    "path": lambda run: str(run.path),
}


def largest_catalogue(runs: Sequence[StoredRun]) -> int | None:
    """Return the number of items of the largest catalogue that the runs rank; None where no record has any."""
    return max((run.record.n_items for run in runs if run.record and run.record.n_items), default=None)


def default_columns(runs: Sequence[StoredRun]) -> list[str]:
    """Return DEFAULT_COLUMNS with a metric that the runs have."""
    shown = f"valid {main_metric(largest_catalogue(runs))}"
    return [shown if name == f"valid {MAIN_METRIC}" else name for name in DEFAULT_COLUMNS]


def table_of(runs: Sequence[StoredRun], columns: Sequence[str]) -> list[list[str]]:
    """Return a row per run. A column is a name of FACTS, a metric ("HR@20", "valid HR@20"), or a setting.

    Raises UsageError for any other column.
    """
    settings = _known_settings(runs)
    with known_rankings() as known:
        texts = [_column(name, settings, known) for name in columns]
        return [[text(run) for text in texts] for run in runs]


def _known_settings(runs: Sequence[StoredRun]) -> set[str]:
    return {key for run in runs if run.record for key in run.record.settings}


def _column(name: str, settings: set[str], known: KnownRankings) -> Callable[[StoredRun], str]:
    if name in FACTS:
        return FACTS[name]
    if name in settings:
        return _of_record(lambda record: _setting_text(record, name))
    split, text = _metric_column(name)
    try:
        wanted = parse_metric(text)
    except UsageError:
        columns = [*FACTS, *sorted(settings), "NDCG@10", "HR@10", "MRR@10"]
        raise UsageError(f"--columns: {suggest(name, columns, what='column')}") from None
    if split not in ("test", "valid"):
        raise UsageError(f"--columns {name!r}: write {text}, or valid {text}")
    return lambda run: metric_text(run, wanted, split, known)


def _metric_column(name: str) -> tuple[str, str]:
    """Return split and metric of a column that is neither a fact nor a setting: "HR@20" is of the test targets."""
    split, _, metric = name.rpartition(" ")
    return split or "test", metric


def shows_test(columns: Sequence[str], runs: Sequence[StoredRun]) -> bool:
    """Return whether a column of `table_of` holds a metric of test targets."""
    others = set(columns) - FACTS.keys() - _known_settings(runs)
    return any(_metric_column(name)[0] == "test" for name in others)


def _setting_text(record: RunRecord, key: str) -> str:
    return value_text(record.settings[key].value) if key in record.settings else ""


def metric_of(run: StoredRun, metric: Metric, split: str, known: KnownRankings) -> float | None:
    """Return a stored value, None for a run without it; DataError where its file is damaged or lacks lists."""
    if run.record is None or run.record.status == "failed" or not metric.fits(run.record.n_items):
        return None
    return known.value(run.record, "valid" if split == "valid" else "test", metric)


def metric_text(run: StoredRun, metric: Metric, split: str, known: KnownRankings) -> str:
    try:
        value = metric_of(run, metric, split, known)
    except DataError:
        return "unreadable"
    return DASH if value is None else number(value)


def with_settings(runs: Sequence[StoredRun], wanted: dict[str, Any]) -> list[StoredRun]:
    """Return the runs whose record has these settings or fields of the protocol; UsageError as `keep_settings`."""
    if not wanted:
        return list(runs)
    values = {key: typed(value) for key, value in wanted.items()}
    records = [run.record for run in runs if run.record]
    kept = {record.path for record in keep_settings(records, values)}
    return [run for run in runs if run.path in kept]


def to_json(runs: Sequence[StoredRun], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Return everything that the list knows of each run; numbers unrounded, absent values None."""
    with known_rankings() as known:
        return [
            {
                "run": run.name, "path": str(run.path), "dataset": run.dataset, "model": run.model,
                "config_id": run.config_id, "seed": run.seed, "state": run.state, "reason": run.reason,
                "epochs": run.n_epochs, "best_epoch": run.record.best_epoch if run.record else None,
                "changed": datetime.fromtimestamp(run.changed, UTC).isoformat(timespec="seconds"),
                "bytes": folder_bytes(run.path), "settings": chosen_settings(run.record),
                "seconds": dict(run.record.seconds) if run.record else {}, "energy": energy_json(run.record),
                **{
                    split: {str(metric): _readable(run, metric, split, known) for metric in metrics}
                    for split in ("valid", "test")
                },
            }
            for run in runs
        ]  # fmt: skip


def _readable(run: StoredRun, metric: Metric, split: str, known: KnownRankings) -> float | None:
    try:
        return metric_of(run, metric, split, known)
    except DataError:
        return None
