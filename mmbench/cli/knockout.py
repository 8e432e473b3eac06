"""`mmbench knockout`: stored runs ranked again without a part of what their models read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.choices import SplitName
from mmbench.cli.named_runs import SeveralRuns
from mmbench.cli.run import DeviceOption
from mmbench.cli.state import State
from mmbench.errors import RunError

if TYPE_CHECKING:
    from mmbench.reporting.knockout_drops import RowOfDrops
    from mmbench.runs.knockout import KnockedOut
    from mmbench.runs.store import RunRecord

RANKED, RETRAINED = "text,image,time,order,history", "text,image"
_EPILOG = """\b
Examples:
  mmbench knockout 83a48b2
  mmbench knockout results/demo/hm4sr/*/seed_1 --what image,time
  mmbench knockout results/demo/hm4sr/*/seed_1 --what text=shuffled:7,history=3
  mmbench knockout results/demo/hm4sr/*/seed_* --retrain --what image"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(knockout)


def knockout(
    ctx: typer.Context,
    runs: SeveralRuns,
    knock_outs: Annotated[
        str,
        typer.Option(
            "--what",
            metavar="KIND[=HOW],...",
            show_default="text,image,time,order,history; with --retrain text,image",
            help="text, image, time, order, history, or a single change such as text=constant, time=shuffled:3.",
        ),
    ] = "",
    metric: Annotated[
        str | None, typer.Option(show_default="NDCG@10", help="Metric whose drop is shown.")
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Split whose drop is shown; both are ranked.")] = "test",
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain", help="Train with the knocked-out texts or pictures instead, as a run of its own."
        ),
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Rank stored runs again without texts, pictures, times, order or old events: what do their models use?"""
    state: State = ctx.obj
    from mmbench.cli.tables import print_looks
    from mmbench.evaluation.knockout_kinds import parse_knockouts
    from mmbench.evaluation.metrics import asked_metric, parse_metric
    from mmbench.reporting.knockout_drops import as_retrained, rows_of_drops
    from mmbench.reporting.labels import group_runs
    from mmbench.runs.naming import runs_named

    asked = None if metric is None else parse_metric(metric)
    if asked is not None:
        asked.check_of_ranks("--metric")
    chosen = (knock_outs or (RETRAINED if retrain else RANKED)).split(",")
    if not retrain:
        parse_knockouts(chosen)  # raises for an unknown knock-out before a run is opened
    records = runs_named(state.results_dir, runs)
    wanted = asked_metric(asked, (record.n_items for record in records))
    for record in records:
        _check(record)
        wanted.check(record.n_items)
    results = (_retrained if retrain else _ranked)(state, records, chosen, device)
    groups, _ = group_runs(records)
    rows = rows_of_drops(groups, results, metric=wanted, split=split)
    for row in rows:
        _print(state, as_retrained(row) if retrain else row, str(wanted), split)
    _print_caption(state, rows, retrain=retrain)
    if split == "test":
        print_looks(state, records)


def _ranked(
    state: State, records: "Sequence[RunRecord]", what: list[str], device: str
) -> "dict[str, list[KnockedOut]]":
    """Rank the stored weights of each run again; return what came of it by the run's title."""
    from mmbench.evaluation.knockout_kinds import parse_knockouts
    from mmbench.runs.knockout import knock_out

    chosen = parse_knockouts(what)
    return {
        record.title: knock_out(record, chosen, data_dir=state.data_dir, device=device, say=state.note)
        for record in records
    }


def _retrained(
    state: State, records: "Sequence[RunRecord]", what: list[str], device: str
) -> "dict[str, list[KnockedOut]]":
    """Train what is not trained yet; return what came of it by the title of the intact run."""
    from mmbench.cli.run import compute
    from mmbench.runs.retrain import as_knocked_out, plan_retraining

    plans = {record.title: plan_retraining(record, what, data_dir=state.data_dir) for record in records}
    cells = [plan.cell for planned in plans.values() for plan in planned if plan.cell is not None]
    if cells:
        compute(state, list({cell.path: cell for cell in cells}.values()), device=device)
    return {title: [as_knocked_out(plan) for plan in planned] for title, planned in plans.items()}


def _check(record: "RunRecord") -> None:
    if record.status != "finished":
        raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")


def _print(state: State, row: "RowOfDrops", metric: str, split: SplitName) -> None:
    from mmbench.cli.tables import print_table
    from mmbench.reporting.rounding import DASH, number

    runs = row.group.finished
    seeds = ", ".join(str(record.seed) for record in runs)
    intact = number(row.drops[0].intact)
    state.out.print(
        f"{row.group.model} on {row.group.dataset}, seed {seeds}: {metric} {intact} on {split}, "
        f"mask rule {runs[0].mask_seen}",
        markup=False,
    )
    lines = []
    for drop in row.drops:
        shown = [DASH] * 3 if drop.drop is None else _numbers(drop.drop, drop.intact, drop.interval)
        lines.append([drop.name, *shown, drop.sentence])
    print_table(state, ["knock-out", "drop", "%", "interval", "this run"], lines)
    state.out.print()


def _numbers(drop: float, intact: float, interval: tuple[float, float] | None) -> list[str]:
    from mmbench.reporting.rounding import DASH, number

    percent = f"{100 * drop / intact:.1f}" if intact else DASH
    return [number(drop), percent, DASH if interval is None else f"[{', '.join(map(number, interval))}]"]


def _print_caption(state: State, rows: "Sequence[RowOfDrops]", *, retrain: bool) -> None:
    n = sum(drop.interval is not None for row in rows for drop in row.drops)
    asks = (
        "Each knock-out is a separate run, trained with it: this asks what the content is worth. Intervals are about "
        "other users, not about other trainings; give several seeds."
        if retrain
        else "The weights are as stored: this asks what the trained network leans on, not what content is worth "
        "to a network that was trained without it (--retrain)."
    )
    state.out.print(
        "drop: intact minus knocked out, mean over users (several seeds: their mean for each user). The "
        f"{n} intervals over users hold jointly with 95 % (Bonferroni). {asks}",
        markup=False,
    )
