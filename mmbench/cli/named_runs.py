"""How commands take stored runs as arguments."""

from typing import Annotated

import typer

from mmbench.cli import complete

_AS_SHOWN = "as mmbench runs shows it (83a48b2/1{more}), or a folder"
SEVERAL_HELP = f"Runs, {_AS_SHOWN.format(more=', or 83a48b2 for all seeds')}."
ONE_HELP = f"A run, {_AS_SHOWN.format(more='')}."
SeveralRuns = Annotated[
    list[str], typer.Argument(metavar="RUN", help=SEVERAL_HELP, autocompletion=complete.runs)
]
OneRun = Annotated[str, typer.Argument(metavar="RUN", help=ONE_HELP, autocompletion=complete.runs)]
