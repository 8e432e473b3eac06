"""`mmbench why A B`: in what two runs differ, and what each difference is worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmbench.evaluation.metrics import Metric
    from mmbench.reporting.why import Field
    from mmbench.runs.store import RunRecord


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench why results/demo/hm4sr/*/seed_1 results/demo/sasrec/*/seed_1")(why)


def why(
    ctx: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a finished run (seed_<n>).")],
    b: Annotated[
        str,
        typer.Argument(metavar="B", help="Folder of another run, or a printed table such as hm4sr/table1."),
    ],
    metric: Annotated[str, typer.Option(help="Whose difference.")] = "NDCG@10",
) -> None:
    """List every field in which two runs differ, what matters most first, with the measured effect of each."""
    state: State = ctx.obj
    from mmbench.evaluation.metrics import parse_metric
    from mmbench.reporting.rounding import number
    from mmbench.reporting.why import why as explain
    from mmbench.reproduce.spec import experiments
    from mmbench.runs.store import read_all, read_record

    wanted, first = parse_metric(metric), read_record(a)
    stored = read_all(state.results_dir, on_error=lambda path, error: state.warn(f"skipped: {error}"))
    if not Path(b).is_dir() and b.partition("/")[0] in {name.partition("/")[0] for name in experiments()}:
        _print_printed(state, first, b, list(stored), wanted)
        return
    second = read_record(Path(b))
    for record in (first, second):
        wanted.check(record.n_items)
    difference = explain(first, second, list(stored), metric=wanted)
    for letter, record, value in (("A", first, difference.a), ("B", second, difference.b)):
        state.out.print(f"{letter}  {number(value)}  {record.title}", markup=False)
    state.out.print(
        f"B - A  {number(difference.b - difference.a, sign=True)}  {wanted} on the test targets", markup=False
    )
    if not difference.fields:
        state.out.print("no field differs: A and B are the same run", markup=False)
        return
    _print_fields(state, difference.fields, "B")


def _print_fields(state: State, fields: "Sequence[Field]", other: str) -> None:
    from mmbench.cli.tables import print_table
    from mmbench.visible import one_line

    lines = [[field.name, one_line(field.a), one_line(field.b), field.effect] for field in fields]
    print_table(state, ["field", "A", other, "effect"], lines)


def _print_printed(
    state: State, run: "RunRecord", name: str, stored: "list[RunRecord]", metric: "Metric"
) -> None:
    """Print a run beside a printed number, and what the stored run differs in that is nearest to it."""
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
