"""Cells from settings to stored records, a single cell or several seeds in a stack.

    open the cell -> train its model -> rank valid and test -> store rankings and record

`_train_one` and `_train_all` give each cell with its trained model or with what stopped it; `_rank_and_store` stores a
record of either. The test targets are opened after the training, except by validation = "test-item", a released slip.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmbench.atomic import write_text
from mmbench.choices import DEFAULT_LISTS
from mmbench.data.loaded import LoadedData, load_data
from mmbench.data.store import open_path
from mmbench.data.views import TargetView
from mmbench.errors import FAILURES, MmbenchError
from mmbench.evaluation.fusion import choose_weights
from mmbench.evaluation.metrics import mean_value
from mmbench.evaluation.ranking import rank
from mmbench.explain import explain, full_traceback, without_folders
from mmbench.models import registry
from mmbench.models.base import Recommender
from mmbench.models.late_fusion import LateFused
from mmbench.paths import PACKAGE
from mmbench.runs import store
from mmbench.runs.build import build_model, pretraining_of
from mmbench.runs.observers import Observers
from mmbench.runs.plan import Cell
from mmbench.runs.rerank import RunModel
from mmbench.runs.store import RANKINGS, TRACEBACK, RunRecord, Selection
from mmbench.runtime import environment, pick_device
from mmbench.settings.config import TrainConfig
from mmbench.tracking.base import TrackedEnd
from mmbench.tracking.energy_accounts import FILE as ENERGY
from mmbench.tracking.energy_accounts import EnergyAccounts
from mmbench.training.devices import peak_memory, reset_peak_memory
from mmbench.training.files import BEST, CANDIDATE, LOG, PREVIOUS, RESUME
from mmbench.training.progress import Progress, Watcher
from mmbench.training.stack import fit_together, why_not
from mmbench.training.trainer import Trainer
from mmbench.visible import one_line


@dataclass
class Opened:
    """A cell with its data and a model, fresh or trained; `trainer` is None where nothing is trained."""

    cell: Cell
    data: LoadedData
    model: Recommender[Any]
    config: TrainConfig
    device: str
    trainer: Trainer | None
    untrained: Progress  # the progress where nothing is trained

    @property
    def progress(self) -> Progress:
        return self.trainer.progress if self.trainer is not None else self.untrained


Result = tuple[Cell, Opened | BaseException]  # a trained model, or what stopped it


def run_cell(
    cell: Cell,
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
    debug: bool = False,
    lists: int = DEFAULT_LISTS,
) -> RunRecord:
    """Train, rank and store a cell. A failure becomes a record with its reason, or is raised with `debug`.

    lists  length of the lists of best items that are stored, 0 for none
    """
    observers = Observers.of([cell])
    with observers.energy:
        result = _train_one(cell, device, watcher, observers)
        return _rank_and_store(result, observers=observers, lists=lists, debug=debug)


def run_stack(
    cells: Sequence[Cell],
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
    debug: bool = False,
    lists: int = DEFAULT_LISTS,
) -> Iterator[RunRecord]:
    """Train cells that differ in their seeds as a stack; rank, store and yield each when it ends.

    A model that cannot be stacked is trained seed after seed, and the watcher is told why.
    """
    observers = Observers.of(cells)
    rank_and_store = partial(_rank_and_store, observers=observers, lists=lists, debug=debug)
    with observers.energy:
        # `map` keeps no trained model while the next is made.
        yield from map(rank_and_store, _train_all(cells, device, watcher, observers))


# -- training ---------------------------------------------------------------------------------------------


def _train_one(cell: Cell, device: str, watcher: Watcher | None, observers: Observers) -> Result:
    try:
        run = open_run(cell, pick_device(device), watcher, observers)
        if run.trainer is not None:
            run.trainer.fit()
    except FAILURES as error:
        return cell, error
    return cell, run


def _train_all(
    cells: Sequence[Cell], device: str, watcher: Watcher | None, observers: Observers
) -> Iterator[Result]:
    """Yield the results of cells in the order of their ends."""
    waiting, note = iter(cells), ""  # the first cell that can be stacked takes all others with it
    for cell in waiting:
        result = _try_to_open(cell, device, observers)
        trainer = _trainer_of(result)
        if trainer is not None and not note:
            reason = why_not(trainer)
            if not reason:
                others = (_try_to_open(other, device, observers) for other in waiting)
                yield from _fit([result, *others], watcher)
                return
            note = f"trained seed after seed: {reason}"
            if watcher is not None:
                watcher.note(note)
        if trainer is not None:
            trainer.progress.note(note)
        yield from _fit([result], watcher)
        del result, trainer  # frees their model before the next is made


def _try_to_open(cell: Cell, device: str, observers: Observers) -> Result:
    try:
        return cell, open_run(cell, pick_device(device), observers=observers)
    except FAILURES as error:
        return cell, error


def _trainer_of(result: Result) -> Trainer | None:
    run = result[1]
    return run.trainer if isinstance(run, Opened) else None


def _fit(results: list[Result], watcher: Watcher | None) -> Iterator[Result]:
    """Train opened cells together; yield first what is not trained, then each cell when its training ends.

    An unforeseen error stops all that are left.
    """
    yield from (result for result in results if _trainer_of(result) is None)
    left = {number: result for number, result in enumerate(results) if _trainer_of(result) is not None}
    results.clear()
    numbers, trainers = list(left), [trainer for result in left.values() if (trainer := _trainer_of(result))]
    try:
        for number, error in fit_together(trainers, size=len(trainers), watcher=watcher):
            cell, run = left.pop(numbers[number])
            yield cell, error or run
    except FAILURES as error:
        yield from ((cell, error) for cell, _ in left.values())


def open_run(
    cell: Cell, device: str, watcher: Watcher | None = None, observers: Observers | None = None
) -> Opened:
    """Load a cell's data and make its model and trainer, whose epochs the observers hear of."""
    cell.path.mkdir(parents=True, exist_ok=True)
    remove_temporary(cell.path)
    if observers is not None:
        observers.begin(cell, device)
    data = load_data(cell.data_path, open_path(cell.data_path).hash)
    reset_peak_memory(device)
    began = time.perf_counter()
    model, config = build_model(cell, data, device)
    run = Opened(cell, data, model, config, device, None, Progress())
    if model.trainable:
        run.trainer = _make_trainer(run, watcher)
        run.trainer.on_log = observers.log_of(cell) if observers is not None else None
        return run
    for stale in (LOG, BEST):
        (cell.path / stale).unlink(missing_ok=True)
    spent = {"train": time.perf_counter() - began, "valid": 0.0}
    run.untrained = Progress(stopped="closed form", seconds=spent)
    return run


def _make_trainer(run: Opened, watcher: Watcher | None) -> Trainer:
    config, device = run.config, run.device
    targets = selection_targets(run)

    def validate(current: Recommender[Any]) -> float:
        return selection_value(current, view=targets, config=config, device=device)

    return Trainer(
        run.model, run.data.train, validate, config, seed=run.cell.seed, folder=run.cell.path, device=device,
        watcher=watcher, pretraining=pretraining_of(run.cell, run.data),
    )  # fmt: skip


def selection_targets(run: Opened) -> TargetView:
    """Return the targets that the epochs of a run are compared on."""
    return run.data.targets("test" if run.config.validation == "test-item" else "valid")


def selection_value(model: Recommender[Any], *, view: TargetView, config: TrainConfig, device: str) -> float:
    """Return the value that a model is selected by: its settings' metric under their mask rule on these targets."""
    return mean_value(rank(model, view, mask_seen=config.mask_seen, device=device), config.selection_metric)


# -- records ----------------------------------------------------------------------------------------------


def _rank_and_store(result: Result, *, observers: Observers, lists: int, debug: bool) -> RunRecord:
    """Rank a trained cell and store its record, or store why there is no result; tell its trackers of the end."""
    observers.energy.share()  # what is used from now on is this cell's alone
    record = _record_of(result, observers.energy, lists=lists, debug=debug)
    observers.tracking[record.path].end(lambda: _end_of(record))
    return record


def _end_of(record: RunRecord) -> TrackedEnd:
    return TrackedEnd(
        status=record.status, reason=record.reason, best_epoch=record.best_epoch,
        n_parameters=record.n_parameters, valid=record.metrics("valid"), test=record.metrics("test"),
    )  # fmt: skip


def _record_of(result: Result, energy: EnergyAccounts, *, lists: int, debug: bool) -> RunRecord:
    """Return the stored record, of a result or of its failure."""
    cell, outcome = result
    try:
        if isinstance(outcome, BaseException):
            raise outcome
        record = replace(_finished_record(outcome, lists), energy=energy.leave(cell.path))
        store.write_record(record)
        tidy(cell.path)
        return record
    except FAILURES as error:
        energy.leave(cell.path)
        if debug:
            raise
        if isinstance(error, MmbenchError | OSError):
            (cell.path / TRACEBACK).unlink(missing_ok=True)  # of an earlier try
        else:
            write_text(cell.path / TRACEBACK, full_traceback(error))
        return fail_cell(cell, explain_failure(error, cell.model))


def explain_failure(error: BaseException, model: str) -> str:
    """Return in one line why a model's training or ranking failed, with the line of its file that is at fault."""
    return explain(error, folders=[registry.find(model).file.parent, PACKAGE])


def fail_cell(cell: Cell, reason: str) -> RunRecord:
    """Store a failed record with its reason. Checkpoints stay, so the next attempt resumes."""
    record = replace(_base_record(cell, "failed"), reason=one_line(without_folders(reason))[:500])
    store.write_record(record)
    return record


def _base_record(cell: Cell, status: Literal["finished", "failed"]) -> RunRecord:
    """Return a record of what is known of a cell without computing it."""
    entry = registry.find(cell.model)
    prepared = open_path(cell.data_path)
    return RunRecord(
        path=cell.path, dataset=cell.dataset, model=cell.model, config_id=cell.config_id, seed=cell.seed,
        display=entry.display,
        status=status, deterministic=entry.load().deterministic, synthetic=prepared.synthetic,
        # A model without training has no epoch to select: `validation` changes nothing, and is not in its config id.
        leaky=entry.load().trainable and cell.settings["validation"].value == "test-item",
        protocol=cell.protocol, n_items=prepared.n_items, settings=cell.settings, features=cell.features,
        sources=list(cell.uses_of_sources), notes=list(cell.notes),
    )  # fmt: skip


def _finished_record(run: Opened, lists: int) -> RunRecord:
    """Rank, store the rankings, and return the record, which is not stored yet."""
    cell, model, progress = run.cell, run.model, run.progress
    base = _base_record(cell, "finished")
    if isinstance(model, LateFused):
        choose_weights(model, run.data.valid, mask_seen=run.config.mask_seen, device=run.device)
    ranked = RunModel(base.title, model, run.data, run.device)
    store.write_rankings(cell.path, ranked.rank_as_trained(lists=lists))
    numbers = progress.epoch_seconds
    median = {"epoch": float(np.median(numbers))} if numbers else {}
    return replace(
        base,
        selection=_selection(run), n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_epochs=progress.earlier + progress.epoch, stopped=progress.stopped, curve=progress.curve,
        seconds={**progress.seconds, **ranked.seconds, **median}, peak_memory=peak_memory(run.device),
        extra=model.extra_state(),
        environment={
            **environment(run.device, registry.find(cell.model).code_facts()),
            **({"stack": progress.stack} if progress.stack else {}),
            **({"notes": progress.notes} if progress.notes else {}),
        },
    )  # fmt: skip


def _selection(run: Opened) -> Selection | None:
    progress = run.progress
    if run.trainer is None or progress.stopped == "fixed epochs":
        return None
    return Selection(run.config.selection_metric, progress.best, progress.best_epoch)


# -- leftovers --------------------------------------------------------------------------------------------

LEFTOVERS = (RESUME, PREVIOUS, CANDIDATE, TRACEBACK, ENERGY)  # files that a finished cell has no use for


def remove_temporary(path: Path) -> None:
    """Remove what a killed run left half written; the caller holds the cell."""
    for folder in (path, path / RANKINGS):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Remove what a finished cell no longer needs; the caller holds the cell."""
    remove_temporary(path)
    for name in LEFTOVERS:
        (path / name).unlink(missing_ok=True)
