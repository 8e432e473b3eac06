"""Everything about a stored run that a reader asks first: state, scores, what differs from the recipe, its training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmbench.errors import UsageError, counted
from mmbench.evaluation.metrics import Metric
from mmbench.fetch.files import size_text
from mmbench.look.letters import ASCII, BLOCKS
from mmbench.models import registry
from mmbench.reporting.energy import energy_json, energy_line
from mmbench.reporting.rounding import DASH, number
from mmbench.reporting.run_list import chosen_settings, metric_text, spent
from mmbench.runs.curves import Curves, Point, read_curves
from mmbench.runs.inventory import StoredRun, folder_bytes
from mmbench.runs.known_rankings import known_rankings
from mmbench.runs.store import TRACEBACK, RunRecord
from mmbench.runs.time_left import clock
from mmbench.settings.describe import value_text

MOST_LETTERS = 60
Lines = list[tuple[str, str]]  # label, text


@dataclass(frozen=True)
class Changed:
    """A setting that somebody chose; `usual` is the recipe's value in words, "" where only the data set knows it."""

    key: str
    value: Any
    usual: str
    source: str


def changed_settings(record: RunRecord) -> list[Changed]:
    """Return the settings of a run that differ from the recipe of its model on its data set."""
    chosen, changed = chosen_settings(record), []
    usual = _usual_values(record, chosen)
    for key in chosen:
        setting, value = record.settings[key], usual.get(key)
        value = list(value) if isinstance(value, tuple) else value
        if key in usual and value == setting.value:
            continue
        text = value_text(value) if key in usual else ""
        changed.append(Changed(key, setting.value, text, f"{setting.origin} {setting.note}".strip()))
    return changed


def _usual_values(record: RunRecord, keys: Iterable[str]) -> dict[str, Any]:
    """Return the values that the model has on the data set, of these settings at least where it has them.

    The model's class is read, which imports torch, only for a setting that neither recipe nor training states.
    """
    try:
        entry = registry.find(record.model)
        stated = entry.stated_values(record.dataset)
        return stated if stated.keys() >= set(keys) else entry.values(record.dataset)
    except UsageError:  # the model is no longer registered
        return {}


def spark(points: Sequence[Point], *, ascii_only: bool = False) -> str:
    """Return a letter for each point, or for each of MOST_LETTERS equal parts of many, from lowest to highest."""
    values = [value for _, value in points]
    if not values:
        return ""
    letters = ASCII if ascii_only else BLOCKS
    n = min(len(values), MOST_LETTERS)
    means = []
    for part in range(n):
        inside = values[part * len(values) // n : (part + 1) * len(values) // n]
        means.append(sum(inside) / len(inside))
    low, high = min(means), max(means)
    steps = [0 if high == low else round((mean - low) / (high - low) * (len(letters) - 1)) for mean in means]
    return "".join(letters[step] for step in steps)


def page_lines(run: StoredRun, metrics: Sequence[Metric], *, ascii_only: bool = False) -> Lines:
    """Return the page of a run as labels and texts; an empty label continues the line above."""
    record = run.record
    lines = [("run", f"{run.name}  {run.model} on {run.dataset}, seed {run.seed}"), ("folder", str(run.path))]
    lines += [("state", _state_text(run))]
    if run.state == "failed" and (run.path / TRACEBACK).is_file():
        lines.append(("traceback", str(run.path / TRACEBACK)))
    if record is not None and record.status == "finished":
        lines += _score_lines(run, metrics)
    if record is not None:
        lines += _setting_lines(record)
    lines += _curve_lines(read_curves(run.path), ascii_only)
    if record is not None:
        lines += _cost_lines(record)
    size = size_text(folder_bytes(run.path))
    return [*lines, ("disk", size), *(_origin_lines(record) if record else [])]


def to_json(run: StoredRun, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return the page as JSON content; numbers unrounded."""
    record, curves = run.record, read_curves(run.path)
    finished = record is not None and record.status == "finished"
    return {
        "run": run.name, "path": str(run.path), "dataset": run.dataset, "model": run.model, "seed": run.seed,
        "config_id": run.config_id, "state": run.state, "reason": run.reason, "epochs": run.n_epochs,
        "scores": {split: _values(record, split, metrics) for split in ("valid", "test")} if finished else {},
        "changed_settings": [vars(setting) for setting in changed_settings(record)] if record else [],
        "curves": {"metric": curves.metric, "valid": list(curves.valid), "loss": list(curves.loss)},
        "seconds": dict(record.seconds) if record else {}, "energy": energy_json(record),
        "notes": list(record.notes) if record else [],
        "environment": dict(record.environment) if record else {},
    }  # fmt: skip


def _values(record: RunRecord | None, split: str, metrics: Sequence[Metric]) -> dict[str, float]:
    assert record is not None
    fitting = [metric for metric in metrics if metric.fits(record.n_items)]
    ranks_only = [metric for metric in fitting if metric.needs == "ranks" or split == "test"]
    return record.metrics("valid" if split == "valid" else "test", ranks_only)


def _state_text(run: StoredRun) -> str:
    if run.reason:
        return f"{run.state}: {run.reason}"
    epochs = counted(run.n_epochs, "epoch")
    if run.record is None:
        return f"{run.state}, {epochs} done"
    stopped = f", stopped by {run.record.stopped}" if run.record.n_epochs else f", {run.record.stopped}"
    return run.state + (f" after {epochs}{stopped}" if run.record.n_epochs else stopped)


def _score_lines(run: StoredRun, metrics: Sequence[Metric]) -> Lines:
    lines = []
    with known_rankings() as known:
        for split in ("test", "valid"):
            wanted = [metric for metric in metrics if split == "test" or metric.needs == "ranks"]
            texts = [f"{metric} {metric_text(run, metric, split, known)}" for metric in wanted]
            lines.append((split, "  ".join(texts)))
    return lines


def _setting_lines(record: RunRecord) -> Lines:
    changed = changed_settings(record)
    if not changed:
        return [("settings", "all as in the recipe")]
    texts = [
        f"{setting.key} = {value_text(setting.value)}"
        + (f" (recipe {setting.usual})" if setting.usual else "")
        for setting in changed
    ]
    return [("settings" if index == 0 else "", text) for index, text in enumerate(texts)]


def _curve_lines(curves: Curves, ascii_only: bool) -> Lines:
    lines = []
    if best := curves.best:
        shape, lowest = spark(curves.valid, ascii_only=ascii_only), min(value for _, value in curves.valid)
        text = f"{shape}  {number(lowest)} to {number(best[1])}, best at epoch {best[0]}"
        lines.append((f"valid {curves.metric}", text))
    if curves.loss:
        first, last = curves.loss[0][1], curves.loss[-1][1]
        lines.append(("loss", f"{spark(curves.loss, ascii_only=ascii_only)}  {first:.4f} to {last:.4f}"))
    return lines


def _cost_lines(record: RunRecord) -> Lines:
    seconds, memory = record.seconds, record.peak_memory
    parts = [f"training and validation {clock(spent(record))}"]
    parts += [f"{seconds['epoch']:.2f} s an epoch"] if "epoch" in seconds else []
    parts += [f"ranking {seconds['rank_test']:.1f} s"] if "rank_test" in seconds else []
    lines = [("time", ", ".join(parts))]
    if memory:
        texts = [f"{device} {size_text(n_bytes)}" for device, n_bytes in sorted(memory.items())]
        lines.append(("memory", f"{', '.join(texts)}; {record.n_parameters:,} parameters"))
    return lines + ([("energy", energy_line(record.energy))] if record.energy else [])


def _threads(made: dict[str, Any]) -> str:
    n = made.get("threads")
    return f"{counted(n, 'thread')}, " if isinstance(n, int) and n else ""


def _origin_lines(record: RunRecord) -> Lines:
    made = record.environment
    code, device = made.get("code", {}), str(made.get("device", DASH))
    version = f"mmbench {code.get('mmbench', DASH)} {code.get('commit', '')}".strip()
    lines = [("made by", f"{version}, torch {made.get('libraries', {}).get('torch', DASH)}, {device}")]
    if made.get("finished"):
        lines[0] = ("made by", f"{lines[0][1]}, {_threads(made)}{made['finished']}")
    lines += [("features", f"{kind} {use.encoder}") for kind, use in sorted(record.features.items())]
    return lines + [("note", note) for note in [*record.notes, *made.get("notes", [])]]
