"""Scheduling: which cells are missing, who computes them, what happens when one fails.

A cell is claimed by an advisory lock on a file in its folder. The system drops the lock when a process dies,
however it dies, so several `mmbench run` can share a results folder and none waits for a dead one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from mmbench import registry
from mmbench.data.store import Prepared
from mmbench.errors import DataError, RunError, UsageError, suggest
from mmbench.experiment import Cell, fail_cell, make_cell, run_cell
from mmbench.parallel import BEGUN, Backend, dealt_device, marked, side_by_side
from mmbench.progress import Watcher
from mmbench.results import RunRecord, read_record
from mmbench.runtime import code_version, prepare_process

LOCK = "cell.lock"  # in a cell's folder; held while the cell is computed


@dataclass(frozen=True)
class Overrides:
    """`--set`: settings for all models that have them, and for single models."""

    everywhere: Mapping[str, Any] = field(default_factory=dict)
    by_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def layers(self, model: str, known: Iterable[str]) -> list[tuple[str, Mapping[str, Any]]]:
        known = list(known)
        shared = {key: value for key, value in self.everywhere.items() if key in known}
        base = model.partition(":")[0]
        own = {**self.by_model.get(base, {}), **(self.by_model.get(model, {}) if model != base else {})}
        return [("--set", {**shared, **own})]


def check_overrides(overrides: Overrides, models: Sequence[str]) -> None:
    """A key that no chosen model has, or a model that is not chosen, is a mistake."""
    known = {name: registry.find(name)[0].known_settings() for name in models}
    every = sorted({key for keys in known.values() for key in keys})
    for key in overrides.everywhere:
        if key not in every:
            raise UsageError(f"--set {key}: {suggest(key, every, what='setting')}")
    names = {*models, *(name.partition(":")[0] for name in models)}
    for name, settings in overrides.by_model.items():
        if name not in names:
            raise UsageError(f"--set {name}.…: {suggest(name, names, what='model of this run')}")
        keys = registry.find(name)[0].known_settings()
        for key in settings:
            if key not in keys:
                raise UsageError(f"--set {name}.{key}: {suggest(key, keys, what='setting')}")


def plan(
    *,
    results_dir: Path,
    datasets: Sequence[Prepared],
    models: Sequence[str],
    seeds: Sequence[int],
    overrides: Overrides,
) -> list[Cell]:
    """All cells in the order they run: seed by seed, so that early tables already hold every model."""
    check_overrides(overrides, models)
    cells = []
    for prepared in datasets:
        for number, seed in enumerate(seeds):
            for model in models:
                entry, _ = registry.find(model)
                if number and entry.load().deterministic:
                    continue  # one run is all runs
                layers = overrides.layers(model, entry.known_settings())
                cells.append(
                    make_cell(
                        results_dir=results_dir, prepared=prepared, model=model, seed=seed, overrides=layers
                    )
                )
    return cells


def finished(cell: Cell) -> RunRecord | None:
    """The cell's record when it is done; a failed or damaged one counts as missing."""
    if not (cell.path / "run.json").is_file():
        return None
    try:
        record = read_record(cell.path)
        if record.status == "finished":
            record.ranks("test")
            return record
    except DataError:
        pass  # damaged: computed again
    return None


class RunWatcher(Protocol):
    """What the command line hears of a run."""

    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None: ...
    def waiting(self, cell: Cell) -> None: ...
    def queued(self, cells: Sequence[Cell], jobs: int) -> None: ...
    def begins(self, cell: Cell, number: int, total: int) -> Watcher | None: ...
    def ends(self, cell: Cell, record: RunRecord) -> None: ...


def execute(
    cells: Sequence[Cell],
    *,
    watcher: RunWatcher,
    device: str = "auto",
    backend: Backend | None = None,
    debug: bool = False,
) -> list[RunRecord]:
    """Compute every missing cell; returns a record per cell, failed ones included, in the order of `cells`."""
    done: dict[Path, RunRecord] = {}
    missing = []
    for cell in cells:
        record = finished(cell)
        if record is None:
            missing.append(cell)
        else:
            done[cell.path] = record
            watcher.skipped(cell, record, other_code=_other_code(record))
    if backend is None or (backend.kind == "local" and backend.jobs == 1):
        records = _in_turn(missing, watcher=watcher, device=device, debug=debug)
    else:
        records = _elsewhere(missing, watcher=watcher, device=device, backend=backend)
    for record in records:
        done[record.path] = record
    return [done[cell.path] for cell in cells]


def _other_code(record: RunRecord) -> bool:
    return record.environment.get("code", {}).get("source_hash") != code_version()["source_hash"]


def _claim(cell: Cell, *, wait: bool) -> AbstractContextManager[Any] | None:
    """The cell's lock, taken; None when another process holds it and we do not wait. Leave it with `with`."""
    try:
        cell.path.mkdir(parents=True, exist_ok=True)
        # The returned proxy gives the lock back once. `with` on the lock itself would take it a second time, so
        # that it stayed ours, and two runs could wait for each other's last cell for ever.
        return FileLock(cell.path / LOCK).acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    except OSError as error:
        raise RunError(
            f"cannot write {cell.path}: {error.strerror or error}; choose another --results-dir"
        ) from error


def _in_turn(cells: Sequence[Cell], *, watcher: RunWatcher, device: str, debug: bool) -> Iterator[RunRecord]:
    """One after another in this process; cells that another run is computing come last, by then done."""
    prepare_process(default_threads(1))
    later = []
    for number, cell in enumerate(cells, start=1):
        lock = _claim(cell, wait=False)
        if lock is None:
            later.append((number, cell))
            continue
        with lock:
            yield _compute(cell, watcher, number, len(cells), device, debug)
    for number, cell in later:
        watcher.waiting(cell)
        lock = _claim(cell, wait=True)
        assert lock is not None
        with lock:
            yield finished(cell) or _compute(cell, watcher, number, len(cells), device, debug)


def _compute(cell: Cell, watcher: RunWatcher, number: int, total: int, device: str, debug: bool) -> RunRecord:
    ready = finished(cell)  # another run may have finished it since the plan was made
    if ready is not None:
        watcher.skipped(cell, ready, other_code=_other_code(ready))
        return ready
    (cell.path / BEGUN).unlink(missing_ok=True)  # of a worker that was stopped with its run
    record = run_cell(cell, device=device, watcher=watcher.begins(cell, number, total), debug=debug)
    watcher.ends(cell, record)
    return record


def default_threads(jobs: int) -> int:
    """Threads per process, so that `jobs` processes do not fight for the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, (os.cpu_count() or 1) // jobs)


def _work(cell: Cell, device: str, jobs: int, environment: dict[str, str]) -> tuple[Cell, RunRecord]:
    """In a worker process: same folders, own threads; waits when another run holds the cell."""
    os.environ.update(environment)
    prepare_process(default_threads(jobs))
    lock = _claim(cell, wait=True)
    assert lock is not None
    with lock, marked(cell) as is_alive, dealt_device(device) as chosen:
        if not is_alive:
            return cell, fail_cell(cell, "its worker process died twice, perhaps for want of memory")
        return cell, finished(cell) or run_cell(cell, device=chosen)


def _elsewhere(
    cells: Sequence[Cell], *, watcher: RunWatcher, device: str, backend: Backend
) -> Iterator[RunRecord]:
    """Other processes, each with its share of the cores; records come as they end."""
    # Absolute paths: a worker may have been started in another folder.
    environment = {key: _absolute(value) for key, value in os.environ.items() if key.startswith("MMBENCH_")}
    here = {cell.path.absolute(): cell for cell in cells}
    shipped = [replace(cell, path=path, data_path=cell.data_path.absolute()) for path, cell in here.items()]
    watcher.queued(cells, backend.jobs)
    work = partial(_work, device=device, jobs=backend.jobs, environment=environment)
    for record in side_by_side(shipped, work, backend, ended=_ended):
        cell = here[record.path]
        record = replace(record, path=cell.path)
        watcher.ends(cell, record)
        yield record


def _absolute(folders: str) -> str:
    return os.pathsep.join(str(Path(one).absolute()) for one in folders.split(os.pathsep) if one)


def _ended(cell: Cell) -> RunRecord | None:
    """The stored record of a cell, finished or failed; None while there is none."""
    try:
        return read_record(cell.path) if (cell.path / "run.json").is_file() else None
    except DataError:
        return None
