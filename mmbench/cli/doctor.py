"""`mmbench doctor`: is this machine fit for mmbench, and what is missing for which command?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from mmbench import __version__
from mmbench.cli.state import State

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench doctor --json > doctor.json")(doctor)


def doctor(
    ctx: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON, for a bug report; your home folder is written as ~.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Also ask whether the hub can be reached.")
    ] = False,
) -> None:
    """Look at the environment: versions, devices, disk, caches, what is missing or left unfinished.

    Ends with 1 when a problem makes mmbench unusable, else with 0.
    """
    from mmbench.doctor import examine, usable

    state: State = ctx.obj
    findings = examine(state.data_dir, state.results_dir, online=online)
    if as_json:
        lines = [
            {"level": one.level, "topic": one.topic, "text": _homeless(one.text), "do": _homeless(one.do)}
            for one in findings
        ]
        content = {"mmbench": __version__, "usable": usable(findings), "findings": lines}
        typer.echo(json.dumps(content, indent=1))
    else:
        for one in findings:
            state.out.print(f"{one.level:8}", style=STYLES[one.level], end="")
            state.out.print(f"{one.topic:12} {one.text}", markup=False)
            if one.do:
                state.out.print(f"{'':21}-> {one.do}", markup=False)
    if not usable(findings):
        raise typer.Exit(1)


def _homeless(text: str) -> str:
    """Paths without the user's name."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
