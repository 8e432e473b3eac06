"""`mmbench recommend`: what a stored run recommends, to a user or to all."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmbench.choices import DEFAULT_LISTS, MaskRule
from mmbench.cli.named_runs import OneRun
from mmbench.cli.state import State
from mmbench.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from mmbench.reporting.recommended import Recommended

ShownAs = Literal["terminal", "html"]
TABLES = (".parquet", ".csv")

_EPILOG = """\b
Examples:
  mmbench recommend 83a48b2/1 --user U0001
  mmbench recommend results/demo/hm4sr/*/seed_1 --user U0001 --format html -o user.html
  mmbench recommend results/demo/hm4sr/*/seed_1 --all -o lists.parquet"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(recommend)


def recommend(
    ctx: typer.Context,
    run: OneRun,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user's id, as in the raw data.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All users' lists as a table; needs --output.")
    ] = False,
    k: Annotated[
        int | None,
        typer.Option(
            "--k", min=1, show_default="10; all that are stored with --all", help="How many items to show."
        ),
    ] = None,
    mask_seen: Annotated[
        MaskRule | None,
        typer.Option(
            show_default="the run's own rule", help="Items that may not be recommended: none or input."
        ),
    ] = None,
    fmt: Annotated[ShownAs, typer.Option("--format", "-f", help="Format of a user's page.")] = "terminal",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", show_default="stdout", help="Write to this file.")
    ] = None,
) -> None:
    """Show a user's history beside the list that a stored run made for it, or export the lists of all users."""
    state: State = ctx.obj
    if every == (user is not None):
        raise UsageError("give either --user ID or --all")
    from mmbench import api
    from mmbench.cli.tables import print_looks
    from mmbench.runs.naming import run_named

    record = run_named(state.results_dir, run)
    if every:
        if output is None or output.suffix not in TABLES:
            raise UsageError(f"--all needs --output FILE, a name in {' or '.join(TABLES)}")
        from mmbench.reporting.recommended import all_lists

        stored = record.ranking("test").list_length or DEFAULT_LISTS
        _write_table(all_lists(record, k=k or stored, data_dir=state.data_dir, rule=mask_seen), output)
        state.err.print(f"wrote {output}", markup=False)
        print_looks(state, [record], is_aside=True)
        return
    assert user is not None
    shown = api.recommend(record, user, k=k or 10, mask_seen=mask_seen, data_dir=state.data_dir)
    if fmt == "html":
        _emit_page(state, shown, output)
    elif output is not None:
        raise UsageError("--output takes a page; add --format html")
    else:
        _print(state, shown)
    print_looks(state, [record], is_noted_before=True, is_aside=fmt == "html")


def _write_table(table: "pd.DataFrame", file: Path) -> None:
    from mmbench.atomic import write_text, write_with
    from mmbench.reporting.plain import csv_text

    try:
        if file.suffix == ".csv":
            write_text(file, csv_text(list(table.columns), table.itertuples(index=False)))
        else:
            write_with(file, lambda temporary: table.to_parquet(temporary, index=False))
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror or error}; choose another --output") from error


def _emit_page(state: State, shown: "Recommended", output: Path | None) -> None:
    from mmbench.atomic import write_text
    from mmbench.reporting.recommended import page

    text = page(shown, state.data_dir)
    if output is None:
        typer.echo(text)
        return
    write_text(output, text)
    state.err.print(f"wrote {output}", markup=False)


def _print(state: State, shown: "Recommended") -> None:
    from mmbench.cli.tables import print_table
    from mmbench.reporting.recommended import N_EVENTS
    from mmbench.visible import one_line

    record, events = shown.record, shown.history[-N_EVENTS:]
    state.out.print(f"{record.title}, user {one_line(shown.user)}", markup=False)
    state.out.print(f"history, newest {len(events)} of {len(shown.history)} events:", markup=False)
    lines = [[event.time.date().isoformat(), event.item.title, event.item.categories] for event in events]
    print_table(state, ["time", "title", "categories"], lines)
    state.out.print(f"recommended, mask rule {shown.rule}:", markup=False)
    entries = [
        [str(entry.rank), entry.item.title, entry.item.categories, "taken next" if entry.is_target else ""]
        for entry in shown.entries
    ]
    print_table(state, ["", "title", "categories", ""], entries)
    state.out.print(shown.target_line, markup=False)
