"""A trial: its settings trained with the tuning seeds and ranked on the validation targets, on nothing else."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from mmbench.data.loaded import load_data
from mmbench.data.store import Prepared
from mmbench.errors import FAILURES, DataError, RunError, UsageError
from mmbench.explain import first_line
from mmbench.runs.build import build_model, pretraining_of
from mmbench.runs.execute import explain_failure, selection_value
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.store import slug
from mmbench.settings.config import Layer, Origin
from mmbench.tracking.base import TrackedEnd
from mmbench.tracking.tracking import Tracking
from mmbench.training.progress import EpochReport, Progress
from mmbench.training.trainer import Trainer
from mmbench.tuning.ledger import TUNING, Claimed
from mmbench.tuning.records import Plan, Status, Trial

LAST_SEED = 10**6  # tuning seeds count down from it: no table's seeds are among them
ETA = 3  # the best third of the trials that reach an epoch continues
TRACKED = "tracked"  # the folder of a study in which trackers of its trials write
RUNGS = tuple(4 * ETA**k for k in range(8))  # epochs at which trials are compared


class EndedError(Exception):
    """The trial ends before its training does: `status` says why."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Judge:
    """Watches the epochs of a trial's training, and ends it when it is worse than others or the time is over.

    Trials are compared in their last stage only, since no other stage gives the value that they are chosen by: a
    pre-training gives none, and the first member of an ensemble has another.

    others     the curves of trials that ended, in their last stage: epoch, value
    is_over    whether the budget of seconds is spent
    on_epoch   called after every epoch
    """

    metric: str
    others: Sequence[Sequence[tuple[int, float]]]
    prunes: bool
    is_over: Callable[[], bool]
    on_epoch: Callable[[EpochReport], None] = lambda report: None

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
    def note(self, text: str) -> None: ...

    def epoch(self, report: EpochReport) -> None:
        self.on_epoch(report)
        is_compared = self.prunes and report.outlook.is_last_stage and report.epoch in RUNGS
        if is_compared and is_worse(report.best, self.others, report.epoch):
            raise EndedError("pruned")
        if self.is_over():
            raise EndedError("cut")


def is_worse(best: float, others: Sequence[Sequence[tuple[int, float]]], epoch: int) -> bool:
    """Return whether a value after `epoch` epochs is below the best third of those that came as far.

    A trial that stopped earlier by itself came as far with its best value.
    """
    reached = [
        max(value for when, value in curve if when <= epoch)
        for curve in others
        if curve and curve[0][0] <= epoch
    ]
    better = sum(value > best for value in reached)
    return len(reached) >= ETA and better >= math.ceil((len(reached) + 1) / ETA)


def trial_seeds(n_seeds: int) -> list[int]:
    return [LAST_SEED - k for k in range(n_seeds)]


def run_trial(
    plan: Plan,
    prepared: Prepared,
    claimed: Claimed,
    *,
    others: Sequence[Trial],
    device: str,
    elapsed: Callable[[], float] = lambda: 0.0,
    is_over: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    track: tuple[str, ...] = (),
) -> Trial:
    """Compute a trial, from where it was interrupted. A trial whose settings or model fail keeps the reason.

    elapsed  the seconds that were spent on the trial so far
    track    names of the trackers that hear of each seed

    A fault that is not of the settings, such as a full disk or damaged data, raises: the trial is resumed later.
    """
    base = Trial(number=claimed.number, status="finished", values=claimed.values)
    # The first trial has the recipe's settings: the others are compared with it, so it is never pruned.
    curves = [curve for trial in others for curve in trial.curves[:1]] if claimed.number else []
    judge = Judge(plan.metric, curves, plan.prunes and claimed.number > 0, is_over, on_epoch)
    done: list[tuple[int, Outcome]] = []
    try:
        for seed in trial_seeds(plan.n_seeds):
            cell = trial_cell(plan, prepared, claimed.values, seed, claimed.folder / f"seed_{seed}")
            with _tracked(cell, plan, claimed, track) as tracking:
                done.append((seed, _train(cell, device, judge, tracking)))
                tracking.end(partial(_end_of, done[-1][1], plan.metric))
            if done[-1][1].ended:
                break
            judge.prunes = False  # the first seed decides whether the others are worth their time
    except FAILURES as error:
        _raise_fault_of_machine(error, claimed.number)
        reason = explain_failure(error, plan.model)
        return replace(base, status="failed", reason=reason, seconds=elapsed())
    return replace(_with_outcomes(base, done), seconds=elapsed())


def _with_outcomes(trial: Trial, done: Sequence[tuple[int, "Outcome"]]) -> Trial:
    """Return a trial with the outcomes of its seeds: (seed, outcome) in the order of the trainings."""
    outcomes = [outcome for _, outcome in done]
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    return replace(
        trial, status=outcomes[-1].ended or "finished", value=fmean(values) if values else None,
        seeds=tuple(seed for seed, _ in done), curves=tuple(outcome.curve for outcome in outcomes),
        n_epochs=sum(outcome.n_epochs for outcome in outcomes), n_parameters=outcomes[0].n_parameters,
    )  # fmt: skip


def _raise_fault_of_machine(error: BaseException, number: int) -> None:
    """Raise an error again that other settings would meet too: of files, of the disk, of the data."""
    if isinstance(error, DataError):
        raise error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            reason = error if cause is not error else f"{cause.strerror or cause} ({cause.filename})"
            text = " ".join(str(reason).split())
            raise RunError(
                f"trial {number} stopped: {text}; the same command resumes it, and no trial is lost"
            ) from error
        cause = cause.__cause__


def trial_cell(plan: Plan, prepared: Prepared, values: dict[str, Any], seed: int, path: Path) -> Cell:
    """Return the cell of a trial's seed; its folder is the trial's."""
    layers = [Layer(Origin.user, plan.fixed), Layer(Origin.tuned, values, f"study {plan.study_id}")]
    cell = make_cell(
        results_dir=path, prepared=prepared, model=plan.model, seed=seed,
        overrides=[layer for layer in layers if layer.values],
    )  # fmt: skip
    check_sealed(cell)
    return replace(cell, path=path)


def check_sealed(cell: Cell) -> None:
    """Raise UsageError for a cell that is selected on test items, which no trial may look at."""
    if cell.settings["validation"].value != "valid":
        raise UsageError(
            f"{cell.model} is selected on test items (validation = 'test-item'); it cannot be tuned"
        )


@dataclass(frozen=True)
class Outcome:
    """The outcome of a seed's training; `ended` is None where it ended by itself.

    value, curve  of the last stage; None and () where the training ended before it
    """

    value: float | None
    curve: tuple[tuple[int, float], ...]
    n_epochs: int
    n_parameters: int
    ended: Status | None = None


@contextmanager
def _tracked(cell: Cell, plan: Plan, claimed: Claimed, names: tuple[str, ...]) -> Iterator[Tracking]:
    """Yield the trackers of a trial's seed, which hear of its end when its training fails.

    Their files lie beside the trials, whose own folders go when they end.
    """
    place = f"trial_{claimed.number}/seed_{cell.seed}"
    title = f"{slug(plan.dataset)}/{slug(plan.model)}/{TUNING}/{plan.study_id}/{place}"
    folder = claimed.folder.parents[1] / TRACKED / place
    tracking = Tracking(names, partial(cell.tracked, title=title, folder=folder))
    try:
        yield tracking
    except FAILURES as error:
        reason = first_line(error)
        tracking.end(lambda: TrackedEnd(status="failed", reason=reason))
        raise


def _end_of(outcome: Outcome, metric: str) -> TrackedEnd:
    """Return what trackers hear of the end of a trial's seed, whose test targets are never ranked."""
    status = outcome.ended or "finished"
    return TrackedEnd(
        status=status, n_parameters=outcome.n_parameters,
        valid={} if outcome.value is None else {metric: outcome.value},
    )  # fmt: skip


def _train(cell: Cell, device: str, judge: Judge, tracking: Tracking) -> Outcome:
    """Train a model and return its best validation value; without a training, the value of what it computed."""
    cell.path.mkdir(parents=True, exist_ok=True)
    data = load_data(cell.data_path, str(cell.protocol["data"]))
    model, config = build_model(cell, data, device)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    validate = partial(selection_value, view=data.valid, config=config, device=device)
    if not model.trainable:
        return Outcome(validate(model), (), 0, n_parameters)
    trainer = Trainer(
        model, data.train, validate, config, seed=cell.seed, folder=cell.path, device=device, watcher=judge,
        pretraining=pretraining_of(cell, data),
    )  # fmt: skip
    trainer.on_log = tracking.log
    ended: Status | None = None
    try:
        trainer.fit()
    except EndedError as end:
        ended = end.status
    value, curve = last_stage(trainer.progress, len(trainer.stages), config.selection_metric)
    return Outcome(value, curve, trainer.progress.earlier + trainer.progress.epoch, n_parameters, ended)


def last_stage(
    progress: Progress, n_stages: int, metric: str
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """Return the best validation value of the last of the stages, and its curve: epoch, value."""
    points = (point for point in progress.curve if point.get("stage", 0) == n_stages - 1)
    is_reached = progress.stage >= n_stages - 1 and math.isfinite(progress.best)
    return (
        progress.best if is_reached else None,
        tuple((int(point["epoch"]), float(point[metric])) for point in points),
    )
