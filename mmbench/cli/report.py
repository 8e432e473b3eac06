"""`mmbench report`: stored results as a table with tests."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmbench.cli.state import State
from mmbench.errors import MmbenchError, UsageError, suggest

if TYPE_CHECKING:
    from mmbench.reporting.table import Table
    from mmbench.runs.store import RunRecord


class FormatOption(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    html = "html"
    csv = "csv"
    json = "json"


class WhichTest(StrEnum):
    t = "t"
    wilcoxon = "wilcoxon"
    sign_flip = "sign-flip"
    users = "users"


class CorrectionOption(StrEnum):
    holm = "holm"
    bh = "bh"
    none = "none"


class SplitOption(StrEnum):
    test = "test"
    valid = "valid"


class TiesOption(StrEnum):
    expected = "expected"
    optimistic = "optimistic"
    pessimistic = "pessimistic"


_BY_SUFFIX = {
    ".md": "markdown", ".tex": "latex", ".html": "html", ".htm": "html", ".csv": "csv", ".json": "json",
}  # fmt: skip

_EPILOG = """\b
Examples:
  mmbench report --table
  mmbench report -d demo -m hm4sr -m sasrec --metric HR@20 --metric NDCG@20
  mmbench report --compare hm4sr --test users --correction bh
  mmbench report --set mask_seen=none --current-data
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
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--dataset", "-d", show_default="all", help="A data set (columns, in this order); repeatable."
        ),
    ] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--model", "-m", show_default="all", help="A model (rows, in this order); repeatable."),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
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
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--metric",
            show_default="NDCG@5 NDCG@10 MRR@5 MRR@10 HR@10",
            help="HR@K, NDCG@K, MRR@K, Recall@K, Precision@K, F1@K, MAP@K, MRR, AUC; repeatable.",
        ),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", show_default=False, help="Print the table; the default.")
    ] = True,
    fmt: Annotated[
        Optional[FormatOption],  # noqa: UP045
        typer.Option(
            "--format", "-f", show_default="terminal, or by the suffix of --output", help="Of the output."
        ),
    ] = None,
    compare: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            show_default="the best of each column", help="The row that is tested against all others."
        ),
    ] = None,
    test: Annotated[
        WhichTest,
        typer.Option(help="t, wilcoxon and sign-flip ask about other seeds, users about other users."),
    ] = WhichTest.t,
    correction: Annotated[
        CorrectionOption, typer.Option(help="For many comparisons, over the whole table.")
    ] = CorrectionOption.holm,
    split: Annotated[SplitOption, typer.Option(help="Which held-out targets.")] = SplitOption.test,
    ties: Annotated[
        TiesOption, typer.Option(help="How a target with tied scores counts.")
    ] = TiesOption.expected,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", show_default="stdout", help="Write to this file."),
    ] = None,
) -> None:
    from mmbench.evaluation.metrics import parse_metric
    from mmbench.reporting import DEFAULT_METRICS, build_table
    from mmbench.reporting.protocols import keep_settings

    del table  # named in the documentation; there is nothing else to print
    state: State = ctx.obj
    metrics = [parse_metric(one) for one in metric or []]
    wanted = _parse_filters(set_ or [])
    records = _select(state, dataset or [], model or [])
    if current_data:
        records = _on_current_data(state, records)
    records = keep_settings(records, wanted)
    _note_outdated_data(state, records)
    built = build_table(
        records,
        metrics=metrics or DEFAULT_METRICS,
        split=split.value,
        ties=ties.value,
        compare=compare,
        test=test.value,
        correction=correction.value,
        datasets=dataset or [],
        models=model or [],
    )
    said = [*(f"{key}={' or '.join(values)}" for key, values in wanted.items())]
    said += ["the data as prepared now"] * current_data
    if said:  # else nobody could tell from the table that runs were chosen
        built = replace(built, caption=(*built.caption, ("Runs", f"Only runs with {', '.join(said)}.")))
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
    records = list(read_all(results_dir, skipped=lambda path, error: damaged.append((path, error))))
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
    for fault in faults:
        state.warn(f"left out of the table: {fault}")
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


def _emit(state: State, table: "Table", fmt: FormatOption | None, output: Path | None) -> None:
    from mmbench.atomic import write_text
    from mmbench.reporting import render, to_text

    suffix = _BY_SUFFIX.get(output.suffix.lower(), "terminal") if output else "terminal"
    chosen = fmt or FormatOption(suffix)
    if output is None:
        render(table, chosen.value, state.out)
        return
    write_text(output, to_text(table, chosen.value))
    state.err.print(f"wrote {output}", markup=False)
