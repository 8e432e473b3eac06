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
        bool, typer.Option("--json", help="JSON, for a bug report; your home folder becomes ~.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Also check whether the hub can be reached.")
    ] = False,
) -> None:
    """Examine the environment: versions, devices, disk, caches, what is missing or unfinished.

    The exit code is 1 if a problem makes mmbench unusable, else 0.
    """
    from mmbench.doctor import examine, usable

    state: State = ctx.obj
    findings = examine(state.data_dir, state.results_dir, online=online)
    if as_json:
        lines = [
            {
                "level": finding.level,
                "topic": finding.topic,
                "text": _hide_home(finding.text),
                "do": _hide_home(finding.do),
            }
            for finding in findings
        ]
        content = {"mmbench": __version__, "usable": usable(findings), "findings": lines}
        typer.echo(json.dumps(content, indent=1))
    else:
        for finding in findings:
            state.out.print(f"{finding.level:8}", style=STYLES[finding.level], end="")
            state.out.print(f"{finding.topic:12} {finding.text}", markup=False)
            if finding.do:
                state.out.print(f"{'':21}-> {finding.do}", markup=False)
    if not usable(findings):
        raise typer.Exit(1)


def _hide_home(text: str) -> str:
    """Replace the user's home folder by ~."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
