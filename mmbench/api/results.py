"""Stored runs, and tables and lists made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mmbench.api.arguments import Folder, Names, check_name, data_folder, names_of, plain, results_folder
from mmbench.choices import Correction, MaskRule, Rows, SplitName, TestName, Ties
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import DEFAULT_METRICS, Metric, as_metrics, default_metrics
from mmbench.reporting import TableRequest, build_table
from mmbench.reporting.labels import is_floor
from mmbench.reporting.protocols import keep_current, keep_settings, typed
from mmbench.reporting.recommended import Recommended, recommended
from mmbench.reporting.report import Report
from mmbench.reporting.runs import Runs
from mmbench.reporting.targets import look_lines, read_lines, repeat_lines, tie_lines
from mmbench.runs.loading import check_names, load_runs, without_results
from mmbench.runs.look_log import note_looks
from mmbench.runs.store import RunRecord, select


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

    settings      only runs with these settings or fields of the protocol; a list of values: any of them
    current_data  only runs on the data as they are prepared now

    Runs that cannot be read are named in `left_out`. Raises UsageError for names and values that no run has,
    DataError when none of the chosen runs can be read.
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
    """Return the table of runs: mean and deviation over seeds, best and second, significance tests.

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
    data_dir          where the prepared data lie: a table of test targets is noted beside them, see docs/trust.md, and
                      metrics of lists such as "Novelty@10" read them

    Raises UsageError for names that no run has and when there is no run, ProtocolMismatchError for runs that cannot
    share a table.
    """
    sets, names = names_of(datasets, "data set", example="demo"), names_of(models, "model", example="sasrec")
    records = list(runs)
    check_names(records, datasets=sets, models=names, where="among these runs")
    chosen = select(records, datasets=sets, models=names)
    chosen = [record for record in chosen if floors or not is_floor(record.model)]
    if records and not chosen:
        raise without_results(sets, names) if floors else UsageError("all of these runs are of floors")
    wanted = as_metrics(metrics)
    if wanted == DEFAULT_METRICS and chosen:
        wanted = default_metrics(min(record.n_items for record in chosen))
    request = TableRequest(
        metrics=wanted,
        split=split, ties=ties, mask_seen=mask_seen, test=test, correction=correction, compare=compare,
        datasets=tuple(sets), models=tuple(names), unequal_budgets=unequal_budgets, rows=rows,
        sort=sort, top=top, data_dir=data_folder(data_dir),
    )  # fmt: skip
    table = build_table(chosen, request)
    filters = runs.filters if isinstance(runs, Runs) else ()
    if filters:  # else nobody could tell from the table that runs were chosen
        caption = ("Runs", f"Only runs with {', '.join(filters)}.")
        table = replace(table, caption=(*table.caption, caption))
    folder = data_folder(data_dir)
    table = replace(table, caption=(*table.caption, *read_lines(chosen, wanted, split, data_dir=folder)))
    if split == "test":
        lines = [
            *tie_lines(chosen, data_dir=folder),
            *repeat_lines(chosen, mask_seen, data_dir=folder),
            *look_lines(chosen, data_dir=folder),
        ]
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
