"""Run models on prepared data sets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmbench.api.arguments import (
    Folder,
    Names,
    data_folder,
    datasets_of,
    names_of,
    plain,
    results_folder,
)
from mmbench.api.watching import Progress, watchers_of
from mmbench.choices import DEFAULT_LISTS
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.reporting.protocols import check_planned
from mmbench.reporting.runs import Runs
from mmbench.runs.controls import plan_controls
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.request import (
    choose_datasets,
    choose_models,
    in_tie_orders,
    seed_list,
    without_costly_floors,
)
from mmbench.runs.schedule import execute, plan, stored_cells
from mmbench.runs.store import RunRecord
from mmbench.runs.watchers import Watchers
from mmbench.runs.workers import find_backend
from mmbench.runtime import pick_device
from mmbench.tracking.energy_accounts import check_country
from mmbench.tracking.naming import check_trackers
from mmbench.training.devices import stack_size
from mmbench.tuning.tuned import tuned_layers


def run(
    models: Names,
    *,
    datasets: str | Prepared | Sequence[str | Prepared] | None = None,
    seeds: int | Sequence[int] = 1,
    settings: Mapping[str, Any] | None = None,
    tuned: bool = False,
    study: str | None = None,
    epochs: int | None = None,
    jobs: int = 1,
    backend: str = "local",
    address: str | None = None,
    slurm: Mapping[str, Any] | None = None,
    device: str = "auto",
    stack: str | int = "auto",
    floors: bool = True,
    controls: bool = False,
    lists: int = DEFAULT_LISTS,
    tie_orders: Sequence[str] = (),
    track: Names | None = None,
    energy: str | None = None,
    dry_run: bool = False,
    debug: bool = False,
    data_dir: Folder = None,
    results_dir: Folder = None,
    progress: Progress = False,
) -> Runs:
    """Train and evaluate every missing run of models x data sets x seeds; return all of them, finished and failed.

    datasets  prepared data sets; by default the set that was prepared last. The demo prepares itself.
    seeds     how many (3 = 1, 2, 3) or which ([3, 5, 8])
    settings  as `--set`: {"lr": 0.003, "hm4sr.dropout": 0.2}, for all models that have the setting, or for this model
    tuned     use the best settings that `mmbench tune` found, or those of `study`; `settings` override them
    epochs    the largest number of epochs
    jobs      runs computed at the same time, each in its own process; `backend` and `address`: who computes them
    slurm     settings of the jobs of `backend="slurm"`: {"partition": "gpu", "timeout_min": 120}
    stack     seeds of a model that are trained together: a number, "off", or "auto", which stacks on a GPU only
    floors    also run the models of mmbench.choices.FLOORS
    controls  also run what may explain the gain of models that read features (mmbench.runs.controls)
    lists     best items of each user that are stored for the test targets
    tie_orders  orders of equal times, ["file", "random:1"], under each of which the data sets are prepared and run
    track     trackers that hear of the runs: "tensorboard", "wandb", "mlflow", or "module:Class" (mmbench.tracking)
    energy    measure the energy of each run with CodeCarbon; the code of the country whose electricity is used, "DEU"
    dry_run   compute nothing; return the runs that are finished
    debug     raise the first error of a run, with its traceback, instead of storing it as a failed run

    A run that is stored is not computed again, whoever computed it. Raises UsageError for wrong names and
    values, DataError for data that are damaged or out of date.
    """
    watchers = watchers_of(progress)
    if not isinstance(lists, int) or lists < 0:
        raise UsageError(f"--lists {lists}: must be a whole number from 0")
    chosen, trackers = find_backend(backend, address, jobs, plain(slurm or {})), chosen_trackers(track)
    country = check_country(energy) if energy is not None else ""
    # The workers of a cluster have devices of their own: "auto" does not stack there.
    is_here = address is None and chosen.kind != "slurm"
    n_stacked = stack_size(str(stack), pick_device(device) if is_here else "cpu")
    cells = plan_cells(
        models, datasets=datasets, seeds=seeds, settings=settings, tuned=tuned, study=study, epochs=epochs,
        floors=floors, controls=controls, tie_orders=tie_orders, device=device, data_dir=data_dir,
        results_dir=results_dir, watchers=watchers,
    )  # fmt: skip
    if dry_run:
        return Runs(_stored(cells, watchers))
    cells = [replace(cell, track=trackers, energy=country) for cell in cells]
    records = execute(
        cells, watcher=watchers.run, device=device, backend=chosen, stack=n_stacked, debug=debug, lists=lists
    )
    return Runs(records)


def chosen_trackers(names: Names | None) -> tuple[str, ...]:
    """Return the trackers of these names, each once; UsageError for an unavailable one."""
    trackers = tuple(dict.fromkeys(names_of(names, "tracker", example="tensorboard")))
    check_trackers(trackers)
    return trackers


def plan_cells(
    models: Names,
    *,
    datasets: str | Prepared | Sequence[str | Prepared] | None = None,
    seeds: int | Sequence[int] = 1,
    settings: Mapping[str, Any] | None = None,
    tuned: bool = False,
    study: str | None = None,
    epochs: int | None = None,
    floors: bool = True,
    controls: bool = False,
    tie_orders: Sequence[str] = (),
    device: str = "auto",
    data_dir: Folder = None,
    results_dir: Folder = None,
    watchers: Watchers,
) -> list[Cell]:
    """Return the cells that `run` computes for these arguments; UsageError and DataError as there."""
    requested = list(map(registry.canonical, names_of(models, "model", example="sasrec")))
    if not requested:
        raise UsageError("no model is named; say for example 'sasrec'")
    overrides = Overrides.of(plain(settings or {}), epochs=epochs, device=device)
    numbers = seed_list(seeds)
    names = choose_models(requested, floors=floors)
    prepared = choose_datasets(datasets_of(datasets), data_folder(data_dir), watchers=watchers)
    if tie_orders:
        prepared = in_tie_orders(prepared, tie_orders, data_folder(data_dir), watchers=watchers)
    if tuned or study is not None:
        layers = tuned_layers(
            results_folder(results_dir), prepared, names, requested=requested, overrides=overrides, study_id=study
        )  # fmt: skip
        overrides = replace(overrides, tuned=layers)
    cells = plan(
        results_dir=results_folder(results_dir), datasets=prepared, models=names, seeds=numbers, overrides=overrides
    )  # fmt: skip
    if controls:
        cells = plan_controls(
            cells, results_dir=results_folder(results_dir), datasets=prepared, models=requested, seeds=numbers,
            overrides=overrides,
        )  # fmt: skip
    cells = without_costly_floors(cells, prepared, requested=requested, say=watchers.say)
    check_planned(cells)
    return cells


def _stored(cells: Sequence[Cell], watchers: Watchers) -> Iterable[RunRecord]:
    """Yield the records of the finished cells, and report every cell to the watchers."""
    for cell, record, _ in stored_cells(cells):
        watchers.run.planned(cell, record)
        if record is not None:
            yield record
