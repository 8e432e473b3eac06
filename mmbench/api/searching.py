"""Search settings, and read what searches found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbench.api.arguments import Folder, Names, data_folder, datasets_of, names_of, plain, results_folder
from mmbench.api.running import chosen_trackers
from mmbench.api.watching import Progress, watchers_of
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.reporting.studies import Study, stored_studies
from mmbench.runs.request import choose_datasets, choose_models
from mmbench.runs.workers import find_backend
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.lines import StudyLines
from mmbench.tuning.request import make_search, plan_studies
from mmbench.tuning.study import run_study


def tune(
    models: Names,
    *,
    datasets: str | Prepared | Sequence[str | Prepared] | None = None,
    trials: int | None = None,
    hours: float | None = None,
    sampler: str = "tpe",
    space: str | Path = "shared",
    settings: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds_per_trial: int = 1,
    prune: bool = True,
    jobs: int = 1,
    backend: str = "local",
    address: str | None = None,
    slurm: Mapping[str, Any] | None = None,
    device: str = "auto",
    track: Names | None = None,
    data_dir: Folder = None,
    results_dir: Folder = None,
    progress: Progress = False,
    ended: Callable[[Study], object] = lambda study: None,
) -> list[Study]:
    """Search settings on the validation targets, with the same budget for every model; return a study for each.

    trials, hours  the budget of each model: a number of trials (30 without either), or the time of all its trials
    sampler   "tpe" (needs optuna), "random" or "grid"
    space     "shared", "recipe", or a TOML file with a table [search]
    settings  given to all trials, as in `run`
    search    lists of values by setting, or tables as in a recipe's [search]: {"lr": [0.001, 0.003]}
    slurm     settings of jobs, as in `run`
    track     trackers that hear of each seed of a trial, as in `run`
    ended     is called with each study when its budget is spent

    A study that is stored is continued; no test target is opened. `run(..., tuned=True)` uses the best settings.
    Raises UsageError for wrong names and values, DataError for data and studies that are damaged.
    """
    watchers, requested = watchers_of(progress), names_of(models, "model", example="sasrec")
    if not requested:
        raise UsageError("no model is named; say for example 'sasrec'")
    chosen, trackers = find_backend(backend, address, jobs, plain(slurm or {})), chosen_trackers(track)
    wanted = make_search(
        requested, trials=trials, hours=hours, sampler=sampler, space=space, settings=plain(settings or {}),
        listed=plain(search or {}), epochs=epochs, seeds_per_trial=seeds_per_trial, prune=prune, device=device,
    )  # fmt: skip
    prepared = choose_datasets(datasets_of(datasets), data_folder(data_dir), watchers=watchers)
    studies = []
    for data, planned in plan_studies(wanted, prepared, requested, results_dir=results_folder(results_dir)):
        ledger = Ledger.open(results_folder(results_dir), planned)
        run_study(
            ledger,
            data,
            wanted.budget,
            device=device,
            backend=chosen,
            watching=StudyLines(watchers.say),
            track=trackers,
        )
        studies.append(Study.of(ledger))
        ended(studies[-1])
    return studies


def studies(
    models: Names,
    *,
    datasets: str | Prepared | Sequence[str | Prepared] | None = None,
    data_dir: Folder = None,
    results_dir: Folder = None,
) -> list[Study]:
    """Return the stored studies of models on data sets, whatever was searched and how; nothing is computed.

    Raises UsageError where there is none, DataError for a study that is damaged.
    """
    requested = names_of(models, "model", example="sasrec")
    choose_models(requested, floors=False)  # raises for unknown names
    prepared = choose_datasets(datasets_of(datasets), data_folder(data_dir), watchers=watchers_of(False))
    names = [data.name for data in prepared]
    stored = stored_studies(results_folder(results_dir), names, requested)
    if not stored:
        raise UsageError(
            f"{', '.join(requested)}: no study on {', '.join(names)} is stored; mmbench tune makes them"
        )
    return stored
