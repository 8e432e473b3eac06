"""Scheduling: which cells are missing, who computes them, what happens when one fails.

`plan` lists the cells, `execute` computes the missing ones, each by mmbench.runs.execute.run_cell.

A cell is claimed by an advisory lock on a file in its folder. The system drops the lock when a process dies,
however it dies, so several `mmbench run` can share a results folder and none waits for a dead process.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from mmbench.choices import DEFAULT_LISTS, SPLITS, whole_number
from mmbench.data.definition import check_current
from mmbench.data.store import Prepared, open_path
from mmbench.errors import DataError, OtherVersionError, RunError
from mmbench.models import registry
from mmbench.paths import split_paths
from mmbench.runs import rerank
from mmbench.runs.execute import LEFTOVERS, fail_cell, run_cell, run_stack, tidy
from mmbench.runs.following import following
from mmbench.runs.known_rankings import KnownRankings, known_rankings
from mmbench.runs.overrides import Overrides, check_overrides
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.rerank import Evaluated
from mmbench.runs.shelves import Shelves
from mmbench.runs.store import RANKINGS, RECORD, RunRecord, known_records, read_record
from mmbench.runs.watchers import RunWatcher
from mmbench.runs.workers import BEGUN, Backend, Group, claim, dealt_device, marked, side_by_side
from mmbench.runtime import code_version, crowded_threads, prepare_process, without_collector

MOST_THREADS = 1024  # a larger OMP_NUM_THREADS is a slip
DIED = "its worker process died twice; it may have run out of memory"


def plan(
    *,
    results_dir: Path,
    datasets: Sequence[Prepared],
    models: Sequence[str],
    seeds: Sequence[int],
    overrides: Overrides,
) -> list[Cell]:
    """Return all cells in the order they run: seed by seed, so that early tables already hold every model."""
    check_overrides(overrides, models)
    cells = []
    for prepared in datasets:
        of_models = [_unseeded(results_dir, prepared, model, overrides) for model in models]
        cells += [
            cell.with_seed(seed)
            for number, seed in enumerate(seeds)
            for cell, is_deterministic in of_models
            if not (number and is_deterministic)  # every seed gives the same run
        ]
    return cells


def _unseeded(results_dir: Path, prepared: Prepared, model: str, overrides: Overrides) -> tuple[Cell, bool]:
    """Return a cell of a model, whose seed is still to be set, and whether the model is deterministic.

    Only the seed differs between the cells of a model, so settings are resolved once however many seeds there are.
    """
    entry = registry.find(model)
    layers = overrides.layers(model, entry.known_settings(), prepared.name)
    cell = make_cell(results_dir=results_dir, prepared=prepared, model=model, seed=0, overrides=layers)
    return cell, entry.load().deterministic


def finished(cell: Cell) -> RunRecord | None:
    """Return the cell's record when it is done; a failed or damaged record counts as missing."""
    with known_records() as records, known_rankings() as rankings:
        return _stored(cell, records, rankings)[0]


def stored_cells(cells: Iterable[Cell]) -> Iterator[tuple[Cell, RunRecord | None, str]]:
    """Yield every cell with its record, as `finished` returns it, and what is wrong with a damaged record."""
    with known_records() as records, known_rankings() as rankings:
        for cell in cells:
            yield cell, *_stored(cell, records, rankings)


def _stored(cell: Cell, records: Shelves[str], rankings: KnownRankings) -> tuple[RunRecord | None, str]:
    if not (cell.path / RECORD).is_file():
        return None, ""
    try:
        record = read_record(cell.path, records)
        if record.status != "finished":
            return None, ""
        for split in SPLITS:
            if rankings.get(record, split) is None:
                rankings.read(record, split)
    except OtherVersionError:
        raise
    except DataError as error:
        return None, str(error)
    return record, ""


def execute(
    cells: Sequence[Cell],
    *,
    watcher: RunWatcher,
    device: str = "auto",
    backend: Backend | None = None,
    stack: int = 1,
    debug: bool = False,
    lists: int = DEFAULT_LISTS,
) -> list[RunRecord]:
    """Compute every missing cell; return a record per cell, failed ones included, in the order of `cells`.

    stack  how many cells that differ in their seeds only are trained together
    lists  length of the lists of best items that are stored, 0 for none

    Raises DataError for a data set whose definition or raw files changed since it was prepared.
    """
    for path in {cell.data_path: None for cell in cells}:
        check_current(open_path(path))
    done = _finished_cells(cells, watcher)
    missing = [cell for cell in cells if cell.path not in done]
    groups = stacks_of(missing, stack)
    if not groups:  # a cluster is not started for nothing
        return [done[cell.path] for cell in cells]
    jobs = 1 if backend is None else min(backend.jobs, len(groups))
    watcher.missing(missing, jobs)
    if backend is None or (backend.kind == "local" and jobs == 1):
        records = _run_serially(groups, watcher=watcher, device=device, debug=debug, lists=lists)
    else:
        records = _run_in_workers(groups, watcher=watcher, device=device, backend=backend, lists=lists)
    for record in records:
        done[record.path] = record
    return [done[cell.path] for cell in cells]


def _finished_cells(cells: Sequence[Cell], watcher: RunWatcher) -> dict[Path, RunRecord]:
    """Return the records of cells that are done, by path, and report these and damaged cells to the watcher."""
    done: dict[Path, RunRecord] = {}
    is_other = cache(_is_other_code)  # the model's files are looked for once, not for every seed
    with without_collector():
        for cell, record, why in stored_cells(cells):
            if record is not None:
                done[cell.path] = record
                _tidy_up(cell)
                watcher.skipped(cell, record, other_code=is_other(record.model, *_code_of(record)))
            elif why:
                watcher.damaged(cell, why)
    return done


def _tidy_up(cell: Cell) -> None:
    """Remove what a run left in a finished cell that was killed before it tidied up, where nobody is at work."""
    names = [*os.listdir(cell.path), *os.listdir(cell.path / RANKINGS)]
    if not any(name in (BEGUN, *LEFTOVERS) or (name[0], name[-4:]) == (".", ".tmp") for name in names):
        return
    with suppress(OSError, RunError):  # a folder that may only be read holds results all the same
        lock = claim(cell.path, wait=False)
        if lock is not None:
            with lock:
                tidy(cell.path)
                (cell.path / BEGUN).unlink(missing_ok=True)


def stacks_of(cells: Sequence[Cell], size: int) -> list[Group]:
    """Return groups of up to `size` cells that differ in the seed only, in the order of their first cells."""
    by_configuration: dict[tuple[Path, str, str], list[Cell]] = {}
    for number, cell in enumerate(cells):
        alone = size == 1 or not _is_trained(cell)
        key = (cell.data_path, cell.model, f"{cell.config_id}/{number}" if alone else cell.config_id)
        by_configuration.setdefault(key, []).append(cell)
    return [
        tuple(seeds[first : first + size])
        for seeds in by_configuration.values()
        for first in range(0, len(seeds), size)
    ]


def _code_of(record: RunRecord) -> tuple[str, str]:
    """Return the hashes of mmbench and of the user's own model file that made a run."""
    code = record.environment.get("code", {})
    return str(code.get("source_hash", "")), str(code.get("own_model", ""))


def _is_other_code(model: str, source_hash: str, own_model: str) -> bool:
    """Return whether a run was made by another mmbench, or by another state of a user's own model file."""
    now = code_version()["source_hash"], registry.find(model).own_code()
    return (source_hash, own_model) != now


def rank_again(record: RunRecord, *, data_dir: Path, device: str, lists: int = DEFAULT_LISTS) -> Evaluated:
    """Rank a stored run again, see `mmbench.runs.rerank.rank_again`, while we hold its lock."""
    lock = claim(record.path, wait=False)
    if lock is None:
        raise RunError(f"{record.path} is being computed by another run; try again when it is done")
    with lock:
        try:
            return rerank.rank_again(record, data_dir=data_dir, device=device, lists=lists)
        except OSError as error:
            raise RunError(f"cannot write {record.path}: {error.strerror or error}") from error


def _run_serially(
    groups: Sequence[Group], *, watcher: RunWatcher, device: str, debug: bool, lists: int
) -> Iterator[RunRecord]:
    """Compute groups in this process, in their order; cells that another run is computing come last, by then done."""
    prepare_process(default_threads(1))
    if any(_is_trained(group[0]) for group in groups) and (remark := crowded_threads(device)):
        watcher.remark(remark)
    later, number, total = [], 1, sum(map(len, groups))
    for group in groups:
        with ExitStack() as locks:
            mine = []
            for position, cell in enumerate(group, start=number):
                lock = claim(cell.path, wait=False)
                if lock is None:
                    later.append((position, cell))
                else:
                    locks.enter_context(lock)
                    mine.append(cell)
            yield from _compute(mine, watcher, number, total, device, debug, lists)
        number += len(group)
    for position, cell in later:
        watcher.waiting(cell)
        lock = claim(cell.path, wait=True)
        assert lock is not None
        with lock:
            ready = finished(cell)
            yield from [ready] if ready else _compute([cell], watcher, position, total, device, debug, lists)


def _is_trained(cell: Cell) -> bool:
    return registry.find(cell.model).load().trainable


def _compute(
    cells: Sequence[Cell],
    watcher: RunWatcher,
    number: int,
    total: int,
    device: str,
    debug: bool,
    lists: int,
) -> Iterator[RunRecord]:
    """Compute cells that this process holds, as a stack when there are several."""
    missing = []
    for cell in cells:
        ready = finished(cell)  # another run may have finished it since the plan was made
        if ready is not None:
            watcher.skipped(cell, ready, other_code=_is_other_code(ready.model, *_code_of(ready)))
            yield ready
        else:
            missing.append(cell)
            (cell.path / BEGUN).unlink(missing_ok=True)  # is left by a worker that was stopped with its run
    view = watcher.begins(missing, number, total) if missing else None
    if len(missing) == 1:
        records = iter([run_cell(missing[0], device=device, watcher=view, debug=debug, lists=lists)])
    else:
        records = run_stack(missing, device=device, watcher=view, debug=debug, lists=lists)
    by_path = {cell.path: cell for cell in missing}
    for record in records:
        watcher.ends(by_path[record.path], record)
        yield record


def default_threads(jobs: int) -> int:
    """Return the threads per process, so that `jobs` processes do not fight for the cores."""
    limit = whole_number(os.environ.get("OMP_NUM_THREADS", "")) or 0
    return limit if 0 < limit <= MOST_THREADS else max(1, (os.cpu_count() or 1) // jobs)


def _work(
    group: Group, device: str, jobs: int, environment: dict[str, str], lists: int
) -> list[tuple[Cell, RunRecord]]:
    """Compute a group in a worker process, with its share of threads; wait when another run holds a cell."""
    os.environ.update(environment)
    prepare_process(default_threads(jobs))
    with ExitStack() as held:
        # All workers claim in the same order, so that two runs cannot block each other.
        for cell in sorted(group, key=lambda cell: cell.path):
            lock = claim(cell.path, wait=True)
            assert lock is not None
            held.enter_context(lock)
        dead = [cell for cell in group if not held.enter_context(marked(cell))]
        done = {cell.path: fail_cell(cell, DIED) for cell in dead}
        done |= {cell.path: ready for cell in group if cell not in dead and (ready := finished(cell))}
        missing = [cell for cell in group if cell.path not in done]
        chosen = held.enter_context(dealt_device(device))
        records = run_stack(missing, device=chosen, lists=lists) if len(missing) > 1 else (
            run_cell(cell, device=chosen, lists=lists) for cell in missing
        )  # fmt: skip
        done |= {record.path: record for record in records}
        return [(cell, done[cell.path]) for cell in group]


def _run_in_workers(
    groups: Sequence[Group], *, watcher: RunWatcher, device: str, backend: Backend, lists: int
) -> Iterator[RunRecord]:
    """Compute groups in other processes, each with its share of the cores; records come as they end."""
    environment = shipped_environment()
    cell_of = {cell.path.absolute(): cell for group in groups for cell in group}
    shipped = [
        tuple(replace(cell, path=cell.path.absolute(), data_path=cell.data_path.absolute()) for cell in group)
        for group in groups
    ]
    backend = replace(backend, jobs=min(backend.jobs, len(groups)))
    watcher.queued(list(cell_of.values()), backend.jobs)
    work = partial(_work, device=device, jobs=backend.jobs, environment=environment, lists=lists)
    with following(list(cell_of.values()), watcher) as follower:
        for record in side_by_side(shipped, work, backend, ended=_ended):
            cell = cell_of[record.path]
            record = replace(record, path=cell.path)
            follower.end(cell)
            watcher.ends(cell, record)
            yield record


def shipped_environment() -> dict[str, str]:
    """Return mmbench's variables with absolute paths: a worker may have been started in another folder."""
    return {key: _absolute(value) for key, value in os.environ.items() if key.startswith("MMBENCH_")}


def _absolute(folders: str) -> str:
    return os.pathsep.join(str(folder.absolute()) for folder in split_paths(folders))


def _ended(cell: Cell) -> RunRecord | None:
    """Return the stored record of a cell, finished or failed; None while there is none."""
    try:
        return read_record(cell.path) if (cell.path / RECORD).is_file() else None
    except DataError:
        return None
