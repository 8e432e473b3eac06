"""A study: trials of a model on a data set until the budget is spent, by one process or several."""

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmbench.data.store import Prepared, open_path
from mmbench.errors import RunError, UsageError, counted
from mmbench.models import registry
from mmbench.runs.plan import make_cell
from mmbench.runs.schedule import DIED, default_threads, shipped_environment
from mmbench.runs.workers import MAX_TRIES, Backend, dealt_device, together
from mmbench.runtime import pick_device, prepare_process
from mmbench.settings.config import Layer, Origin, check_keys
from mmbench.training.progress import EpochReport
from mmbench.tuning.ledger import Claimed, Ledger
from mmbench.tuning.records import Plan, Trial, space_content
from mmbench.tuning.sampling import SamplerName
from mmbench.tuning.space import Dimension, Kind, as_searched, checked_dimension, space_of
from mmbench.tuning.trial import check_sealed, run_trial, trial_seeds

POLL_S = 0.5


@dataclass(frozen=True)
class Budget:
    """How much is spent on each model: a number of trials, or seconds of all trials together."""

    trials: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.trials is None) == (self.seconds is None):
            raise UsageError("a budget is a number of trials or a time; give --trials or --hours")
        if self.trials is not None and (not isinstance(self.trials, int) or self.trials < 1):
            raise UsageError(f"--trials {self.trials}: must be a whole number from 1")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"--hours {self.seconds / 3600:g}: give a finite time above 0")

    @property
    def text(self) -> str:
        return (
            counted(self.trials, "trial") if self.trials is not None else f"{(self.seconds or 0) / 3600:g} h"
        )


def plan_study(
    prepared: Prepared,
    model: str,
    *,
    results_dir: Path,
    budget: Budget,
    sampler: SamplerName = "tpe",
    kind: Kind = "shared",
    settings: Mapping[str, Any] | None = None,
    lists: Mapping[str, Any] | None = None,
    n_seeds: int = 1,
    prunes: bool = True,
) -> Plan:
    """Resolve what a study searches.

    settings  given to all trials; a searched key among them is searched no more
    lists     what replaces the recipe's search of a setting, or adds one: a list of values, or a table as in [search]

    UsageError for unknown settings and values, a recipe that does not fit its model, a model that has nothing to
    search, and a model selected on test items.
    """
    entry = registry.find(model)
    registry.check_recipe(registry.find(entry.name))
    fixed, listed = dict(settings or {}), dict(lists or {})
    check_keys([*fixed, *listed], entry.known_settings(), where=model)
    space = _space(entry, prepared, kind, fixed, listed)
    if not space:
        raise UsageError(
            f"{model} has nothing to search: its recipe or --space lists no setting that is not given to all trials; "
            "give values with --set KEY=a,b,c"
        )
    cell = make_cell(
        results_dir=results_dir, prepared=prepared, model=model, seed=trial_seeds(1)[0],
        overrides=[Layer(Origin.user, fixed)] if fixed else [],
    )  # fmt: skip
    check_sealed(cell)
    return Plan(
        dataset=prepared.name, model=model, metric=str(cell.settings["selection_metric"].value), sampler=sampler,
        unit="trials" if budget.trials is not None else "seconds", n_seeds=n_seeds, prunes=prunes,
        space=space_content(dict(sorted(space.items()))), fixed={key: cell.settings[key].value for key in fixed},
        protocol=cell.protocol, features=cell.input_identities,
    )  # fmt: skip


def _space(
    entry: registry.ModelEntry,
    prepared: Prepared,
    kind: Kind,
    fixed: Mapping[str, Any],
    listed: Mapping[str, Any],
) -> dict[str, Dimension]:
    space, values = space_of(entry, kind, dataset=prepared.name), entry.values(prepared.name)
    where = f"{entry.name} (what is searched)"
    for key, content in listed.items():
        searched = as_searched(key, content, where=where)
        space[key] = checked_dimension(entry, key, searched, values[key], where=where)
    return {key: dimension for key, dimension in space.items() if key not in fixed}


class Watching:
    """A live view's callbacks about a study."""

    def opened(self, ledger: Ledger, budget: Budget, jobs: int) -> None: ...
    def began(self, number: int, values: Mapping[str, Any]) -> None: ...
    def epoch(self, number: int, report: EpochReport) -> None: ...
    def ended(self, trial: Trial) -> None: ...


def run_study(
    ledger: Ledger,
    prepared: Prepared,
    budget: Budget,
    *,
    device: str = "auto",
    backend: Backend | None = None,
    watching: Watching | None = None,
    track: tuple[str, ...] = (),
) -> list[Trial]:
    """Compute trials until the budget is spent; return all of the study, in the order of their numbers.

    track  names of the trackers that hear of each seed of a trial
    """
    backend, watching = backend or Backend(), watching or Watching()
    watching.opened(ledger, budget, backend.jobs)
    if backend.kind == "local" and backend.jobs == 1:
        prepare_process(default_threads(1))
        work(ledger, prepared, budget, device=pick_device(device), watching=watching, track=track)
    elif _is_left(ledger, budget):  # a cluster is not started for nothing
        _work_in_processes(ledger, prepared, budget, device, backend, watching, track)
    return sorted(ledger.trials(), key=lambda trial: trial.number)


def _is_left(ledger: Ledger, budget: Budget) -> bool:
    if budget.trials is not None:
        return len(ledger.trials()) < budget.trials
    return ledger.spent() < (budget.seconds or 0)


def work(
    ledger: Ledger,
    prepared: Prepared,
    budget: Budget,
    *,
    device: str,
    watching: Watching,
    is_worker: bool = False,
    only_begun: bool = False,
    track: tuple[str, ...] = (),
) -> None:
    """Compute trials until the budget is spent, or only those that workers did not give back."""
    while budget.seconds is None or ledger.spent() < budget.seconds:
        with ledger.claim(budget.trials, is_worker=is_worker, only_begun=only_begun) as claimed:
            if claimed is None:
                return
            watching.began(claimed.number, claimed.values)
            trial = _compute(ledger, prepared, claimed, budget, device, watching, track)
            ledger.record(trial)
        watching.ended(trial)


def _compute(
    ledger: Ledger,
    prepared: Prepared,
    claimed: Claimed,
    budget: Budget,
    device: str,
    watching: Watching,
    track: tuple[str, ...],
) -> Trial:
    if claimed.n_begun > MAX_TRIES:
        return Trial(number=claimed.number, status="failed", values=claimed.values, reason=DIED)
    began = time.perf_counter()

    def elapsed() -> float:
        return claimed.earlier + time.perf_counter() - began

    def on_epoch(report: EpochReport) -> None:
        watching.epoch(claimed.number, report)
        ledger.note_seconds(claimed.number, elapsed())

    def is_over() -> bool:
        return (
            budget.seconds is not None and ledger.spent(without=claimed.number) + elapsed() >= budget.seconds
        )

    return run_trial(
        ledger.plan, prepared, claimed, others=ledger.trials(), device=device, elapsed=elapsed, is_over=is_over,
        on_epoch=on_epoch, track=track,
    )  # fmt: skip


# -- several processes ------------------------------------------------------------------------------------


def _work_in_processes(
    ledger: Ledger,
    prepared: Prepared,
    budget: Budget,
    device: str,
    backend: Backend,
    watching: Watching,
    track: tuple[str, ...],
) -> None:
    """Let several processes share a study's trials, and report those that end.

    When a worker dies, the trials that were begun are computed by a single worker, so that the trial that kills its
    workers takes no other trial with it again; it fails when two workers died of it.
    """
    ledger.forget_marks()
    begin = partial(
        _worker,
        ledger.path.absolute(),
        prepared.path.absolute(),
        budget,
        device,
        environment=shipped_environment(),
        track=track,
    )
    with _reported(ledger, watching):
        n_ended = -1
        while not together(partial(begin, jobs=backend.jobs), backend, backend.jobs):
            if len(ledger.trials()) == n_ended:
                raise RunError(
                    f"the {backend.kind} workers died, and no trial ended; the same command resumes them"
                )
            n_ended = len(ledger.trials())
            for _ in range((MAX_TRIES + 1) * len(ledger.begun())):
                together(partial(begin, jobs=1, only_begun=True), backend, 1)
    ledger.tidy()


@contextmanager
def _reported(ledger: Ledger, watching: Watching) -> Iterator[None]:
    """Report the trials that other processes end."""
    known = {trial.number for trial in ledger.trials()}
    is_done = threading.Event()

    def tell() -> None:
        for trial in ledger.trials():
            if trial.number not in known:
                known.add(trial.number)
                watching.ended(trial)

    def watch() -> None:
        while not is_done.wait(POLL_S):
            tell()

    teller = threading.Thread(target=watch, daemon=True)
    teller.start()
    try:
        yield
    finally:
        is_done.set()
        teller.join()
        tell()


def _worker(
    study: Path,
    data: Path,
    budget: Budget,
    device: str,
    *,
    environment: dict[str, str],
    jobs: int,
    only_begun: bool = False,
    track: tuple[str, ...] = (),
) -> None:
    os.environ.update(environment)
    prepare_process(default_threads(jobs))
    with dealt_device(device) as chosen:
        work(
            Ledger.read(study), open_path(data), budget, device=pick_device(chosen), watching=Watching(),
            is_worker=True, only_begun=only_begun, track=track,
        )  # fmt: skip
