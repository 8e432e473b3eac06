"""`mmbench why A B`: in what two runs differ, and what each difference is worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli import complete
from mmbench.cli.named_runs import ONE_HELP
from mmbench.cli.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmbench.evaluation.metrics import Metric
    from mmbench.reporting.why import Field
    from mmbench.runs.store import RunRecord


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench why 83a48b2/1 96b31b6/1")(why)


def why(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help=ONE_HELP, autocompletion=complete.runs)],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another run, or a printed table such as hm4sr/table1.",
            autocompletion=complete.runs,
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(show_default="NDCG@10", help="Metric whose difference is explained.")
    ] = None,
) -> None:
    """List every field in which two runs differ, most important first, with the measured effect of each."""
    state: State = ctx.obj
    from mmbench.cli.tables import print_looks
    from mmbench.evaluation.metrics import MAIN_METRIC, asked_metric, parse_metric
    from mmbench.reporting.rounding import number
    from mmbench.reporting.why import why as explain
    from mmbench.reproduce.spec import experiments
    from mmbench.runs.naming import run_named
    from mmbench.runs.store import read_all

    asked, first = None if metric is None else parse_metric(metric), run_named(state.results_dir, a)
    stored = read_all(state.results_dir, on_error=lambda path, error: state.warn(f"skipped: {error}"))
    if not Path(b).is_dir() and b.partition("/")[0] in {name.partition("/")[0] for name in experiments()}:
        _print_printed(state, first, b, list(stored), asked or MAIN_METRIC)
        return
    second = run_named(state.results_dir, b)
    wanted = asked_metric(asked, (first.n_items, second.n_items))
    for record in (first, second):
        wanted.check(record.n_items)
    difference = explain(first, second, list(stored), metric=wanted)
    for letter, record, value in (("A", first, difference.a), ("B", second, difference.b)):
        state.out.print(f"{letter}  {number(value)}  {record.title}", markup=False)
    state.out.print(
        f"B - A  {number(difference.b - difference.a, sign=True)}  {wanted} on the test targets", markup=False
    )
    if difference.fields:
        _print_fields(state, difference.fields, "B")
    else:
        state.out.print("no field differs: A and B are the same run", markup=False)
    print_looks(state, [first, second])


def _print_fields(state: State, fields: "Sequence[Field]", other: str) -> None:
    from mmbench.cli.tables import print_table
    from mmbench.visible import one_line

    lines = [[field.name, one_line(field.a), one_line(field.b), field.effect] for field in fields]
    print_table(state, ["field", "A", other, "effect"], lines)


def _print_printed(
    state: State, run: "RunRecord", name: str, stored: "list[RunRecord]", metric: "Metric"
) -> None:
    """Print a run beside a printed number, and what the stored run differs in that is nearest to it."""
    from mmbench.cli.tables import print_looks
    from mmbench.reporting.rounding import number
    from mmbench.reproduce.why_printed import why_printed

    shown = why_printed(run, name, stored, metric=metric)
    state.out.print(f"A        {number(shown.run)}  {run.title}", markup=False)
    state.out.print(f"printed  {number(shown.printed)}  {metric}, {name}", markup=False)
    state.out.print(
        f"nearest  {number(shown.nearest_value)}  {shown.nearest.title}, mask rule {shown.rule}", markup=False
    )
    if shown.fields:
        _print_fields(state, shown.fields, "nearest")
    else:
        state.out.print(
            "no stored run of the model is nearer than A: no known field explains it", markup=False
        )
    print_looks(state, [run, shown.nearest])
