"""What `mmbench reproduce` prints and draws of what is measured."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.cli.state import State
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


def is_figure(experiment: "Experiment") -> bool:
    """Return whether an experiment is drawn into a folder, and not printed into a file."""
    return experiment.content.kind not in ("table", "statistics")


def show(
    state: State,
    plan: "Plan",
    records: "Mapping[Path, RunRecord]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    """Print the table and draw the figure; report failures last."""
    from mmbench.reporting.targets import look_lines
    from mmbench.reproduce.scores import reproduced

    if not records:
        raise RunError(f"{plan.experiment.name} has no results: {_why(plan)}")
    result = reproduced(plan, records)
    looks = look_lines(list(records.values()), data_dir=state.data_dir)
    result = replace(result, table=replace(result.table, caption=(*result.table.caption, *looks)))
    state.warn_left_out(result.table.left_out)
    if plan.content.kind == "cases":
        _emit_case(state, result, records, fmt, output)
    elif plan.content.kind == "projection":
        _emit_projections(state, result, records, fmt, output)
    elif is_figure(plan.experiment):
        _emit_figure(state, result, fmt, output)
    else:
        _emit(state, result, fmt, output)
    failed = sum(record.status == "failed" for record in records.values())
    if failed:
        raise RunError(f"{failed} of {len(records)} runs failed; the same command tries them again")


def _why(plan: "Plan") -> str:
    if plan.refused:
        return next(iter(plan.refused))
    if len(plan.not_prepared) == len(plan.targets):
        return f"no data set is prepared; run: mmbench prepare {plan.not_prepared[0]}"
    return "none of its models is implemented yet"


def _emit(state: State, result: "Reproduced", fmt: FormatOption | None, output: Path | None) -> None:
    from mmbench.reproduce.formats import print_terminal, to_text

    chosen = _chosen(fmt, output)
    if output is None and chosen == "terminal":
        print_terminal(result, state.out)
    else:
        _write(state, to_text(result, chosen.value), output)


def _chosen(fmt: FormatOption | None, output: Path | None) -> FormatOption:
    return fmt or FormatOption(_BY_SUFFIX.get(output.suffix.lower(), "terminal") if output else "terminal")


def _write(state: State, text: str, output: Path | None) -> None:
    """Write to stdout as it is, or into a file atomically."""
    from mmbench.atomic import write_text

    if output is None:
        state.out.out(text, end="", highlight=False)
        return
    write_text(output, text)
    state.err.print(f"wrote {output}", markup=False)


def _emit_figure(state: State, result: "Reproduced", fmt: FormatOption | None, output: Path | None) -> None:
    """Print the numbers as a table and the plot for the terminal; with --output, draw the figure with its numbers."""
    from mmbench.look.plots import Plot
    from mmbench.reproduce.figures import caption, draw, terminal_plot
    from mmbench.reproduce.formats import to_text

    _emit(state, result, fmt, None)
    if _chosen(fmt, None) == "terminal":
        for line in terminal_plot(result, ascii_only=state.is_ascii_only):
            state.out.print(line, markup=False)
    if output is None:
        return
    name = result.plan.experiment.file_name
    _write(state, to_text(result, "csv"), output / f"{name}.csv")
    if result.is_measured:
        _save(state, [Plot(name, caption(result), lambda: draw(result))], output, name)
    else:
        state.err.print("no figure: nothing is measured")


def _emit_case(
    state: State,
    result: "Reproduced",
    records: "Mapping[Path, RunRecord]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    """Print the numbers as a table, the chosen user's history and lists; with --output, draw the figure."""
    from mmbench.cli.tables import print_table
    from mmbench.reproduce.cases import case_study, plot

    _emit(state, result, fmt, None)
    if not result.is_measured:
        return
    study = case_study(result.plan, records, state.data_dir)
    if _chosen(fmt, None) == "terminal":
        for line in study.sentences():
            state.out.print(line, markup=False)
        print_table(state, ["", "history, newest first", *study.labels], study.rows())
        state.out.print("*: taken next", markup=False)
    if output is not None:
        figure = plot(study, result.plan)
        _save(state, [figure], output, figure.name)


def _emit_projections(
    state: State,
    result: "Reproduced",
    records: "Mapping[Path, RunRecord]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    """Print the numbers as a table, and what each projection keeps; with --output, draw the figures."""
    from mmbench.cli.tables import print_table
    from mmbench.reproduce.projection import plots, projections

    _emit(state, result, fmt, None)
    looks = projections(result.plan, records, state.data_dir)
    if _chosen(fmt, None) == "terminal":
        for projection in looks:
            state.out.print(projection.caption(), markup=False)
            print_table(
                state, ["vectors", "method", "width", "variance", "neighbours kept"], projection.rows()
            )
    if output is not None and looks:
        _save(state, plots(result.plan, looks), output, result.plan.experiment.file_name)


def _save(state: State, plots: "list[Plot]", folder: Path, name: str) -> None:
    from mmbench.look.save import save_figures

    for file in save_figures(plots, folder, captions_file=f"{name}-captions.txt"):
        state.err.print(f"wrote {file}", markup=False)


def show_data(
    state: State,
    experiment: "Experiment",
    targets: "list[Target]",
    fmt: FormatOption | None,
    output: Path | None,
) -> None:
    """Print and draw what is about the data itself: nothing is trained."""
    from mmbench.reproduce.spec import Statistics

    if isinstance(experiment.content, Statistics):
        _show_statistics(state, experiment, targets, fmt, output)
        return
    from mmbench.reproduce.looks import looked

    looks = looked(experiment, targets)
    if not looks.looks:
        raise RunError(
            f"no data set of {experiment.name} is prepared; run: mmbench prepare {targets[0].name}"
        )
    _print_look(state, looks, fmt)
    if output is not None:
        _save(state, looks.plots, output, experiment.file_name)


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
    result, chosen = counted(experiment, targets, slips), _chosen(fmt, output)
    if output is None and chosen == "terminal":
        print_terminal(result, state.out)
    else:
        _write(state, to_text(result, chosen.value), output)


def _print_look(state: State, looks: "Looked", fmt: FormatOption | None) -> None:
    import json

    from mmbench.cli.tables import print_table

    if _chosen(fmt, None) == "json":
        _write(state, json.dumps(looks.json(), indent=1) + "\n", None)
        return
    if fmt in (FormatOption.markdown, FormatOption.csv):
        raise UsageError(f"--format {fmt}: {looks.experiment.name} is printed as terminal or json")
    state.out.print(f"{looks.experiment.name}: {looks.content.title} ({looks.content.source})", markup=False)
    rows = looks.rows(ascii_only=state.is_ascii_only)
    print_table(state, ["data set", "shape", "from left to right"], rows)
