"""`mmbench bundle` and `mmbench verify`: results that others can check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli import complete
from mmbench.cli.run import DeviceOption
from mmbench.cli.state import State
from mmbench.errors import counted

if TYPE_CHECKING:
    from mmbench.board.checks import Check

_VERIFY = """\b
Examples:
  mmbench verify hm4sr-demo.mmb.zip
  mmbench verify hm4sr-demo.mmb.zip --rescore
  mmbench verify hm4sr-demo.mmb.zip --retrain 2 --date 2026-03-01"""


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench bundle 96b31b6 -o hm4sr-demo.mmb.zip")(bundle)
    app.command(epilog=_VERIFY)(verify)


def bundle(
    ctx: typer.Context,
    result: Annotated[
        str,
        typer.Argument(
            metavar="RESULT",
            help="A configuration, as mmbench runs shows it (83a48b2), or its folder.",
            autocompletion=complete.runs,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE.mmb.zip", help="The bundle; an existing file is replaced."
        ),
    ],
    no_lists: Annotated[
        bool,
        typer.Option("--no-lists", help="Leave out lists and targets, for data that may not be passed on."),
    ] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="Include the weights, for verify --rescore.")
    ] = False,
) -> None:
    """Pack all seeds of a configuration into a file that others can check: ranks, lists, settings, curves."""
    state: State = ctx.obj
    from mmbench import api
    from mmbench.fetch.files import size_text

    written = api.bundle(result, output, lists=not no_lists, weights=weights, results_dir=state.results_dir)
    for note in written.notes:
        state.note(note)
    manifest = written.manifest
    state.out.print(
        f"{output}: {manifest.model} on {manifest.dataset}, {counted(len(manifest.seeds), 'seed')}, "
        f"{size_text(written.n_bytes)}",
        markup=False,
    )
    for seed, reason in manifest.failed.items():
        state.out.print(f"seed {seed} failed, which the bundle says: {reason}", markup=False)


def verify(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE.mmb.zip", help="A bundle.")],
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Rank its weights again and compare the ranks (needs the data).")
    ] = False,
    retrain: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            metavar="K",
            help="Train K drawn seeds and compare with its interval (needs the data).",
        ),
    ] = 0,
    date: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM-DD", show_default="today", help="Draws the seeds of --retrain."),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the code of a model that the bundle brings.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Check a bundle without trusting it: a line per check, exit code 1 after a fault.

    Its code is not run without --trust-code. The verdict of --rescore and --retrain is stored beside it.
    """
    state: State = ctx.obj
    from mmbench import api

    verdict = api.verify(
        path, rescore=rescore, retrain=retrain, date=date, trust_code=trust_code, device=device,
        data_dir=state.data_dir, on_check=lambda check: _print(state, check), say=state.note,
    )  # fmt: skip
    state.out.print(f"level: {verdict.level}", markup=False)
    if any(status == "fault" for _, status, _ in verdict.checks):
        raise typer.Exit(1)


def _print(state: State, check: "Check") -> None:
    from mmbench.visible import one_line

    state.out.print(
        f"{check.status:<11}  {check.name}: {one_line(check.text)}", markup=False, highlight=False
    )
