"""`mmbench leaderboard`: pages of bundles and of the results folder."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.state import State
from mmbench.errors import DataError

_EPILOG = """\b
Examples:
  mmbench leaderboard --bundles bundles/ -o site/
  mmbench leaderboard --bundles bundles/ --no-results -o site/ --title "Reading group" """


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(leaderboard)


def leaderboard(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SITE", help="Folder of the pages.")],
    bundles: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of bundles, with the verdicts of `verify`.")
    ] = None,
    results: Annotated[bool, typer.Option(help="Also show the runs of the results folder.")] = True,
    title: Annotated[str, typer.Option(help="Of the index.")] = "Leaderboard",
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", show_default="today", help="Of this version.")
    ] = None,
) -> None:
    """Write a leaderboard as plain pages: open SITE/index.html, or serve the folder anywhere.

    Bundles with a fault are left out and named. Building again adds to the log.
    """
    state: State = ctx.obj
    from mmbench.board import entries as made
    from mmbench.board.site import build_site
    from mmbench.board.verification import check_date, today
    from mmbench.visible import one_line

    if bundles is not None and not bundles.is_dir():
        raise DataError(
            f"{bundles} is not a folder; mmbench bundle RESULT -o {bundles}/NAME.mmb.zip makes bundles"
        )
    left_out: list[made.LeftOut] = []
    entries = list(made.entries_of_bundles(bundles, on_left_out=left_out.append)) if bundles else []
    if results:
        entries += made.entries_of_results(state.results_dir, on_left_out=left_out.append)
    entries = made.without_repeats(entries, on_left_out=left_out.append)
    for each in left_out:
        state.warn(f"left out: {each.name}: {one_line(each.reason)}")
    day = today() if date is None else check_date(date)
    built = build_site(entries, output, left_out=left_out, date=day, title=title)
    state.out.print(
        f"{built.index}: {len(entries)} configuration{'s' * (len(entries) != 1)} on {len(built.boards)} "
        f"board{'s' * (len(built.boards) != 1)}, {built.n_pages} pages, version {built.version}",
        markup=False, highlight=False,
    )  # fmt: skip
