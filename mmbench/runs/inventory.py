"""What lies in a results folder: every run in its state, also those that have no record yet."""

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from mmbench.errors import MOST_SHOWN, DataError, RunError, UsageError, nearest
from mmbench.models import registry
from mmbench.runs.shelves import Shelves
from mmbench.runs.store import RECORD, RunRecord, known_records, read_record, slug
from mmbench.runs.workers import LOCK, claim
from mmbench.runtime import without_collector
from mmbench.settings.config import Origin
from mmbench.training.names import LOG

RunState = Literal["finished", "failed", "running", "interrupted", "unreadable"]
RUN_STATES: tuple[RunState, ...] = get_args(RunState)
SHOWN_DIGITS = 7  # of a configuration's id in the name of a run
FEWEST_DIGITS = 4
DAY = 86_400.0

_SEED = re.compile(r"seed_(\d+)")
_NAME = re.compile(rf"(?P<config>[0-9a-f]{{{FEWEST_DIGITS},}})(?:/(?P<seed>\d+))?")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as it lies on disk.

    model     the registry name; without a record, what the name of the folder says
    reason    why a run failed, or why it cannot be read
    n_epochs  finished epochs
    changed   when it ended, or when its files changed last; seconds since 1970
    record    None unless the run is finished or failed
    """

    path: Path
    dataset: str
    model: str
    config_id: str
    seed: int
    state: RunState
    reason: str
    n_epochs: int
    changed: float
    record: RunRecord | None

    @property
    def name(self) -> str:
        """Return the short name that commands take: the first digits of the configuration and the seed."""
        return f"{self.config_id[:SHOWN_DIGITS]}/{self.seed}"

    def days_old(self, now: float | None = None) -> float:
        return ((time.time() if now is None else now) - self.changed) / DAY


def list_runs(results_dir: Path) -> list[StoredRun]:
    """Return all runs below a results folder, the last changed at the end."""
    folders = [path for path in results_dir.glob("*/*/*/seed_*") if _SEED.fullmatch(path.name)]
    with without_collector(), known_records() as known:
        runs = [look_at(path, known) for path in sorted(folders) if path.is_dir()]
    return sorted(runs, key=lambda run: run.changed)


def look_at(path: Path, known: Shelves[str] | None = None) -> StoredRun:
    """Return the run in a folder `<data set>/<model>/<configuration>/seed_<n>`.

    known  hashes of whole records, see `read_record`
    """
    if not (path / RECORD).is_file():
        return _without_record(path, "running" if is_held(path) else "interrupted")
    try:
        record = read_record(path, known)
    except DataError as error:
        return _without_record(path, "unreadable", str(error))
    state: RunState = record.status
    if state == "failed" and is_held(path):
        state = "running"
    return StoredRun(
        path=path, dataset=record.dataset, model=record.model, config_id=record.config_id, seed=record.seed,
        state=state, reason=record.reason, n_epochs=record.n_epochs, changed=_ended(record), record=record,
    )  # fmt: skip


def is_held(path: Path) -> bool:
    """Return whether a process computes the run in a folder; False where the folder may only be read."""
    if not (path / LOCK).exists():
        return False
    try:
        lock = claim(path, wait=False)
    except RunError:
        return False
    if lock is None:
        return True
    with lock:
        return False


def find_runs(results_dir: Path, names: Iterable[str]) -> list[StoredRun]:
    """Return the runs that these names mean, each once.

    A name is a run's folder, a folder above runs (itself or below `results_dir`), or the configuration that `mmbench
    runs` shows, with or without "/SEED". Raises UsageError for a name without a run and for the beginning of
    several configurations.
    """
    stored = list_runs(results_dir)
    runs: dict[Path, StoredRun] = {}
    for name in names:
        for run in _named(name, results_dir, stored):
            runs.setdefault(Path(os.path.abspath(run.path)), run)
    return list(runs.values())


def _named(name: str, results_dir: Path, stored: Sequence[StoredRun]) -> list[StoredRun]:
    for folder in (Path(name), results_dir / name):
        if folder.is_dir() and _SEED.fullmatch(folder.name):
            return [look_at(folder)]
        if not folder.is_dir() or not _is_below(folder, results_dir):
            continue
        if runs := [run for run in stored if _is_below(run.path, folder)]:
            return runs
    match = _NAME.fullmatch(name)
    chosen = [run for run in stored if match and run.config_id.startswith(match["config"])]
    configurations = {(run.dataset, run.model, run.config_id) for run in chosen}
    if len(configurations) > 1:
        ids = ", ".join(
            f"{config_id} ({model} on {dataset})"
            for dataset, model, config_id in sorted(configurations, key=lambda names: names[2])
        )
        raise UsageError(f"{name!r} is the beginning of several configurations: {ids}; write more of it")
    if match and match["seed"]:
        chosen = [run for run in chosen if run.seed == int(match["seed"])]
    if not chosen:
        raise UsageError(f"no run {name!r} in {results_dir}{_meant(name, stored)}; mmbench runs lists them")
    return chosen


def _meant(name: str, stored: Sequence[StoredRun]) -> str:
    """Return the names that an unknown one may have meant, in words; "" for none. A model's name means its runs."""
    if of_model := sorted({run.config_id[:SHOWN_DIGITS] for run in stored if name == run.model}):
        more = ", ..." if len(of_model) > MOST_SHOWN else ""
        return f"; {name} is a model, whose runs are {', '.join(of_model[:MOST_SHOWN])}{more}"
    near = nearest(name, {run.name for run in stored} | {run.config_id[:SHOWN_DIGITS] for run in stored})
    more = ", ..." if len(near) > MOST_SHOWN else ""
    return f"; did you mean {' or '.join(map(repr, near[:MOST_SHOWN]))}{more}?" if near else ""


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def is_smoke(run: StoredRun) -> bool:
    """Return whether a run only tried something out: the user allowed fewer epochs than the recipe, all were used."""
    record = run.record
    budget = record.settings.get("max_epochs") if record else None
    if record is None or budget is None or budget.origin is not Origin.user or record.stopped != "max_epochs":
        return False
    try:
        usual = registry.find(record.model).values(record.dataset)["max_epochs"]
    except UsageError:  # the model is no longer registered
        return False
    return bool(budget.value < usual)


def folder_bytes(path: Path) -> int:
    """Return how many bytes the files in a folder have; links are not followed."""
    sizes = (
        os.lstat(os.path.join(folder, file)).st_size for folder, _, files in os.walk(path) for file in files
    )
    return sum(sizes)


def _without_record(path: Path, state: RunState, reason: str = "") -> StoredRun:
    dataset, model, config_id, folder = path.absolute().parts[-4:]
    log = path / LOG
    n_epochs = log.read_bytes().count(b"\n") if log.is_file() else 0
    times = [file.stat().st_mtime for file in [path, *path.iterdir()] if file.exists()]
    return StoredRun(
        path=path, dataset=_dataset_of(dataset), model=_model_of(model), config_id=config_id,
        seed=int(folder.removeprefix("seed_")), state=state, reason=reason, n_epochs=n_epochs, changed=max(times),
        record=None,
    )  # fmt: skip


def _dataset_of(folder: str) -> str:
    """Return the data set whose runs lie in a folder of this name: `shop@random-1` -> `shop@random:1`."""
    return re.sub(r"@random-(\d+)$", r"@random:\1", folder)


def _model_of(folder: str) -> str:
    """Return the model whose runs lie in a folder of this name; the folder's name if that is none or several."""
    names = [name for name in registry.all_names() if slug(name) == folder]
    return names[0] if len(names) == 1 else folder


def _ended(record: RunRecord) -> float:
    """Return when a run ended: as the record says, else when it was written."""
    try:
        return datetime.fromisoformat(record.environment["finished"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return (record.path / RECORD).stat().st_mtime
