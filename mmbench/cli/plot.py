"""`mmbench plot`: training curves of stored runs, on the terminal or in a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmbench.cli.runs import Names
from mmbench.cli.state import State
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.reporting.curves import TrainedRun

What = Literal["valid", "loss"]
SUFFIXES = (".png", ".svg")
HEIGHT = 18  # lines of a chart where the terminal has no height of its own

_EPILOG = """\b
Examples:
  mmbench plot 83a48b2/1 19ad53e/1
  mmbench plot results/demo/hm4sr --what loss
  mmbench plot 83a48b2 -o curves.svg"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(plot)


def plot(
    ctx: typer.Context,
    names: Names,
    what: Annotated[
        What, typer.Option(help="The validation metric or the training loss; a file has both.")
    ] = "valid",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default="the terminal", help="A .png or .svg file."
        ),
    ] = None,
) -> None:
    """Plot the training curves of runs, also while a run is being computed."""
    from mmbench.reporting.curves import trained_runs
    from mmbench.runs.inventory import find_runs

    state: State = ctx.obj
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--output {output}: name a file that ends in {' or '.join(SUFFIXES)}")
    trained, without = trained_runs(find_runs(state.results_dir, names))
    if without:
        models = ", ".join(dict.fromkeys(run.model for run in without))
        state.note(f"without a curve, because no epoch is finished: {models}")
    if output is None:
        _print_chart(state, trained, what)
    else:
        _write(trained, output)
        state.err.print(f"wrote {output}", markup=False)


def _print_chart(state: State, trained: "list[TrainedRun]", what: What) -> None:
    from mmbench.reporting.curves import chart, quantity

    title = quantity(trained, what)
    shown = [member for member in trained if member.points(what)]
    height = min(max(8, state.out.height - len(shown) - 3), 30) if state.out.is_terminal else HEIGHT
    width = min(state.out.width, 120)
    state.out.print(title, markup=False)
    for line in chart(shown, what, width=width, height=height):
        state.out.print(line, markup=False)
    for member in shown:
        best = member.curves.best if what == "valid" else None
        text = f"  best at epoch {best[0]}" if best else ""
        state.out.print(f"{member.letter}  {member.label}{text}", markup=False)


def _write(trained: "list[TrainedRun]", file: Path) -> None:
    from mmbench.atomic import write_with
    from mmbench.look.style import png, styled, svg
    from mmbench.reporting.curves import figure

    with styled("curves"):
        drawn = figure(trained)
    content = png(drawn) if file.suffix.lower() == ".png" else svg(drawn, "curves").encode()
    write_with(file, lambda temporary: temporary.write_bytes(content))
