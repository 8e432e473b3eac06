"""`mmbench reproduce`: the published tables and figures of the papers, computed again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmbench.cli import complete
from mmbench.cli.reproduced import FormatOption, is_figure, show, show_data
from mmbench.cli.requested import EpochsOption, SetOption, TunedOption, parse_seeds, parse_sets
from mmbench.cli.run import DeviceOption, StackOption, compute
from mmbench.cli.state import State
from mmbench.cli.tables import note_outdated
from mmbench.cli.words import words
from mmbench.errors import UsageError, counted

if TYPE_CHECKING:
    from mmbench.reproduce.plan import Plan, Target
    from mmbench.reproduce.spec import Experiment


_EPILOG = """\b
Examples:
  mmbench reproduce
  mmbench reproduce hm4sr/table1 --dataset amazon-beauty --dry-run
  mmbench reproduce tmmsrec/table3 --seeds 3 --output table3.md
  mmbench reproduce hm4sr/fig4 --output figures/"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(reproduce)


def reproduce(
    ctx: typer.Context,
    experiment: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="PAPER/EXPERIMENT",
            help="For example hm4sr/table1; PAPER alone with --all. Without it, all experiments are listed.",
            autocompletion=complete.experiments,
        ),
    ] = None,
    seeds: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            show_default="the paper's, else 1", help="How many seeds (10 = 1..10) or which (3,5,8)."
        ),
    ] = None,
    dataset: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--dataset",
            "-d",
            show_default="the paper's",
            help="Only this data set, or any that is prepared; repeatable.",
            autocompletion=complete.prepared,
        ),
    ] = None,
    set_: SetOption = None,
    tuned: TunedOption = False,
    epochs: EpochsOption = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs computed at the same time, each in its own process.")
    ] = 1,
    device: DeviceOption = "auto",
    stack: StackOption = "auto",
    fmt: Annotated[
        Optional[FormatOption],  # noqa: UP045
        typer.Option(
            "--format",
            "-f",
            show_default="terminal, or by the suffix of --output",
            help="Format of the table.",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            show_default="stdout",
            help="Write the table to this file, or the figure (PNG, SVG) to this folder.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the runs, which of them exist, and the time left; compute nothing."
        ),
    ] = False,
    whole: Annotated[
        bool,
        typer.Option("--all", help="With PAPER and --dry-run: what a whole paper needs, and the hours left."),
    ] = False,
    stored: Annotated[
        bool, typer.Option("--stored", help="Print what earlier runs have stored; compute nothing.")
    ] = False,
) -> None:
    """Reproduce a published table or figure: compute the missing runs, print results beside the published numbers."""
    state: State = ctx.obj
    from mmbench.reporting.protocols import check_planned
    from mmbench.reproduce.plan import choose_targets, stored_only
    from mmbench.reproduce.spec import Scores, find_experiment
    from mmbench.runs.workers import Backend
    from mmbench.runtime import pick_device
    from mmbench.training.devices import stack_size

    if whole:
        _check_whole(experiment, dry_run)
        _whole(state, experiment or "", seeds, dataset, set_, epochs, tuned, jobs)
        return
    if experiment is None:
        _list(state)
        return
    chosen = find_experiment(experiment)
    _check_output(chosen, output)
    targets = choose_targets(chosen, words(dataset), state.data_dir, on_error=state.skip_data)
    _say_targets(state, chosen, targets)
    if not isinstance(chosen.content, Scores):
        show_data(state, chosen, targets, fmt, output)
        return
    n_stacked = stack_size(stack, pick_device(device))
    if seeds is None and chosen.content.seeds > 1:
        state.err.print(f"seeds: {chosen.content.seeds}, as in the paper (--seeds chooses)")
    plan = _plan(state, chosen, targets, seeds or str(chosen.content.seeds), set_, epochs, tuned, device)
    if not stored:
        check_planned(plan.cells)
    if dry_run:
        _dry_run(state, plan, jobs)
        return
    if stored:
        plan, records = stored_only(plan)
    else:
        local = Backend("local", None, jobs)
        records_now = (
            compute(state, plan.cells, device=device, backend=local, stack=n_stacked) if plan.cells else []
        )
        records = {record.path: record for record in records_now}
    show(state, plan, records, fmt, output)


def _check_whole(paper: str | None, dry_run: bool) -> None:
    if not dry_run:
        raise UsageError("--all plans a whole paper: add --dry-run, or name an experiment to run")
    if paper is None:
        raise UsageError("--all needs a paper, such as hm4sr")


def _whole(
    state: State,
    paper: str,
    seeds: str | None,
    dataset: list[str] | None,
    sets: list[str] | None,
    epochs: int | None,
    tuned: bool,
    jobs: int,
) -> None:
    from mmbench.cli.whole_paper import print_paper
    from mmbench.data.store import list_prepared
    from mmbench.reproduce.plan import choose_targets
    from mmbench.reproduce.spec import Scores

    def make(experiment: "Experiment") -> "Plan":
        assert isinstance(experiment.content, Scores)
        targets = choose_targets(experiment, dataset or [], state.data_dir, on_error=lambda fault: None)
        return _plan(
            state, experiment, targets, seeds or str(experiment.content.seeds), sets, epochs, tuned, "auto"
        )

    prepared = [data.name for data in list_prepared(state.data_dir, on_error=state.skip_data)]
    print_paper(state, paper, make, data_sets=prepared, jobs=jobs)


def _check_output(experiment: "Experiment", output: Path | None) -> None:
    """Raise UsageError, before anything is computed, unless a table goes into a file and a figure into a folder."""
    if output is None:
        return
    if is_figure(experiment):
        if output.suffix or output.is_file():
            raise UsageError(
                f"--output {output}: {experiment.name} is a figure; name a folder for PNG and SVG"
            )
    elif output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file in it, e.g. {output / 'table.md'}")


def _say_targets(state: State, experiment: "Experiment", targets: "list[Target]") -> None:
    for target in targets:
        if target.prepared is None:
            state.err.print(
                f"{target.name} is not prepared; run: mmbench prepare {target.name}", markup=False
            )
        elif target.printed_as not in experiment.content.datasets:
            state.err.print(
                f"{experiment.name} has no numbers for {target.name}: only yours are shown", markup=False
            )
        if target.prepared is not None:
            note_outdated(state, target.prepared)


def _list(state: State) -> None:
    """Print every experiment in a line: what it is, how many of its rows and data sets exist."""
    from mmbench.cli.tables import print_table
    from mmbench.data.store import list_prepared
    from mmbench.reproduce.plan import is_live
    from mmbench.reproduce.spec import Scores, experiments

    prepared = {prepared.name for prepared in list_prepared(state.data_dir, on_error=state.skip_data)}
    rows = []
    for name, experiment in experiments().items():
        content = experiment.content
        models = [row.model for row in content.all_rows] if isinstance(content, Scores) else []
        live = f"{sum(map(is_live, models))} of {len(models)}" if models else ""
        names = experiment.content.datasets
        available = f"{sum(name in prepared for name in names)} of {len(names)}"
        rows.append([name, experiment.content.title, live, available])
    print_table(state, ["experiment", "what", "rows here", "data sets prepared"], rows)


def _plan(
    state: State,
    experiment: "Experiment",
    targets: "list[Target]",
    seeds: str,
    sets: list[str] | None,
    epochs: int | None,
    tuned: bool,
    device: str,
) -> "Plan":
    from mmbench.reproduce.plan import make_plan

    return make_plan(
        experiment,
        results_dir=state.results_dir,
        targets=targets,
        seeds=parse_seeds(seeds),
        overrides=parse_sets(sets, epochs=epochs, device=device),
        tuned=tuned,
    )


def _dry_run(state: State, plan: "Plan", jobs: int) -> None:
    """Print each cell with its state and time; then what is left in all, and what is missing."""
    from mmbench.reproduce.plan import states
    from mmbench.runs.narrator import declared_settings, interruption
    from mmbench.runs.time_left import clock

    known = states(plan.cells)
    for status in known:
        time = (
            "" if status.is_finished else "unknown" if status.seconds is None else f"~{clock(status.seconds)}"
        )
        word = "finished" if status.is_finished else "missing"
        details = [] if status.is_finished else [interruption(status.cell)]
        details = [text for text in (*declared_settings(status.cell), *details) if text]
        remark = f"  {', '.join(details)}" if details else ""
        state.out.print(f"{word:8}  {time:>8}  {status.cell.path}{remark}", markup=False)
    missing = [status for status in known if not status.is_finished]
    seconds = [status.seconds for status in missing if status.seconds is not None]
    if known:
        state.out.print(
            f"{counted(len(known), 'run')}, {len(known) - len(missing)} finished, {len(missing)} missing"
        )
    if seconds:
        unknown = f"; {len(missing) - len(seconds)} more unknown" if len(seconds) < len(missing) else ""
        state.out.print(
            f"time left: about {clock(sum(seconds) / jobs)} for {len(seconds)} of them, {jobs} at a time, from earlier "
            f"runs of the same model and data set{unknown}"
        )
    elif missing:
        state.out.print("time left: unknown, no earlier run of these models on these data sets")
    _say_missing(state, plan)


def _say_missing(state: State, plan: "Plan") -> None:
    if plan.not_yet:
        state.out.print(f"not yet: {', '.join(plan.not_yet)}", markup=False)
    if plan.not_prepared:
        names = " ".join(plan.not_prepared)
        state.out.print(f"not prepared: {names} (run: mmbench prepare {names})", markup=False)
    for reason, rows in plan.refused.items():
        state.out.print(f"cannot run: {', '.join(rows)}: {reason}", markup=False)
