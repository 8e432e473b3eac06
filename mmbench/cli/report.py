"""`mmbench report`: stored results as a table with tests."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.choices import Correction, Format, MaskRule, SplitName, TestName, Ties
from mmbench.cli.state import State
from mmbench.errors import MmbenchError, UsageError, suggest

if TYPE_CHECKING:
    from mmbench.reporting.table import Table
    from mmbench.runs.store import RunRecord


_BY_SUFFIX: dict[str, Format] = {
    ".md": "markdown", ".tex": "latex", ".html": "html", ".htm": "html", ".csv": "csv", ".json": "json",
}  # fmt: skip

_EPILOG = """\b
Examples:
  mmbench report --table
  mmbench report -d demo -m hm4sr -m sasrec --metric HR@20 --metric NDCG@20
  mmbench report --compare hm4sr --test users --correction bh
  mmbench report --set mask_seen=none --current-data
  mmbench report --mask-seen input --metric NDCG@10 --metric Coverage@10
  mmbench report --format latex --output table.tex
  mmbench report --format csv > results.csv"""


def register(app: typer.Typer) -> None:
    app.command(
        name="report",
        help="Print a table of results: mean ± std over seeds, best and second, tests with their terms.",
        epilog=_EPILOG,
    )(report)


def report(
    ctx: typer.Context,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset", "-d", show_default="all", help="A data set (columns, in this order); repeatable."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", show_default="all", help="A model (rows, in this order); repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            show_default="all runs",
            help="Only runs with this setting or protocol field; repeatable: values of one key are alternatives.",
        ),
    ] = None,
    current_data: Annotated[
        bool, typer.Option("--current-data", help="Only runs on the data as it is prepared now.")
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            show_default="NDCG@5 NDCG@10 MRR@5 MRR@10 HR@10",
            help="HR@K, NDCG@K, MRR@K, Recall@K, Precision@K, F1@K, MAP@K, MRR, AUC, Coverage@K; repeatable.",
        ),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", show_default=False, help="Print the table; the default.")
    ] = True,
    fmt: Annotated[
        Format | None,
        typer.Option(
            "--format", "-f", show_default="terminal, or by the suffix of --output", help="Of the output."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            show_default="the best of each column", help="The row that is tested against all others."
        ),
    ] = None,
    test: Annotated[
        TestName,
        typer.Option(help="t, wilcoxon and sign-flip ask about other seeds, users about other users."),
    ] = "t",
    correction: Annotated[
        Correction, typer.Option(help="For many comparisons, over the whole table.")
    ] = "holm",
    split: Annotated[SplitName, typer.Option(help="Which held-out targets.")] = "test",
    ties: Annotated[Ties, typer.Option(help="How a target with tied scores counts.")] = "expected",
    mask_seen: Annotated[
        MaskRule | None,
        typer.Option(
            show_default="the rule of each run's selection",
            help="The rule for items that a user already has; stored for every run, nothing is computed.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", show_default="stdout", help="Write to this file."),
    ] = None,
) -> None:
    from mmbench.evaluation.metrics import parse_metric
    from mmbench.reporting import DEFAULT_METRICS, TableRequest, build_table
    from mmbench.reporting.protocols import keep_settings

    del table  # named in the documentation; there is nothing else to print
    state: State = ctx.obj
    request = TableRequest(
        metrics=tuple(map(parse_metric, metric or [])) or DEFAULT_METRICS,
        split=split,
        ties=ties,
        mask_seen=mask_seen,
        test=test,
        correction=correction,
        compare=compare,
        datasets=tuple(dataset or []),
        models=tuple(model or []),
    )
    wanted = _parse_filters(set_ or [])
    records = _select(state, dataset or [], model or [])
    if current_data:
        records = _on_current_data(state, records)
    records = keep_settings(records, wanted)
    _note_outdated_data(state, records)
    built = build_table(records, request)
    state.warn_left_out(built.left_out)
    choices = [*(f"{key}={' or '.join(values)}" for key, values in wanted.items())]
    choices += ["the data as prepared now"] * current_data
    if choices:  # else nobody could tell from the table that runs were chosen
        runs = ("Runs", f"Only runs with {', '.join(choices)}.")
        built = replace(built, caption=(*built.caption, runs))
    _emit(state, built, fmt, output)


def _note_outdated_data(state: State, records: "Sequence[RunRecord]") -> None:
    """Note which data sets are not what `prepare` would make today; those that cannot be opened matter to no table."""
    from mmbench.cli.tables import note_outdated
    from mmbench.data.store import is_prepared, open_prepared

    for name in dict.fromkeys(record.dataset for record in records):
        with suppress(MmbenchError):
            if is_prepared(name, state.data_dir):
                note_outdated(state, open_prepared(name, state.data_dir))


def _select(state: State, datasets: Sequence[str], models: Sequence[str]) -> "list[RunRecord]":
    """The records asked for; a name that no result has fails with the nearest one.

    A damaged record matters if it was asked for: then a line says that it is left out. When nothing else is
    left, it is the error.
    """
    from mmbench.runs.store import lies_in, read_all, select

    results_dir = state.results_dir
    damaged: list[tuple[Path, MmbenchError]] = []
    records = list(read_all(results_dir, on_error=lambda path, error: damaged.append((path, error))))
    if not records and not damaged:
        raise UsageError(
            f"no results in {results_dir}; make some, for example: mmbench run sasrec pop --seeds 3, "
            "or name their folder with --results-dir"
        )
    for key, asked, known, what in (
        ("datasets", datasets, {one.dataset for one in records}, "data set"),
        ("models", models, {one.model for one in records}, "model"),
    ):
        for name in asked:
            if name not in known and not any(lies_in(path, **{key: [name]}) for path, _ in damaged):
                raise UsageError(f"{suggest(name, known, what=what)} (among the results in {results_dir})")
    found = select(records, datasets=datasets, models=models)
    faults = [error for path, error in damaged if lies_in(path, datasets=datasets, models=models)]
    if not found and faults:
        raise faults[0]
    if not found:
        raise UsageError(f"{', '.join(models)} has no results on {', '.join(datasets)}; run it first")
    state.warn_left_out(map(str, faults))
    return found


def _parse_filters(given: Sequence[str]) -> dict[str, list[str]]:
    """`--set` texts as key -> values."""
    wanted: dict[str, list[str]] = {}
    for text in given:
        key, _, value = text.partition("=")
        if not key or not value:
            raise UsageError(f"--set {text!r}: write it as KEY=VALUE, for example --set mask_seen=none")
        wanted.setdefault(key, []).append(value)
    return wanted


def _on_current_data(state: State, records: "Sequence[RunRecord]") -> "list[RunRecord]":
    """Runs whose data set is still prepared as it was then; a data set that loses all its runs is named."""
    from mmbench.data.store import open_prepared
    from mmbench.reporting.protocols import CURRENT, keep_data

    hashes, reasons = {}, {}
    for name in dict.fromkeys(one.dataset for one in records):
        reasons[name] = f"no run on {name} was made with the data as it is prepared now; run the models again"
        try:
            hashes[name] = open_prepared(name, state.data_dir).hash
        except MmbenchError as error:
            reasons[name] = str(error)
    kept = keep_data(records, hashes)
    lost = [reason for name, reason in reasons.items() if not any(one.dataset == name for one in kept)]
    if not kept:
        raise UsageError(f"{CURRENT}: {lost[0]}")
    for reason in lost:
        state.warn(f"left out of the table: {reason}")
    return kept


def _emit(state: State, table: "Table", fmt: Format | None, output: Path | None) -> None:
    from mmbench.atomic import write_text
    from mmbench.reporting import render, to_text

    suffix: Format = _BY_SUFFIX.get(output.suffix.lower(), "terminal") if output else "terminal"
    chosen = fmt or suffix
    if output is None:
        render(table, chosen, state.out)
        return
    write_text(output, to_text(table, chosen))
    state.err.print(f"wrote {output}", markup=False)
