"""`mmbench audit`: printed numbers of the papers that cannot be right."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

from mmbench.cli.state import State


class AuditFormat(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"


_EPILOG = """\b
Examples:
  mmbench audit
  mmbench audit hm4sr/table1
  mmbench audit tmmsrec/table3 --format markdown > audit.md
  mmbench audit printed.csv"""


def register(app: typer.Typer) -> None:
    app.command(name="audit", epilog=_EPILOG)(audit)


def audit(
    ctx: typer.Context,
    table: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="PAPER/TABLE",
            show_default="a list of all tables",
            help="For example hm4sr/table1, also of a paper in the folders of MMBENCH_PAPERS; or a CSV of printed "
            "numbers (paper,table,dataset,method,metric,value), all of whose tables are examined.",
        ),
    ] = None,
    fmt: Annotated[AuditFormat, typer.Option("--format", "-f", help="Output format.")] = AuditFormat.terminal,
) -> None:
    """Find numbers in a paper's table that cannot be right, each with arithmetic to check by hand.

    Nothing is measured: hit rates must be whole numbers of users, the metrics of a row must come from some ranks,
    and improvements and statistics must follow from the numbers printed beside them.
    """
    from mmbench.audit import audit as examine
    from mmbench.audit import library, library_of_file
    from mmbench.audit.formats import LIST_HEAD, list_rows, listing, print_terminal, to_text
    from mmbench.cli.tables import print_table

    state: State = ctx.obj
    if table is not None:
        if table.endswith(".csv"):
            source = library_of_file(Path(table))
            reports = [examine(f"{paper}/{name}", source) for paper, name in source.tables()]
        else:
            reports = [examine(table)]
        if fmt.value == "terminal":
            for report in reports:
                print_terminal(report, state.out)
        else:
            state.out.out(to_text(reports, fmt.value), end="", highlight=False)
        return
    audits = [examine(f"{paper}/{name}") for paper, name in library().tables()]
    if fmt.value == "terminal":
        print_table(state, list(LIST_HEAD), list_rows(audits))
        state.err.print("mmbench audit TABLE shows the arithmetic, for example: mmbench audit hm4sr/table1")
    else:
        state.out.out(listing(audits, fmt.value), end="", highlight=False)
