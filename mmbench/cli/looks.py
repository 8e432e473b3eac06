"""`mmbench datasets stats`: a prepared data set as a table, a few lines of shapes, plots, a page or JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmbench.cli.options import PreparedDataset
from mmbench.cli.state import State
from mmbench.cli.tables import open_to_look, print_statistics, print_table
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.look.gather import Look


def stats(
    ctx: typer.Context,
    name: PreparedDataset,
    plots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Save every plot as PNG and SVG, with captions."),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Save a page with everything, pictures included."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all numbers as JSON instead of tables.")
    ] = False,
) -> None:
    """Show statistics of a prepared data set beside the printed counts; plot it, and write a page about it."""
    state: State = ctx.obj
    from mmbench.look.gather import look

    _check_targets(plots, html)
    prepared = open_to_look(state, name)
    content = look(prepared)
    if as_json:
        _print_json(content)
    else:
        print_statistics(state, prepared)
        _print_shapes(state, content)
    if plots is not None:
        _save_plots(state, content, plots)
    if html is not None:
        _save_page(state, content, html)
    is_drawn = plots is not None or html is not None
    for note in content.notes if is_drawn else content.feature_notes:
        state.err.print(f"{prepared.name}: {note}", markup=False)


def _check_targets(plots: Path | None, html: Path | None) -> None:
    """Raise UsageError for a file where a folder is needed, and vice versa."""
    if plots is not None and plots.exists() and not plots.is_dir():
        raise UsageError(f"--plots {plots} is a file; name a folder for the plots")
    if html is not None and html.is_dir():
        raise UsageError(f"--html {html} is a folder; name a file in it, e.g. {html / 'page.html'}")


def _print_json(content: "Look") -> None:
    from mmbench.look.gather import as_json

    manifest = content.prepared.manifest.to_json()
    kept = ("name", "title", "synthetic", "hash", "protocol", "counts", "statistics", "printed")
    typer.echo(json.dumps({**{key: manifest[key] for key in kept}, "look": as_json(content)}, indent=1))


def _print_shapes(state: State, content: "Look") -> None:
    from mmbench.look.terminal import shape_rows

    unicode = "utf" in state.out.encoding.lower()
    state.out.print()
    print_table(state, ["", "shape", "from left to right"], shape_rows(content, ascii_only=not unicode))


def _save_plots(state: State, content: "Look", folder: Path) -> None:
    from mmbench.look.save import save_plots

    def progress(name: str) -> None:
        state.err.print(f"{content.name}: drawing {name}", markup=False)

    written = save_plots(content, folder, progress)
    state.err.print(f"{content.name}: {len(written)} files in {folder}", markup=False)


def _save_page(state: State, content: "Look", file: Path) -> None:
    from mmbench.atomic import write_text
    from mmbench.cli.statistics import statistic_rows
    from mmbench.fetch.files import size_text
    from mmbench.look.page import html

    write_text(file, html(content, statistic_rows(content.prepared.manifest)))
    state.err.print(f"{content.name}: page {file}, {size_text(file.stat().st_size)}", markup=False)
