"""`mmbench power`: which differences the stored runs of a data set can show."""

from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.choices import Correction
from mmbench.cli.state import State
from mmbench.errors import UsageError, counted

if TYPE_CHECKING:
    from mmbench.reporting.power import Power, Resolution

_EPILOG = """\b
Examples:
  mmbench power --dataset demo
  mmbench power --dataset demo --a hm4sr --b sasrec
  mmbench power --dataset demo --a hm4sr --b sasrec --difference .005"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(power)


def power(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Data set of the runs.")],
    a: Annotated[
        str | None,
        typer.Option("--a", metavar="MODEL[/CONFIG]", show_default="the best row", help="First row."),
    ] = None,
    b: Annotated[
        str | None,
        typer.Option(
            "--b",
            metavar="MODEL[/CONFIG]",
            show_default="every other row",
            help="Row that it is compared with.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(show_default="NDCG@10", help="Metric that is compared.")
    ] = None,
    difference: Annotated[
        float | None,
        typer.Option(show_default="that of the rows", help="Difference that must be detected."),
    ] = None,
    correction: Annotated[
        Correction, typer.Option(help="Correction for the number of planned tests.")
    ] = "holm",
) -> None:
    """Say which differences stored runs can detect, and how many seeds or users their own differences need."""
    state: State = ctx.obj
    from mmbench.cli.tables import open_named, print_looks
    from mmbench.evaluation.metrics import asked_metric
    from mmbench.reporting.power import power_of_runs
    from mmbench.runs.store import read_all

    if difference is not None and not 0 < difference < 1:
        raise UsageError(f"--difference {difference}: must be between 0 and 1")
    records = [
        record
        for record in read_all(
            state.results_dir, on_error=lambda path, error: state.warn(f"skipped: {error}")
        )
        if record.dataset == dataset
    ]
    if not records:
        open_named(state, dataset)  # a name that is none has its own error
    wanted = asked_metric(metric, (record.n_items for record in records))
    power = power_of_runs(
        records, dataset, metric=wanted, a=a, b=b, difference=difference, correction=correction
    )
    if power is None:
        _print_assumed(state, dataset)
    else:
        _print(state, power, str(wanted), dataset)
        print_looks(state, records)


def _print(state: State, power: "Power", metric: str, dataset: str) -> None:
    from mmbench.cli.tables import print_table
    from mmbench.reporting.rounding import number

    first = power.contrasts[0].names[0]
    state.out.print(f"{first} on {dataset}, {metric} of the test targets", markup=False)
    lines = [
        [contrast.names[1], number(contrast.difference), *_texts(contrast.seeds), *_texts(contrast.users)]
        for contrast in power.contrasts
    ]
    print_table(state, ["against", "difference", "seeds", "show", "need", "users", "show", "need"], lines)
    tests = counted(power.n_tests, "test")
    state.out.print(
        "show: the smallest difference that a paired two-sided t test over so many seeds (or users) finds with power "
        f".8 at level {power.alpha:.2g} ({tests}). need: how many find the row's difference, itself an estimate. "
        "Seeds ask about another training, users about other users.",
        markup=False,
    )  # fmt: skip


def _texts(resolution: "Resolution") -> list[str]:
    from mmbench.reporting.rounding import DASH, number

    smallest, needed = resolution.smallest, resolution.needed
    return [
        f"{resolution.n:,}", DASH if smallest is None else number(smallest),
        DASH if needed is None else f"{needed:,}",
    ]  # fmt: skip


def _print_assumed(state: State, dataset: str) -> None:
    from mmbench.cli.tables import print_table
    from mmbench.reporting.power import ASSUMED_DEVIATIONS, assumed

    state.out.print(f"fewer than two rows of results on {dataset}: by assumptions", markup=False)
    header = ["seeds", *(f"deviation {100 * share:.0f} %" for share in ASSUMED_DEVIATIONS)]
    lines = [[str(n), *(f"{100 * value:.1f} %" for value in values)] for n, values in assumed()]
    print_table(state, header, lines)
    state.out.print(
        "The smallest difference, in percent of the mean, that a paired two-sided t test finds with power .8 at level "
        "0.05; deviation: of the differences between two models over seeds, in percent of the mean.",
        markup=False,
    )
