"""A table in six formats."""

from typing import TYPE_CHECKING

from mmbench.choices import FORMATS, Format
from mmbench.errors import UsageError, suggest
from mmbench.reporting.layout import FULL, Layout, laid_out
from mmbench.reporting.table import Table

if TYPE_CHECKING:
    from rich.console import Console


def to_text(table: Table, fmt: Format, layout: Layout = FULL) -> str:
    """Return the table as text without colour codes; "terminal" is unwrapped plain text.

    CSV and JSON hold everything, whatever the layout. UsageError for `transposed` in a format that lacks it.
    """
    from mmbench.reporting import html, latex, plain, terminal

    if fmt == "terminal":
        return terminal.plain_text(lambda console: terminal.print_terminal(table, console, layout))
    writers = {
        "markdown": plain.markdown, "latex": latex.latex, "html": html.html,
        "csv": plain.long_csv, "json": plain.full_json,
    }  # fmt: skip
    if fmt not in writers:
        raise UsageError(suggest(fmt, FORMATS, what="format"))
    if layout.transposed and fmt in ("html", "csv", "json"):
        raise UsageError(f"--transpose: {fmt} has no such form; use terminal, markdown or latex")
    if fmt in ("csv", "json"):
        return writers[fmt](table)
    kept = laid_out(table, layout)
    if layout.transposed:
        return (plain.markdown_turned if fmt == "markdown" else latex.latex_turned)(kept)
    return writers[fmt](kept)


def render(table: Table, fmt: Format, console: "Console", layout: Layout = FULL) -> None:
    """Print the table; only "terminal" uses the console's width and colours."""
    if fmt == "terminal":
        from mmbench.reporting.terminal import print_terminal

        print_terminal(table, console, layout)
    else:
        console.out(to_text(table, fmt, layout), end="", highlight=False)
