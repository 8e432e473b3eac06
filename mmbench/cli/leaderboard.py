"""`mmbench leaderboard`: pages of bundles and of the results folder."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.state import State
from mmbench.errors import counted

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
    no_lists: Annotated[
        bool,
        typer.Option(
            "--no-lists",
            help="Show no slices and no lists of users, for data that may not be passed on. By default they are shown "
            "where a run has lists and its data set is prepared here.",
        ),
    ] = False,
    title: Annotated[str, typer.Option(help="Title of the index page.")] = "Leaderboard",
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", show_default="today", help="Date of this version.")
    ] = None,
) -> None:
    """Write a leaderboard as plain pages: open SITE/index.html, or serve the folder anywhere.

    Bundles with a fault are left out and named. Building again adds to the log.
    """
    state: State = ctx.obj
    from mmbench import api
    from mmbench.visible import one_line

    site = api.leaderboard(
        output, bundles=bundles, results=results, lists=not no_lists, title=title, date=date,
        data_dir=state.data_dir, results_dir=state.results_dir,
        on_left_out=lambda each: state.warn(f"left out: {each.name}: {one_line(each.reason)}"),
    )  # fmt: skip
    built, n = site.built, site.n_configurations
    state.out.print(
        f"{built.index}: {counted(n, 'configuration')} on {counted(len(built.boards), 'board')}, "
        f"{counted(built.n_pages, 'page')}, version {built.version}",
        markup=False, highlight=False,
    )  # fmt: skip
