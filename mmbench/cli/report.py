"""`mmbench report`: stored results as a table with tests."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench import __version__
from mmbench.choices import Correction, Format, MaskRule, Rows, SplitName, Style, TestName, Ties
from mmbench.cli import complete
from mmbench.cli.bands import BandName
from mmbench.cli.state import State
from mmbench.cli.words import filters, words
from mmbench.errors import MmbenchError, UsageError

if TYPE_CHECKING:
    from mmbench.reporting.layout import Layout
    from mmbench.reporting.table import Table
    from mmbench.runs.store import RunRecord


_BY_SUFFIX: dict[str, Format] = {
    ".txt": "terminal", ".md": "markdown", ".tex": "latex", ".html": "html", ".htm": "html", ".csv": "csv",
    ".json": "json",
}  # fmt: skip

_EPILOG = """\b
Examples:
  mmbench report --table
  mmbench report -d demo -m hm4sr -m sasrec --metric HR@20 --metric NDCG@20
  mmbench report --compare hm4sr --test users --correction bh
  mmbench report --set mask_seen=none --current-data
  mmbench report --mask-seen input --metric NDCG@10 --metric Coverage@10
  mmbench report -m hm4sr -m sasrec --slice transition --compare hm4sr
  mmbench report --slice tied --within transition=never
  mmbench report --style paper --output table.tex
  mmbench report --brief --sort HR@10 --top 5
  mmbench report --format csv > results.csv"""


SET_FORM = "KEY=VALUE, for example --set mask_seen=none"


def register(app: typer.Typer) -> None:
    app.command(
        name="report",
        help="Print a table of results: mean ± std over seeds, best and second, significance tests.",
        epilog=_EPILOG,
    )(report)


def report(
    ctx: typer.Context,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            show_default="all",
            help="A data set (columns, in this order); repeatable.",
            autocompletion=complete.prepared,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            show_default="all",
            help="A model (rows, in this order); repeatable.",
            autocompletion=complete.models,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            show_default="all runs",
            help="Only runs with this setting or protocol field; repeatable: values of a key are alternatives.",
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
            help="HR@K, NDCG@K, MRR@K, Recall@K, Precision@K, F1@K, MAP@K, MRR, AUC; of lists Coverage@K, Gini@K, "
            "Entropy@K, Novelty@K, Popularity@K, Tail@K, ILD-text@K, Serendipity@K, Repeats@K; against popularity "
            "HR-debiased@K, HR-macro@K, HR-ips@K (NDCG, MRR alike); repeatable.",
            autocompletion=complete.metrics,
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table", show_default=False, help="Print the table, as report does without this option."
        ),
    ] = True,
    fmt: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            show_default="terminal, or by the suffix of --output",
            help="How the table is written.",
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
        Correction, typer.Option(help="Correction for many comparisons, over the whole table.")
    ] = "holm",
    split: Annotated[SplitName, typer.Option(help="The held-out targets that are reported.")] = "test",
    ties: Annotated[Ties, typer.Option(help="How a target with tied scores counts.")] = "expected",
    mask_seen: Annotated[
        MaskRule | None,
        typer.Option(
            show_default="the rule of each run's selection",
            help="The rule for items that a user already has; stored for every run, nothing is computed.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="METRIC|name", show_default="the first column", help="What orders the rows, best first."
        ),
    ] = "",
    top: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", show_default="all", help="Print only the first N rows, and the floors."
        ),
    ] = 0,
    floors: Annotated[bool, typer.Option(help="Include the sanity baselines (Pop, Random, ...).")] = True,
    tests: Annotated[bool, typer.Option(help="Print the tests below the rows, and stars.")] = True,
    brief: Annotated[
        bool, typer.Option("--brief", help="Means only: no deviations, floors, tests, notes.")
    ] = False,
    style: Annotated[
        Style,
        typer.Option(
            help="paper: as a paper prints it, with stars and the gain, without tests and warnings."
        ),
    ] = "full",
    transpose: Annotated[
        bool, typer.Option("--transpose", help="A line per metric and a column per model.")
    ] = False,
    notes: Annotated[
        bool | None,
        typer.Option(
            show_default="not on a terminal",
            help="Print warnings in full, and what data, metrics and tests are.",
        ),
    ] = None,
    unequal_budgets: Annotated[
        bool,
        typer.Option(
            "--unequal-budgets", help="Give stars also where rows were tuned with different budgets."
        ),
    ] = False,
    rows: Annotated[
        Rows,
        typer.Option(help="Only rows with the recipe's settings, or tuned ones, or both side by side."),
    ] = "all",
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice",
            metavar="FAMILY,...",
            help="Print a metric by slices of the targets instead: history, popularity, count, transition, memgen, "
            "cooccur, repeat, tied, gap, text, image, near, history-text, memgen-symmetry, ... (docs/trust.md); "
            "--compare MODEL asks whether its gain differs between them.",
        ),
    ] = None,
    within: Annotated[
        str,
        typer.Option(
            metavar="FAMILY=LABEL",
            show_default="all users",
            help="With --slice: only users of this slice, e.g. transition=never.",
        ),
    ] = "",
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="With several --slice families and --compare: how the gain depends on each, the others held equal.",
        ),
    ] = False,
    band: Annotated[
        BandName | None,
        typer.Option(
            help="Instead, print each row's mean and range over the orders of equal times that it was run under.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Instead, print the share of items that lists of K items of two rows, or two seeds, have in common.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", show_default="stdout", help="Write to this file."),
    ] = None,
) -> None:
    from mmbench import api
    from mmbench.evaluation.metrics import DEFAULT_METRICS, asked_metric, parse_metric
    from mmbench.reporting.layout import BRIEF, Layout

    del table  # named in the documentation; there is nothing else to print
    state: State = ctx.obj
    chosen, datasets, models = _format_of(fmt, output), words(dataset), words(model)
    metrics = list(map(parse_metric, words(metric))) or DEFAULT_METRICS
    layout = Layout(style=style, notes=notes, tests=tests, transposed=transpose)
    if brief:
        layout = replace(BRIEF, transposed=transpose)
    runs = api.load(
        datasets=datasets, models=models, settings=filters(set_, form=SET_FORM), current_data=current_data,
        data_dir=state.data_dir, results_dir=state.results_dir,
    )  # fmt: skip
    state.warn_left_out(runs.left_out)
    _note_outdated_data(state, runs)
    if (within or together) and slice_ is None:
        option = f"--within {within}" if within else "--together"
        raise UsageError(f"{option}: it goes with --slice FAMILY")
    views = {"--slice": slice_, "--band": band, "--overlap": overlap}
    if len(asked := [option for option, value in views.items() if value is not None]) > 1:
        raise UsageError(f"{' and '.join(asked)}: ask for one of them at a time")
    view_metrics = metrics if metric else [asked_metric(None, (run.n_items for run in runs))]
    if slice_ is not None:
        from mmbench.cli.slices import print_slices

        print_slices(
            state, runs, words([slice_]), metrics=view_metrics, split=split,
            mask_seen=mask_seen, compare=compare, within=within, together=together, fmt=fmt, output=output,
        )  # fmt: skip
        return
    if band is not None:
        from mmbench.cli.bands import print_bands

        print_bands(
            state, runs, metrics=view_metrics, split=split, mask_seen=mask_seen, fmt=fmt, output=output,
        )  # fmt: skip
        return
    if overlap is not None:
        from mmbench.cli.overlap import print_overlap

        print_overlap(state, runs, k=overlap, mask_seen=mask_seen, fmt=fmt, output=output)
        return
    built = api.report(
        runs, datasets=datasets, models=models, metrics=metrics, compare=compare, test=test, correction=correction,
        split=split, ties=ties, mask_seen=mask_seen, unequal_budgets=unequal_budgets, sort=sort, top=top, rows=rows,
        floors=floors and not brief, data_dir=state.data_dir,
    )  # fmt: skip
    state.warn_left_out(built.left_out)
    _emit(state, built.table, chosen, output, layout)


def _format_of(fmt: Format | None, output: Path | None) -> Format:
    """Return the format that is asked for, by its name or by the suffix of the file."""
    suffix = "" if output is None else output.suffix.lower()
    if fmt is not None or not suffix:
        return fmt or "terminal"
    if suffix not in _BY_SUFFIX:
        raise UsageError(
            f"--output {output}: no format has the suffix {suffix}; use {', '.join(_BY_SUFFIX)}, or add --format"
        )
    return _BY_SUFFIX[suffix]


def _note_outdated_data(state: State, records: "Sequence[RunRecord]") -> None:
    """Note which data sets are not what `prepare` would make today; those that cannot be opened matter to no table."""
    from mmbench.cli.tables import note_outdated
    from mmbench.data.store import is_prepared, open_prepared

    for name in dict.fromkeys(record.dataset for record in records):
        with suppress(MmbenchError):
            if is_prepared(name, state.data_dir):
                note_outdated(state, open_prepared(name, state.data_dir))


def _emit(state: State, table: "Table", fmt: Format, output: Path | None, layout: "Layout") -> None:
    from mmbench.atomic import write_text
    from mmbench.reporting import render, to_text

    if output is None:
        render(table, fmt, state.out, layout)
        return
    made = replace(table, caption=(*table.caption, ("Made", _made_by())))
    write_text(output, to_text(made, fmt, layout))
    state.err.print(f"wrote {output}", markup=False)


def _made_by() -> str:
    """Return what makes a file, for whoever finds it later: version, day and command."""
    day = datetime.now().astimezone().date().isoformat()
    return f"by mmbench {__version__} on {day}: mmbench {shlex.join(sys.argv[1:])}"
