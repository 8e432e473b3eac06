"""`mmbench evaluate`: stored weights ranked again, or stored rankings, as numbers."""

from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.choices import DEFAULT_LISTS, MaskRule, SplitName
from mmbench.cli import complete
from mmbench.cli.named_runs import SeveralRuns
from mmbench.cli.run import DeviceOption, ListsOption
from mmbench.cli.state import State
from mmbench.cli.words import words
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.evaluation.evidence import Ranking
    from mmbench.evaluation.metrics import Metric
    from mmbench.runs.store import RunRecord


DEFAULTS = ("HR@10", "NDCG@10", "MRR@10")


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench evaluate results/demo/sasrec/*/seed_1 --metric HR@20")(evaluate)


def evaluate(
    ctx: typer.Context,
    runs: SeveralRuns,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric to print, e.g. HR@20 or Coverage@10; repeatable.",
            show_default=" ".join(DEFAULTS),
            autocompletion=complete.metrics,
        ),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option(help="Rank the stored best weights again; --no-rescore only reads the stored rankings."),
    ] = True,
    mask_seen: Annotated[
        MaskRule | None,
        typer.Option(
            show_default="the run's own rule",
            help="Print the numbers under this rule for items that a user already has; all rules are stored.",
        ),
    ] = None,
    lists: ListsOption = DEFAULT_LISTS,
    device: DeviceOption = "auto",
) -> None:
    """Rank stored checkpoints again, store the rankings under every mask rule, print metrics; nothing is trained."""
    state: State = ctx.obj
    from mmbench.cli.tables import print_looks, print_table
    from mmbench.evaluation.metrics import parse_metric, within_all
    from mmbench.runs.naming import runs_named

    wanted = [parse_metric(name) for name in words(metric)]
    records = runs_named(state.results_dir, runs)
    n_items = min(record.n_items for record in records)
    for name in wanted:
        name.check(n_items)
    wanted = wanted or within_all(map(parse_metric, DEFAULTS), n_items)
    head, rows = ["run", "split", *map(str, wanted)], []
    for record in records:
        for ranking in _rankings_to_print(state, record, rescore, device, lists):
            rule = mask_seen or record.mask_seen
            values = [_value_text(state, name, ranking, rule, record) for name in wanted]
            rows.append([str(record.path), ranking.name, *values])
    if state.out.is_terminal:
        print_table(state, head, rows)
    else:
        for row in (head, *rows):
            typer.echo("\t".join(row))  # not rich, which turns tabs into spaces
    print_looks(state, records, is_aside=True)


def _rankings_to_print(
    state: State, record: "RunRecord", rescore: bool, device: str, lists: int
) -> "list[Ranking]":
    """Return valid and test, and those of an ensemble's members when they are ranked again."""
    from mmbench.runs.schedule import rank_again

    if not rescore:
        return [record.ranking("valid"), record.ranking("test")]
    evaluated = rank_again(record, data_dir=state.data_dir, device=device, lists=lists)
    if evaluated.n_changed:
        state.err.print(
            f"{record.path}: {evaluated.n_changed:,} ranks differ from those stored before; "
            "run.json says what ranked them (environment.ranked_again)", markup=False,
        )  # fmt: skip
    else:
        state.err.print(f"{record.path}: ranks identical to those stored before", markup=False)
    return evaluated.rankings


def _value_text(
    state: State, metric: "Metric", ranking: "Ranking", rule: MaskRule, record: "RunRecord"
) -> str:
    """Return a metric of a ranking; n/a where no lists are made."""
    from mmbench.evaluation.evidence import ListsError
    from mmbench.runs.facts import data_facts

    if metric.needs == "lists" and ranking.name != "test":
        return "n/a"
    split: SplitName = "valid" if ranking.split == "valid" else "test"
    facts = data_facts(record, split, state.data_dir) if metric.reads_data else None
    try:
        return f"{metric.value(ranking, rule, facts=facts):.6f}"
    except ListsError as error:
        raise UsageError(
            f"{metric} of {record.path}: {error}; run: mmbench evaluate {record.path} --lists {metric.k}"
        ) from error
