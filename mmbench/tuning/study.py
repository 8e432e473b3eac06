"""A study: trials of one model on one data set until the budget is spent, by one process or several."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.data.store import Prepared, open_path
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.runs.plan import make_cell
from mmbench.runs.schedule import default_threads
from mmbench.runtime import pick_device, prepare_process
from mmbench.settings.config import Layer, Origin, check_keys, check_value
from mmbench.settings.recipe import Searched
from mmbench.training.progress import EpochReport
from mmbench.tuning.ledger import Ledger, Plan, Trial, space_content
from mmbench.tuning.sampling import SamplerName
from mmbench.tuning.space import Dimension, Kind, space_of
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

    @property
    def text(self) -> str:
        return f"{self.trials} trials" if self.trials is not None else f"{(self.seconds or 0) / 3600:g} h"


def plan_study(
    prepared: Prepared,
    model: str,
    *,
    results_dir: Path,
    budget: Budget,
    sampler: SamplerName = "tpe",
    kind: Kind = "shared",
    settings: Mapping[str, Any] | None = None,
    lists: Mapping[str, list[Any]] | None = None,
    n_seeds: int = 1,
    prunes: bool = True,
) -> Plan:
    """Resolve what a study searches.

    settings  given to all trials; a searched key among them is searched no more
    lists     values that replace what the recipe tries, or add a setting to the search

    UsageError for unknown settings and values, a model that has nothing to search, and one selected on test items.
    """
    entry = registry.find(model)
    fixed, own_lists = dict(settings or {}), dict(lists or {})
    check_keys([*fixed, *own_lists], entry.known_settings(), where=model)
    values = entry.values(prepared.name)
    space = {
        key: one for key, one in space_of(entry, kind, dataset=prepared.name).items() if key not in fixed
    }
    for key, tried in own_lists.items():
        own = check_value(entry.class_of(key), key, values[key], where=model)
        checked = [check_value(entry.class_of(key), key, value, where=f"{model} (--set)") for value in tried]
        searched = Searched(values=tuple(checked), source="decision: given with --set")
        space[key] = Dimension(key, own, searched.including(own))
    if not space:
        raise UsageError(
            f"{model} has nothing to search: its recipe has no [search]; give values with --set KEY=a,b,c"
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
        protocol=cell.protocol, features=cell.feature_identities,
    )  # fmt: skip


class Watching:
    """What a live view hears of a study."""

    def began(self, number: int, values: Mapping[str, Any]) -> None: ...
    def epoch(self, number: int, report: EpochReport) -> None: ...
    def ended(self, trial: Trial) -> None: ...


def run_study(
    ledger: Ledger,
    prepared: Prepared,
    budget: Budget,
    *,
    device: str = "auto",
    jobs: int = 1,
    watching: Watching | None = None,
) -> list[Trial]:
    """Compute trials until the budget is spent; return all of the study, in the order of their numbers."""
    if jobs == 1:
        prepare_process(default_threads(1))
        work(ledger, prepared, budget, device=pick_device(device), watching=watching or Watching())
    else:
        _work_in_processes(
            ledger, prepared, budget, device=device, jobs=jobs, watching=watching or Watching()
        )
    return sorted(ledger.trials(), key=lambda trial: trial.number)


def work(ledger: Ledger, prepared: Prepared, budget: Budget, *, device: str, watching: Watching) -> None:
    """Compute one trial after another until there are enough."""
    while True:
        trials = ledger.trials()
        spent = sum(trial.seconds for trial in trials)
        if budget.seconds is not None and spent >= budget.seconds:
            return
        with ledger.claim(budget.trials) as claimed:
            if claimed is None:
                return
            watching.began(claimed.number, claimed.values)
            trial = run_trial(
                ledger.plan, prepared, claimed, others=trials, device=device, is_over=_over(budget, spent),
                on_epoch=lambda report, number=claimed.number: watching.epoch(number, report),  # type: ignore[misc]
            )  # fmt: skip
            ledger.record(trial)
        watching.ended(trial)


def _over(budget: Budget, spent: float) -> Callable[[], bool]:
    began = time.perf_counter()
    limit = budget.seconds
    return lambda: limit is not None and spent + time.perf_counter() - began >= limit


def _work_in_processes(
    ledger: Ledger, prepared: Prepared, budget: Budget, *, device: str, jobs: int, watching: Watching
) -> None:
    """Let several processes share a study's trials, and tell of those that end."""
    from joblib import Parallel, delayed

    environment = {key: value for key, value in os.environ.items() if key.startswith("MMBENCH_")}
    known = {trial.number for trial in ledger.trials()}
    is_done = threading.Event()

    def tell() -> None:
        while not is_done.wait(POLL_S):
            tell_new()

    def tell_new() -> None:
        for trial in ledger.trials():
            if trial.number not in known:
                known.add(trial.number)
                watching.ended(trial)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        Parallel(n_jobs=jobs, backend="loky")(
            delayed(_worker)(
                ledger.path.absolute(), prepared.path.absolute(), budget, device, jobs, environment
            )
            for _ in range(jobs)
        )
    finally:
        is_done.set()
        teller.join()
        tell_new()


def _worker(
    study: Path, data: Path, budget: Budget, device: str, jobs: int, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    prepare_process(default_threads(jobs))
    work(Ledger.read(study), open_path(data), budget, device=pick_device(device), watching=Watching())
