"""`mmbench runs`: the stored runs, a run in full, and their removal."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli import complete
from mmbench.cli.shape import Group
from mmbench.cli.state import State
from mmbench.cli.words import filters
from mmbench.errors import RunError, UsageError, counted, suggest

if TYPE_CHECKING:
    from mmbench.evaluation.metrics import Metric
    from mmbench.runs.inventory import StoredRun
    from mmbench.runs.store import RunRecord

SHOWN_METRICS = ("NDCG@10", "MRR@10", "HR@10")

runs_app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    help="Stored runs: list, show and remove them.",
    epilog="""\b
Examples:
  mmbench runs --model hm4sr --state finished --columns run,lr,HR@20,age
  mmbench runs show 83a48b2/1
  mmbench runs prune --failed --older 30""",
)

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="As mmbench runs shows it (83a48b2/1, or 83a48b2 for all seeds), or a folder.",
        autocompletion=complete.runs,
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Only this model; repeatable.", autocompletion=complete.models),
]
DatasetOption = Annotated[
    list[str] | None, typer.Option("--dataset", "-d", help="Only this data set; repeatable.")
]
OlderOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="DAYS", help="Only runs that ended so many days ago or earlier."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", show_default=" ".join(SHOWN_METRICS), help="A metric to show; repeatable."),
]


def register(app: typer.Typer) -> None:
    app.add_typer(runs_app, name="runs")


@runs_app.callback()
def list_runs(
    ctx: typer.Context,
    model: ModelOption = None,
    dataset: DatasetOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Only runs with this setting; repeatable."),
    ] = None,
    state_: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only runs that are finished, failed, running, interrupted or unreadable; repeatable.",
        ),
    ] = None,
    older: OlderOption = None,
    newer: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only runs that ended in the last DAYS days.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            show_default="run,data set,model,state,time,valid NDCG@10,age,set",
            help="What to show: also seed, epochs, best, reason, energy, parameters, device, code, size, path, "
            "any setting, any metric (valid HR@20; HR@20 of the test targets counts as a look at them).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the stored runs, the last changed at the end."""
    if ctx.invoked_subcommand is not None:
        return
    from mmbench.cli.tables import print_looks, print_table
    from mmbench.reporting import run_list

    state: State = ctx.obj
    runs = _choose(state, model, dataset, older)
    runs = run_list.with_settings(_in_states(runs, state_ or []), filters(set_, form="KEY=VALUE"))
    runs = [run for run in runs if newer is None or run.days_old() <= newer]
    if as_json:
        typer.echo(json.dumps(run_list.to_json(runs, _metrics(None, runs)), indent=1))
        print_looks(state, _records(runs), is_aside=True)
        return
    names = [name.strip() for name in columns.split(",")] if columns else run_list.default_columns(runs)
    rows = run_list.table_of(runs, names)
    if not runs:
        state.note(f"no such run in {state.results_dir}")
    if not columns and not any(row[-1] for row in rows):
        names, rows = names[:-1], [row[:-1] for row in rows]  # nobody chose a setting
    if rows:
        print_table(state, names, rows)
    if run_list.shows_test(names, runs):
        print_looks(state, _records(runs), is_aside=True)


@runs_app.command(epilog="Example: mmbench runs show 83a48b2/1")
def show(
    ctx: typer.Context,
    names: Names,
    metric: MetricOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show runs in full: scores, settings that differ from the recipe, training curve, time, notes."""
    from mmbench.cli.tables import print_looks
    from mmbench.reporting import run_page
    from mmbench.runs.inventory import find_runs

    state: State = ctx.obj
    runs = find_runs(state.results_dir, names)
    metrics = _metrics(metric, runs)
    if as_json:
        typer.echo(json.dumps([run_page.to_json(run, metrics) for run in runs], indent=1))
    for index, run in enumerate([] if as_json else runs):
        if index:
            state.out.print()
        for label, text in run_page.page_lines(run, metrics, ascii_only=state.is_ascii_only):
            _print_line(state, label, text)
    print_looks(state, _records(runs), is_aside=True)


def _records(runs: "Iterable[StoredRun]") -> "list[RunRecord]":
    return [run.record for run in runs if run.record is not None]


@runs_app.command(epilog="Example: mmbench runs rm 83a48b2/1 results/demo/sasrec/*/seed_3")
def rm(ctx: typer.Context, names: Names, yes: YesOption = False) -> None:
    """Remove runs with all their files. A run that is being computed is refused."""
    from mmbench.runs.inventory import find_runs

    state: State = ctx.obj
    _remove(state, find_runs(state.results_dir, names), yes=yes)


@runs_app.command(epilog="Example: mmbench runs prune --failed --older 30")
def prune(
    ctx: typer.Context,
    failed: Annotated[bool, typer.Option("--failed", help="Runs that failed.")] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Runs that only tried something out, with fewer --epochs than the recipe has."
        ),
    ] = False,
    interrupted: Annotated[
        bool, typer.Option("--interrupted", help="Runs that were never finished.")
    ] = False,
    older: OlderOption = None,
    model: ModelOption = None,
    dataset: DatasetOption = None,
    yes: YesOption = False,
) -> None:
    """Remove all runs of the kinds named (--failed, ...); --older, -m and -d restrict them."""
    from mmbench.runs.inventory import is_smoke

    state: State = ctx.obj
    if not (failed or smoke or interrupted or older is not None):
        raise UsageError("say what to remove: --failed, --smoke, --interrupted or --older DAYS")
    kinds = {kind for kind, asked in (("failed", failed), ("interrupted", interrupted)) if asked}
    every = not (kinds or smoke)
    chosen = [
        run
        for run in _choose(state, model, dataset, older)
        if run.state != "running" and (every or run.state in kinds or (smoke and is_smoke(run)))
    ]
    if not chosen:
        state.note("nothing to remove")
        return
    _remove(state, chosen, yes=yes)


def _choose(
    state: State, models: list[str] | None, datasets: list[str] | None, older: float | None
) -> "list[StoredRun]":
    """Return the runs of these models and data sets of this age; UsageError for names that no run has."""
    from mmbench.runs.inventory import list_runs as stored_runs

    runs = stored_runs(state.results_dir)
    for names, known, what in (
        (models, {run.model for run in runs}, "model"),
        (datasets, {run.dataset for run in runs}, "data set"),
    ):
        for name in names or []:
            if name not in known:
                raise UsageError(f"{suggest(name, known, what=what)} (among the runs in {state.results_dir})")
    return [
        run
        for run in runs
        if (not models or run.model in models)
        and (not datasets or run.dataset in datasets)
        and (older is None or run.days_old() >= older)
    ]


def _in_states(runs: "list[StoredRun]", asked: Sequence[str]) -> "list[StoredRun]":
    from mmbench.runs.inventory import RUN_STATES

    for name in asked:
        if name not in RUN_STATES:
            raise UsageError(f"--state: {suggest(name, RUN_STATES, what='state')}")
    return [run for run in runs if not asked or run.state in asked]


def _metrics(names: list[str] | None, runs: "Sequence[StoredRun]") -> "list[Metric]":
    """Return the metrics that are asked for, by default SHOWN_METRICS with cutoffs that the runs' catalogues have."""
    from mmbench.evaluation.metrics import parse_metric, within_all
    from mmbench.reporting.run_list import largest_catalogue

    metrics = [parse_metric(name) for name in names or SHOWN_METRICS]
    size = largest_catalogue(runs)
    return metrics if names or size is None else within_all(metrics, size)


def _print_line(state: State, label: str, text: str) -> None:
    """Print a line of a page inside the terminal's width, broken at blanks only."""
    indent = 15
    width = max(40, state.out.width) - indent if state.out.is_terminal else 10_000
    parts = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    for index, part in enumerate(parts):
        state.out.print(f"{label if index == 0 else '':{indent}}{part}", markup=False)


def _remove(state: State, runs: "list[StoredRun]", *, yes: bool) -> None:
    """Remove runs after a question; what cannot go is named, and the others go all the same."""
    from mmbench.cli.asking import confirm
    from mmbench.fetch.files import size_text
    from mmbench.runs.inventory import folder_bytes
    from mmbench.runs.removal import check_removable, remove_run

    for run in runs:
        check_removable(run.path, state.results_dir)
    total = size_text(sum(folder_bytes(run.path) for run in runs))
    summary = f"{counted(len(runs), 'run')}, {total}"
    if not yes:
        for run in runs:
            typer.echo(f"{run.name}  {run.model} on {run.dataset}, {run.state}  {run.path}", err=True)
        confirm(f"Remove {summary}?")
    faults = []
    for run in runs:
        try:
            remove_run(run.path, state.results_dir)
        except RunError as error:
            faults.append(str(error))
    if faults:
        raise RunError(f"{len(runs) - len(faults)} of {summary} removed; {'; '.join(faults)}")
    state.out.print(f"removed {summary}", markup=False)
