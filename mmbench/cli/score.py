"""`mmbench score`: lists of any other program under our protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.choices import MaskRule
from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.runs.store import RunRecord

_EPILOG = """\b
Examples:
  mmbench score lists.csv --dataset demo --name "my model"
  mmbench score seed2.parquet --dataset demo --name "my model" --seed 2
  mmbench score ranks.csv --dataset demo --name theirs --mask-seen input"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(score)


def score(
    ctx: typer.Context,
    lists: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV, TSV or Parquet with columns user,item,score or user,rank (of the target).",
        ),
    ],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Prepared data set.")],
    name: Annotated[str, typer.Option(help="Its name in tables.")],
    seed: Annotated[int, typer.Option(help="Seed of that training, where there are several.")] = 1,
    mask_seen: Annotated[
        MaskRule | None,
        typer.Option(
            show_default="that of the protocol",
            help="Mask rule of the numbers shown; the ranks of a file must have been computed under it.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace other lists of this name and seed.")
    ] = False,
) -> None:
    """Rank the test targets by another program's lists, and store that as a run that tables treat like others.

    Ids are those of the raw data. Every user with a test target needs a list.
    """
    state: State = ctx.obj
    from mmbench import api
    from mmbench.cli.tables import open_current, print_looks

    record = api.score(
        lists, name, dataset=open_current(state, dataset), seed=seed, mask_seen=mask_seen, replace=force,
        data_dir=state.data_dir, results_dir=state.results_dir,
    )  # fmt: skip
    _print(state, record)
    print_looks(state, [record], is_aside=True)


def _print(state: State, record: "RunRecord") -> None:
    from mmbench.board.external import exact_metrics
    from mmbench.evaluation.metrics import default_metrics
    from mmbench.reporting.rounding import number

    state.out.print(f"stored {record.path}", markup=False, highlight=False)
    state.out.print(record.notes[0], markup=False, highlight=False)
    values = record.metrics("test", exact_metrics(record, default_metrics(record.n_items)))
    for metric, value in values.items():
        state.out.print(f"{metric:<8} {number(value)}", markup=False, highlight=False)
