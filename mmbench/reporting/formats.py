"""A table in six formats."""

from typing import TYPE_CHECKING

from mmbench.choices import FORMATS, Format
from mmbench.errors import UsageError, suggest
from mmbench.reporting.table import Table

if TYPE_CHECKING:
    from rich.console import Console


def to_text(table: Table, fmt: Format) -> str:
    """Return the table as text without colour codes; "terminal" is unwrapped plain text."""
    from mmbench.reporting import html, latex, plain, terminal

    if fmt == "terminal":
        return terminal.plain_text(lambda console: terminal.print_terminal(table, console))
    writers = {
        "markdown": plain.markdown, "latex": latex.latex, "html": html.html,
        "csv": plain.long_csv, "json": plain.full_json,
    }  # fmt: skip
    if fmt not in writers:
        raise UsageError(suggest(fmt, FORMATS, what="format"))
    return writers[fmt](table)


def render(table: Table, fmt: Format, console: "Console") -> None:
    """Print the table; only "terminal" uses the console's width and colours."""
    if fmt == "terminal":
        from mmbench.reporting.terminal import print_terminal

        print_terminal(table, console)
    else:
        console.out(to_text(table, fmt), end="", highlight=False)
