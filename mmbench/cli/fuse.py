"""`mmbench fuse`: the scores of finished runs, summed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.choices import DEFAULT_LISTS
from mmbench.cli.named_runs import SeveralRuns
from mmbench.cli.run import DeviceOption, ListsOption
from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.runs.store import RunRecord

_EPILOG = """\b
Examples:
  mmbench fuse results/demo/sasrec/*/seed_1 results/demo/hm4sr/*/seed_1
  mmbench fuse results/demo/sasrec/*/seed_{1,2,3} --weights equal
  mmbench fuse results/demo/sasrec/*/seed_1 results/demo/itemknn/*/seed_1 --scale rank --weights gated"""
METRICS = ("NDCG@10", "HR@10")
HITS_AT = 10


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(fuse)


def fuse(
    ctx: typer.Context,
    runs: SeveralRuns,
    scale: Annotated[
        str,
        typer.Option(
            metavar="raw|zscore|minmax|prob|logit|rank", help="Common scale of the scores, per user."
        ),
    ] = "zscore",
    weights: Annotated[
        str,
        typer.Option(
            metavar="validation|equal|learned|gated",
            help="validation: best in steps of .1 there; learned: a conditional logit; gated: the same, by user.",
        ),
    ] = "validation",
    lists: ListsOption = DEFAULT_LISTS,
    device: DeviceOption = "auto",
) -> None:
    """Sum the scores of finished runs and store the result as a run; the weights never see a test target."""
    state: State = ctx.obj
    from mmbench import api
    from mmbench.cli.tables import print_looks
    from mmbench.runs.naming import runs_named

    members = runs_named(state.results_dir, runs)
    fused = api.fuse(
        members, scale=scale, weights=weights, device=device, lists=lists, data_dir=state.data_dir,
        results_dir=state.results_dir,
    )  # fmt: skip
    _print(state, members, fused)
    state.out.print(str(fused.path), markup=False)
    print_looks(state, [*members, fused], is_aside=True)


def _print(state: State, members: "Sequence[RunRecord]", fused: "RunRecord") -> None:
    """Print the test metrics of the members and of their fusion, and what each member alone hits."""
    from mmbench.cli.tables import print_table
    from mmbench.evaluation.complementarity import complementarity
    from mmbench.evaluation.metrics import parse_metric
    from mmbench.reporting.rounding import number

    metrics = [str(parse_metric(name).within(fused.n_items)) for name in METRICS]
    facts = complementarity([record.ranks("test") for record in members], fused.ranks("test"), HITS_AT)
    rows = []
    for record, weight, only in zip(members, fused.extra["weights"], facts.only, strict=True):
        values = record.metrics("test", metrics)
        rows.append(
            [f"{record.model}, seed {record.seed}", f"{weight:.3f}", *map(number, values.values()), str(only)]
        )
    rows.append([fused.display, "", *map(number, fused.metrics("test", metrics).values()), ""])
    print_table(state, ["test", "weight", *metrics, "hit by it alone"], rows)
    best = members[facts.best].model
    state.out.print(
        f"weights: {fused.extra['weights_from']}; hit by all members: {facts.every}; some member hits "
        f"{facts.oracle:.4f}, of which the fusion keeps {facts.kept:.1%}; against {best}: "
        f"McNemar p = {facts.p_mcnemar:.2g}",
        markup=False,
    )
