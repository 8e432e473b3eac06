"""`mmbench why A B`: in what two runs differ, and what each difference is worth."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.state import State


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench why results/demo/hm4sr/*/seed_1 results/demo/sasrec/*/seed_1")(why)


def why(
    ctx: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a finished run (seed_<n>).")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    metric: Annotated[str, typer.Option(help="Whose difference.")] = "NDCG@10",
) -> None:
    """List every field in which two runs differ, what matters most first, with the measured effect of each."""
    state: State = ctx.obj
    from mmbench.cli.tables import print_table
    from mmbench.evaluation.metrics import parse_metric
    from mmbench.reporting.rounding import number
    from mmbench.reporting.why import why as explain
    from mmbench.runs.store import read_all, read_record
    from mmbench.visible import one_line

    wanted, first, second = parse_metric(metric), read_record(a), read_record(b)
    for record in (first, second):
        wanted.check(record.n_items)
    stored = read_all(state.results_dir, on_error=lambda path, error: state.warn(f"skipped: {error}"))
    found = explain(first, second, list(stored), metric=wanted)
    for letter, record, value in (("A", first, found.a), ("B", second, found.b)):
        state.out.print(f"{letter}  {number(value)}  {record.title}", markup=False)
    state.out.print(
        f"B - A  {number(found.b - found.a, sign=True)}  {wanted} on the test targets", markup=False
    )
    if not found.fields:
        state.out.print("no field differs: the two are one run", markup=False)
        return
    lines = [[field.name, one_line(field.a), one_line(field.b), field.effect] for field in found.fields]
    print_table(state, ["field", "A", "B", "effect"], lines)
