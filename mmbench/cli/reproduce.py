"""`mmbench reproduce`: the printed tables and figures of the papers, run again."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmbench.cli import complete
from mmbench.cli.run import DeviceOption, SetOption, StackOption, compute, parse_seeds, parse_sets
from mmbench.cli.state import State
from mmbench.cli.tables import note_outdated
from mmbench.cli.words import words
from mmbench.errors import RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmbench.look.plots import Plot
    from mmbench.reproduce.looks import Looked
    from mmbench.reproduce.plan import Plan, Target
    from mmbench.reproduce.scores import Reproduced
    from mmbench.reproduce.spec import Experiment
    from mmbench.runs.store import RunRecord


class FormatOption(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"


_BY_SUFFIX = {".md": "markdown", ".csv": "csv", ".json": "json"}
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
            help="For example hm4sr/table1; without it all are listed.",
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
    epochs: Annotated[Optional[int], typer.Option(min=1, help="Largest number of epochs.")] = None,  # noqa: UP045
    jobs: Annotated[
        int, typer.Option(min=1, help="Cells computed at the same time, each in its own process.")
    ] = 1,
    device: DeviceOption = "auto",
    stack: StackOption = "auto",
    fmt: Annotated[
        Optional[FormatOption],  # noqa: UP045
        typer.Option(
            "--format", "-f", show_default="terminal, or by the suffix of --output", help="Of the table."
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", show_default="stdout", help="File of a table; folder of a figure (PNG, SVG)."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the cells, which exist, and the time left; compute nothing."),
    ] = False,
    stored: Annotated[
        bool, typer.Option("--stored", help="Print what earlier runs have left; compute nothing.")
    ] = False,
) -> None:
    """Run what a printed table or figure needs, and print it in its layout with the printed numbers beside."""
    state: State = ctx.obj
    from mmbench.reporting.protocols import check_planned
    from mmbench.reproduce.plan import choose_targets, stored_only
    from mmbench.reproduce.spec import Scores, find_experiment
    from mmbench.runs.workers import Backend
    from mmbench.runtime import pick_device
    from mmbench.training.devices import stack_size

    if experiment is None:
        _list(state)
        return
    found = find_experiment(experiment)
    _check_output(found, output)
    targets = choose_targets(found, words(dataset), state.data_dir, on_error=state.skip_data)
    _say_targets(state, found, targets)
    if not isinstance(found.content, Scores):
        _show_data(state, found, targets, fmt, output)
        return
    n_stacked = stack_size(stack, pick_device(device))
    if seeds is None and found.content.seeds > 1:
        state.err.print(f"seeds: {found.content.seeds}, as in the paper (--seeds chooses)")
    plan = _plan(state, found, targets, seeds or str(found.content.seeds), set_, epochs)
    if not stored:
        check_planned(plan.cells)
    if dry_run:
        _dry_run(state, plan, jobs)
        return
    if stored:
        plan, records = stored_only(plan)
    else:
        place = Backend("local", None, jobs)
        found_now = (
            compute(state, plan.cells, device=device, backend=place, stack=n_stacked) if plan.cells else []
        )
        records = {one.path: one for one in found_now}
    _show(state, plan, records, fmt, output)


def _check_output(experiment: "Experiment", output: Path | None) -> None:
    """A table goes into a file, a figure into a folder; said before anything is computed."""
    if output is None:
        return
    if _is_figure(experiment):
        if output.suffix or output.is_file():
            raise UsageError(
                f"--output {output}: {experiment.name} is a figure; name a folder for PNG and SVG"
            )
    elif output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file in it, e.g. {output / 'table.md'}")


def _is_figure(experiment: "Experiment") -> bool:
    return experiment.content.kind not in ("table", "statistics")


def _say_targets(state: State, experiment: "Experiment", targets: "list[Target]") -> None:
    for target in targets:
        if target.prepared is None:
            state.err.print(
                f"{target.name} is not prepared; run: mmbench prepare {target.name}", markup=False
            )
        elif target.printed_as not in experiment.content.datasets:
            state.err.print(f"{target.name}: {experiment.name} prints nothing for it", markup=False)
        if target.prepared is not None:
            note_outdated(state, target.prepared)


def _list(state: State) -> None:
    """Every experiment in a line: what it is, how many of its rows and data sets are there."""
    from mmbench.cli.tables import print_table
    from mmbench.data.store import list_prepared
    from mmbench.reproduce.plan import is_live
    from mmbench.reproduce.spec import Scores, experiments

    prepared = {one.name for one in list_prepared(state.data_dir, on_error=state.skip_data)}
    rows = []
    for name, one in experiments().items():
        models = [row.model for row in one.content.all_rows] if isinstance(one.content, Scores) else []
        live = f"{sum(map(is_live, models))} of {len(models)}" if models else ""
        names = one.content.datasets
        there = f"{sum(name in prepared for name in names)} of {len(names)}"
        rows.append([name, one.content.title, live, there])
    print_table(state, ["experiment", "what", "rows here", "data sets prepared"], rows)


def _plan(
    state: State,
    experiment: "Experiment",
    targets: "list[Target]",
    seeds: str,
    sets: list[str] | None,
    epochs: int | None,
) -> "Plan":
    from mmbench.reproduce.plan import make_plan

    return make_plan(
        experiment,
        results_dir=state.results_dir,
        targets=targets,
        seeds=parse_seeds(seeds),
        overrides=parse_sets(sets, epochs=epochs),
    )


def _dry_run(state: State, plan: "Plan", jobs: int) -> None:
    """Each cell with its state and time; then what is left in all, and what is not there."""
    from mmbench.reproduce.plan import states
    from mmbench.runs.narrator import clock, declared_settings, interruption

    known = states(plan.cells)
    for one in known:
        time = "" if one.is_finished else "unknown" if one.seconds is None else f"~{clock(one.seconds)}"
        word = "finished" if one.is_finished else "missing"
        details = [] if one.is_finished else [interruption(one.cell)]
        details = [text for text in (*declared_settings(one.cell), *details) if text]
        told = f"  {', '.join(details)}" if details else ""
        state.out.print(f"{word:8}  {time:>8}  {one.cell.path}{told}", markup=False)
    missing = [one for one in known if not one.is_finished]
    seconds = [one.seconds for one in missing if one.seconds is not None]
    state.out.print(f"{len(known)} cells, {len(known) - len(missing)} finished, {len(missing)} missing")
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


def _show(
    state: State,
    plan: "Plan",
    records: "Mapping[Path, RunRecord]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    """Print the table and draw the figure; failures are said last."""
    from mmbench.reproduce.scores import reproduced

    if not records:
        raise RunError(f"nothing of {plan.experiment.name} is there: {_why(plan)}")
    one = reproduced(plan, records)
    state.warn_left_out(one.table.left_out)
    if _is_figure(plan.experiment):
        _emit_figure(state, one, fmt, output)
    else:
        _emit(state, one, fmt, output)
    failed = sum(record.status == "failed" for record in records.values())
    if failed:
        raise RunError(f"{failed} of {len(records)} cells failed; the same command tries them again")


def _why(plan: "Plan") -> str:
    if plan.refused:
        return next(iter(plan.refused))
    if len(plan.not_prepared) == len(plan.targets):
        return f"no data set is prepared; run: mmbench prepare {plan.not_prepared[0]}"
    return "none of its models is here yet"


def _emit(state: State, one: "Reproduced", fmt: FormatOption | None, output: Path | None) -> None:
    from mmbench.reproduce.formats import print_terminal, to_text

    chosen = _chosen(fmt, output)
    if output is None and chosen == "terminal":
        print_terminal(one, state.out)
    else:
        _write(state, to_text(one, chosen.value), output)


def _chosen(fmt: FormatOption | None, output: Path | None) -> FormatOption:
    return fmt or FormatOption(_BY_SUFFIX.get(output.suffix.lower(), "terminal") if output else "terminal")


def _write(state: State, text: str, output: Path | None) -> None:
    """To stdout as it is, or into a file in one step."""
    from mmbench.atomic import write_text

    if output is None:
        state.out.out(text, end="", highlight=False)
        return
    write_text(output, text)
    state.err.print(f"wrote {output}", markup=False)


def _emit_figure(state: State, one: "Reproduced", fmt: FormatOption | None, output: Path | None) -> None:
    """The numbers as a table, the plot for the terminal, and with --output the figure with its numbers."""
    from mmbench.look.plots import Plot
    from mmbench.reproduce.figures import caption, draw, terminal_plot
    from mmbench.reproduce.formats import to_text

    _emit(state, one, fmt, None)
    if _chosen(fmt, None) == "terminal":
        for line in terminal_plot(one, ascii_only="utf" not in state.out.encoding.lower()):
            state.out.print(line, markup=False)
    if output is None:
        return
    name = one.plan.experiment.name.replace("/", "-")
    _write(state, to_text(one, "csv"), output / f"{name}.csv")
    if one.is_measured:
        _save(state, [Plot(name, caption(one), lambda: draw(one))], output, name)
    else:
        state.err.print("no figure: nothing is measured")


def _save(state: State, plots: "list[Plot]", folder: Path, name: str) -> None:
    from mmbench.look.save import save_figures

    for file in save_figures(plots, folder, captions_file=f"{name}-captions.txt"):
        state.err.print(f"wrote {file}", markup=False)


def _show_data(
    state: State,
    experiment: "Experiment",
    targets: "list[Target]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    """Tables and figures of the data itself: nothing is trained."""
    from mmbench.reproduce.spec import Statistics

    if isinstance(experiment.content, Statistics):
        _show_statistics(state, experiment, targets, fmt, output)
        return
    from mmbench.reproduce.looks import looked

    found = looked(experiment, targets)
    if not found.looks:
        raise RunError(
            f"no data set of {experiment.name} is prepared; run: mmbench prepare {targets[0].name}"
        )
    _print_look(state, found, fmt)
    if output is not None:
        _save(state, found.plots, output, experiment.name.replace("/", "-"))


def _show_statistics(
    state: State,
    experiment: "Experiment",
    targets: "list[Target]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    from mmbench.data.catalog import load_catalog
    from mmbench.reproduce.statistics import counted, print_terminal, to_text

    catalog = load_catalog(state.data_dir)
    slips = {name: spec.slips for name, spec in catalog.items()}
    one, chosen = counted(experiment, targets, slips), _chosen(fmt, output)
    if output is None and chosen == "terminal":
        print_terminal(one, state.out)
    else:
        _write(state, to_text(one, chosen.value), output)


def _print_look(state: State, found: "Looked", fmt: FormatOption | None) -> None:
    import json

    from mmbench.cli.tables import print_table

    if _chosen(fmt, None) == "json":
        _write(state, json.dumps(found.json(), indent=1) + "\n", None)
        return
    if fmt in (FormatOption.markdown, FormatOption.csv):
        raise UsageError(f"--format {fmt}: {found.experiment.name} is printed as terminal or json")
    state.out.print(f"{found.experiment.name}: {found.content.title} ({found.content.source})", markup=False)
    rows = found.rows(ascii_only="utf" not in state.out.encoding.lower())
    print_table(state, ["data set", "shape", "from left to right"], rows)
