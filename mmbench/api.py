"""The Python interface: what the commands `prepare`, `run`, `tune` and `report` call, for scripts and notebooks.

    runs = mmbench.run(["hm4sr", "sasrec"], datasets=["demo"], seeds=3)
    mmbench.report(runs)

Arguments are called as the options of the command line, and errors (mmbench.errors) are its single lines; nothing
ends the process. Nothing is printed unless `progress=True` asks for plain lines on stderr.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbench.arguments import (
    Folder,
    Names,
    check_name,
    data_folder,
    datasets_of,
    names_of,
    one_of,
    plain,
    results_folder,
)
from mmbench.choices import DEFAULT_LISTS, Correction, MaskRule, Rows, SplitName, TestName, Ties
from mmbench.contract.every import findings_of
from mmbench.contract.report import Finding
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.fusion import WEIGHT_KINDS
from mmbench.evaluation.metrics import DEFAULT_METRICS, Metric, as_metrics
from mmbench.features.pipeline import Preparation, PrepareWatcher, prepare_whole
from mmbench.models import registry
from mmbench.nn.score_scales import SCALES
from mmbench.questions import knockout, power, why
from mmbench.reporting import TableRequest, build_table
from mmbench.reporting.labels import is_floor
from mmbench.reporting.protocols import check_planned, keep_current, keep_settings, typed
from mmbench.reporting.recommended import Recommended, recommended
from mmbench.reporting.report import Report
from mmbench.reporting.runs import Runs
from mmbench.reporting.studies import Study, stored_studies
from mmbench.reporting.targets import look_lines, tie_lines
from mmbench.runs.controls import plan_controls
from mmbench.runs.fuse import fuse_runs
from mmbench.runs.loading import check_names, load_runs, without_results
from mmbench.runs.look_log import note_looks
from mmbench.runs.narrator import RunLines
from mmbench.runs.plan import Cell
from mmbench.runs.request import (
    Watchers,
    choose_datasets,
    choose_models,
    in_tie_orders,
    seed_list,
    without_costly_floors,
)  # fmt: skip
from mmbench.runs.schedule import Overrides, execute, finished, plan
from mmbench.runs.store import RunRecord, select
from mmbench.runs.workers import find_backend
from mmbench.runtime import pick_device
from mmbench.training.devices import stack_size
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.lines import StudyLines
from mmbench.tuning.request import make_search, plan_studies
from mmbench.tuning.study import run_study
from mmbench.tuning.tuned import tuned_layers

__all__ = [
    "check", "fuse", "knockout", "load", "power", "prepare", "recommend", "report", "run", "studies", "tune", "why",
]  # fmt: skip

Progress = bool | Watchers  # the command line gives watchers of its own


def prepare(
    dataset: str,
    *,
    raw: Folder = None,
    offline: bool = False,
    force: bool = False,
    protocol: str | None = None,
    ties: str | None = None,
    text: str | None = None,
    image: str | None = None,
    device: str = "auto",
    pictures: bool = True,
    retry_pictures: bool = False,
    private_hosts: bool = False,
    data_dir: Folder = None,
    progress: Progress = False,
) -> Prepared:
    """Return the data set `NAME[@PROTOCOL][@TIES]`, prepared with pictures and features.

    See `mmbench.features.pipeline.Preparation` for the arguments. Raw files and pictures that are missing are
    fetched; what is done already is not done again. Raises UsageError for unknown names, DataError for data that are
    missing or damaged.
    """
    how = Preparation(
        raw=None if raw is None else Path(raw), offline=offline, force=force, protocol=protocol, ties=ties,
        text=text, image=image, device=device, pictures=pictures, retry_pictures=retry_pictures,
        private_hosts=private_hosts,
    )  # fmt: skip
    check_name(dataset, "data set", example="demo")
    return prepare_whole(dataset, data_folder(data_dir), how, watcher=_watchers(progress).preparation)


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
    device: str = "auto",
    stack: str | int = "auto",
    floors: bool = True,
    controls: bool = False,
    lists: int = DEFAULT_LISTS,
    tie_orders: Sequence[str] = (),
    dry_run: bool = False,
    debug: bool = False,
    data_dir: Folder = None,
    results_dir: Folder = None,
    progress: Progress = False,
) -> Runs:
    """Train and evaluate every missing run of models x data sets x seeds; return all of them, finished and failed.

    datasets  prepared data sets; without one the set that was prepared last. The demo prepares itself.
    seeds     how many (3 = 1, 2, 3) or which ([3, 5, 8])
    settings  as `--set`: {"lr": 0.003, "hm4sr.dropout": 0.2}, for all models that have the setting, or for one
    tuned     with the best settings that `mmbench tune` found, those of `study` if it is named; `settings` are stronger
    epochs    the largest number of epochs
    jobs      runs computed at the same time, each in its own process; `backend` and `address`: who computes them
    stack     seeds of one model that are trained as one: a number, "off", or "auto", which stacks on a GPU only
    floors    also run the models of mmbench.choices.FLOORS
    controls  also run what explains away the gain of models that read features (mmbench.runs.controls)
    lists     best items of each user that are stored for the test targets
    tie_orders  orders of equal times, ["file", "random:1"], under each of which the data sets are prepared and run
    dry_run   compute nothing; return the runs that are finished
    debug     raise the first error of a run, with its traceback, instead of storing it as a failed run

    A run that is stored is not computed again, also when a command did it. Raises UsageError for wrong names and
    values, DataError for data that are damaged or out of date.
    """
    watchers = _watchers(progress)
    if not isinstance(lists, int) or lists < 0:
        raise UsageError(f"--lists {lists}: must be a whole number from 0")
    where = find_backend(backend, address, jobs)
    # The workers of a cluster have devices of their own: "auto" does not stack there.
    n_stacked = stack_size(str(stack), pick_device(device) if address is None else "cpu")
    cells = plan_cells(
        models, datasets=datasets, seeds=seeds, settings=settings, tuned=tuned, study=study, epochs=epochs,
        floors=floors, controls=controls, tie_orders=tie_orders, data_dir=data_dir, results_dir=results_dir,
        watchers=watchers,
    )  # fmt: skip
    if dry_run:
        return Runs(_stored(cells, watchers))
    records = execute(
        cells, watcher=watchers.run, device=device, backend=where, stack=n_stacked, debug=debug, lists=lists
    )
    return Runs(records)


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
    data_dir: Folder = None,
    results_dir: Folder = None,
    watchers: Watchers,
) -> list[Cell]:
    """Return the cells that `run` computes for these arguments; UsageError and DataError as there."""
    asked = list(map(registry.canonical, names_of(models, "model", example="sasrec")))
    if not asked:
        raise UsageError("no model is named; say for example 'sasrec'")
    overrides, numbers = Overrides.of(plain(settings or {}), epochs=epochs), seed_list(seeds)
    names = choose_models(asked, floors=floors)
    prepared = choose_datasets(datasets_of(datasets), data_folder(data_dir), watchers=watchers)
    if tie_orders:
        prepared = in_tie_orders(prepared, tie_orders, data_folder(data_dir), watchers=watchers)
    if tuned or study is not None:
        layers = tuned_layers(
            results_folder(results_dir), prepared, names, asked=asked, overrides=overrides, study_id=study
        )
        overrides = replace(overrides, tuned=layers)
    cells = plan(
        results_dir=results_folder(results_dir),
        datasets=prepared,
        models=names,
        seeds=numbers,
        overrides=overrides,
    )
    if controls:
        cells = plan_controls(
            cells, results_dir=results_folder(results_dir), datasets=prepared, models=asked, seeds=numbers,
            overrides=overrides,
        )  # fmt: skip
    cells = without_costly_floors(cells, prepared, asked=asked, say=watchers.say)
    check_planned(cells)
    return cells


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
    device: str = "auto",
    data_dir: Folder = None,
    results_dir: Folder = None,
    progress: Progress = False,
    ended: Callable[[Study], object] = lambda study: None,
) -> list[Study]:
    """Search settings on the validation targets, with one budget for every model; return a study for each.

    trials, hours  the budget of each model: a number of trials (30 without either), or the time of all its trials
    sampler   "tpe" (needs optuna), "random" or "grid"
    space     "shared", "recipe", or a TOML file with a table [search]
    settings  given to all trials, as in `run`
    search    lists of values by setting, or tables as in a recipe's [search]: {"lr": [0.001, 0.003]}
    ended     is called with each study when its budget is spent

    A study that is stored is continued; no test target is opened. `run(..., tuned=True)` uses the best settings.
    Raises UsageError for wrong names and values, DataError for data and studies that are damaged.
    """
    watchers, asked = _watchers(progress), names_of(models, "model", example="sasrec")
    if not asked:
        raise UsageError("no model is named; say for example 'sasrec'")
    where = find_backend(backend, address, jobs)
    wanted = make_search(
        asked, trials=trials, hours=hours, sampler=sampler, space=space, settings=plain(settings or {}),
        listed=plain(search or {}), epochs=epochs, seeds_per_trial=seeds_per_trial, prune=prune,
    )  # fmt: skip
    prepared = choose_datasets(datasets_of(datasets), data_folder(data_dir), watchers=watchers)
    studies = []
    for data, planned in plan_studies(wanted, prepared, asked, results_dir=results_folder(results_dir)):
        ledger = Ledger.open(results_folder(results_dir), planned)
        run_study(
            ledger, data, wanted.budget, device=device, backend=where, watching=StudyLines(watchers.say)
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
    asked = names_of(models, "model", example="sasrec")
    choose_models(asked, floors=False)  # names that are none
    prepared = choose_datasets(datasets_of(datasets), data_folder(data_dir), watchers=_watchers(False))
    names = [data.name for data in prepared]
    stored = stored_studies(results_folder(results_dir), names, asked)
    if not stored:
        raise UsageError(
            f"{', '.join(asked)}: no study on {', '.join(names)} is stored; mmbench tune makes them"
        )
    return stored


def fuse(
    runs: Sequence[RunRecord],
    *,
    scale: str = "zscore",
    weights: str = "validation",
    device: str = "auto",
    lists: int = DEFAULT_LISTS,
    data_dir: Folder = None,
    results_dir: Folder = None,
) -> RunRecord:
    """Sum the scores of finished runs of one protocol, on one scale; store the fusion as a run and return it.

    scale    "raw", "zscore", "minmax", "prob", "logit" or "rank"
    weights  "validation" (the best in steps of .1), "equal", "learned" or "gated" (by user); never by test targets

    Raises UsageError for runs that do not share data and protocol, RunError for one that has not finished.
    """
    return fuse_runs(
        list(runs), results_dir=results_folder(results_dir), data_dir=data_folder(data_dir),
        scale=one_of(scale, SCALES, "scale"), weights=one_of(weights, WEIGHT_KINDS, "weights"), device=device,
        lists=lists,
    )  # fmt: skip


def load(
    *,
    datasets: Names | None = None,
    models: Names | None = None,
    settings: Mapping[str, Any] | None = None,
    current_data: bool = False,
    data_dir: Folder = None,
    results_dir: Folder = None,
) -> Runs:
    """Return the stored runs, by default all.

    settings      only runs with these settings or fields of the protocol; a list of values: one of them
    current_data  only runs on the data as they are prepared now

    Runs that cannot be read are named in `left_out`. Raises UsageError for names and values that no run has,
    DataError when no run that was asked for can be read.
    """
    folder = results_folder(results_dir)
    records, left_out = load_runs(
        folder,
        datasets=names_of(datasets, "data set", example="demo"),
        models=names_of(models, "model", example="sasrec"),
    )
    if current_data:
        records, lost = keep_current(records, data_folder(data_dir))
        left_out += lost
    wanted = {key: typed(value) for key, value in plain(settings or {}).items()}
    filters = [f"{key}={' or '.join(values)}" for key, values in wanted.items()]
    filters += ["the data as prepared now"] * current_data
    return Runs(keep_settings(records, wanted), left_out=left_out, filters=filters)


def report(
    runs: Iterable[RunRecord],
    *,
    datasets: Names | None = None,
    models: Names | None = None,
    metrics: str | Metric | Iterable[str | Metric] = DEFAULT_METRICS,
    compare: str | None = None,
    test: TestName = "t",
    correction: Correction = "holm",
    split: SplitName = "test",
    ties: Ties = "expected",
    mask_seen: MaskRule | None = None,
    unequal_budgets: bool = False,
    sort: str = "",
    top: int = 0,
    floors: bool = True,
    rows: Rows = "all",
    data_dir: Folder = None,
) -> Report:
    """Return the table of runs: mean and deviation over seeds, best and second, tests with their terms.

    datasets, models  only these, in this order
    compare           the row that is tested against all others; by default the best of each column
    test              t, wilcoxon and sign-flip ask about other seeds, users about other users
    correction        for many comparisons, over the whole table
    mask_seen         the rule for items that a user already has; by default that of each run's selection
    unequal_budgets   give stars also where the rows were tuned with different budgets
    sort              the metric that orders the rows, best first, or "name"
    top               print so many rows besides the floors; tests and marks are about all
    floors            with the sanity baselines
    rows              "recipe": only rows with the recipe's settings; "tuned": with tuned ones; "both": side by side
    data_dir          where the prepared data lie: a table of test targets is noted beside them, see docs/trust.md

    Raises UsageError for names that no run has and when there is no run, ProtocolMismatchError for runs that cannot
    share a table.
    """
    sets, names = names_of(datasets, "data set", example="demo"), names_of(models, "model", example="sasrec")
    request = TableRequest(
        metrics=as_metrics(metrics),
        split=split, ties=ties, mask_seen=mask_seen, test=test, correction=correction, compare=compare,
        datasets=tuple(sets), models=tuple(names), unequal_budgets=unequal_budgets, rows=rows,
        sort=sort, top=top,
    )  # fmt: skip
    records = list(runs)
    check_names(records, datasets=sets, models=names, where="among these runs")
    chosen = select(records, datasets=sets, models=names)
    chosen = [record for record in chosen if floors or not is_floor(record.model)]
    if records and not chosen:
        raise without_results(sets, names) if floors else UsageError("all of these runs are of floors")
    table = build_table(chosen, request)
    filters = runs.filters if isinstance(runs, Runs) else ()
    if filters:  # else nobody could tell from the table that runs were chosen
        caption = ("Runs", f"Only runs with {', '.join(filters)}.")
        table = replace(table, caption=(*table.caption, caption))
    if split == "test":
        folder = data_folder(data_dir)
        lines = [*tie_lines(chosen, data_dir=folder), *look_lines(chosen, data_dir=folder)]
        table = replace(table, caption=(*table.caption, *lines))
    return Report(table)


def recommend(
    run: RunRecord,
    user: str,
    k: int = 10,
    *,
    mask_seen: MaskRule | None = None,
    data_dir: Folder = None,
) -> Recommended:
    """Return a user's history before the test target and the k best items that a finished run has for it.

    user       the id in the raw data
    mask_seen  "none" or "input": items that may not be recommended; by default the rule of the run's selection

    Raises UsageError for a user without a test target and where fewer items are stored, RunError for data that changed.
    """
    check_name(user, "user", example="U0001")
    shown = recommended(run, user, k=k, data_dir=data_folder(data_dir), rule=mask_seen)
    note_looks([run], data_dir=data_folder(data_dir))
    return shown


def check(
    models: Names,
    *,
    dataset: str | Prepared | None = None,
    canary: bool = False,
    data_dir: Folder = None,
) -> Iterator[Finding]:
    """Yield what the checks of mmbench.contract say of models, one finding after the other.

    dataset  whose catalogue, features and first users the models get; by default a toy data set
    canary   train for a few epochs on targets that nobody can predict, instead of the checks

    A finding's `is_fault` says that something is wrong, its `advice` what to do. Raises UsageError for unknown names.
    """
    names = names_of(models, "model", example="sasrec")
    if not names:
        raise UsageError("no model is named; say for example 'sasrec'")
    for name in names:
        registry.find(name)
    folder = data_folder(data_dir)
    prepared = None if dataset is None else choose_datasets([dataset], folder, watchers=_watchers(False))[0]
    return findings_of(names, prepared, canary=canary)


# -- who hears of it ---------------------------------------------------------------------------------------


def _stored(cells: Sequence[Cell], watchers: Watchers) -> Iterable[RunRecord]:
    """Yield the records of the finished cells and tell of all."""
    for cell in cells:
        record = finished(cell)
        watchers.run.planned(cell, record)
        if record is not None:
            yield record


def _watchers(progress: Progress) -> Watchers:
    if isinstance(progress, Watchers):
        return progress
    say: Callable[[str], object] = _print if progress else lambda text: None
    return Watchers(say=say, warn=_warn, preparation=PrepareWatcher(say), run=RunLines(say))


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
