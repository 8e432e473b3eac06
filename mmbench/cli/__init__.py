"""The `mmbench` command: one file per group of commands, each parses, calls one function and prints.

Nothing heavy is imported here or at the top of a command file: `mmbench --help` answers at once.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from mmbench import __version__
from mmbench.cli.state import State
from mmbench.errors import MmbenchError
from mmbench.visible import one_line

INTERRUPTED = 130  # what shells expect after Ctrl-C

app = typer.Typer(
    name="mmbench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark multi-modal sequential recommenders: prepare data, run models over seeds, report.",
    epilog="Example: mmbench prepare demo && mmbench run hm4sr sasrec pop --seeds 3 && mmbench report --table",
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"mmbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    data_dir: Annotated[
        Path, typer.Option(envvar="MMBENCH_DATA", help="Folder of raw and prepared data.")
    ] = Path("data"),
    results_dir: Annotated[Path, typer.Option(envvar="MMBENCH_RESULTS", help="Folder of results.")] = Path(
        "results"
    ),
    models_dir: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with your own models (NAME.py + NAME.toml); repeatable."),
    ] = None,
    datasets: Annotated[
        Optional[list[Path]], typer.Option(help="A further datasets.toml; repeatable.")  # noqa: UP045
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    ctx.obj = State(data_dir=data_dir, results_dir=results_dir, quiet=quiet, debug=debug)
    # Worker processes and the registries read the environment, so that every process sees the same folders.
    for variable, folders in (("MMBENCH_MODELS", models_dir), ("MMBENCH_DATASETS", datasets)):
        if folders:
            os.environ[variable] = os.pathsep.join(str(folder) for folder in folders)


from mmbench.cli import (  # noqa: E402
    audit,
    bundles,
    data,
    datasets,
    doctor,
    features,
    knockout,
    leaderboard,
    power,
    recommend,
    registry,
    report,
    reproduce,
    run,
    score,
    show,
    tune,
    why,
)

for group in (
    data,
    datasets,
    features,
    run,
    tune,
    report,
    knockout,
    recommend,
    power,
    why,
    reproduce,
    audit,
    bundles,
    score,
    leaderboard,
    registry,
    show,
    doctor,
):
    group.register(app)


def main() -> None:
    """Run the command line; known errors become one line on stderr and their exit code."""
    debug = "--debug" in sys.argv[1:]
    # A scheduler's SIGTERM ends a run as Ctrl-C does: its worker processes with it, and with the same line.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except MmbenchError as error:
        if debug:
            raise
        fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough: mmbench report | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        wrong_usage(error)
        raise
    if code == INTERRUPTED:
        fail("stopped; the same command resumes from here", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and exit."""
    typer.echo(f"error: {one_line(message)}" if code != INTERRUPTED else message, err=True)
    sys.exit(code)


def wrong_usage(error: Exception) -> None:
    """End with one line when the command line itself was wrong (an unknown option, a missing argument).

    Known by its methods: typer carries its own copy of click since 0.20, so the class has no stable home.
    """
    context, text = getattr(error, "ctx", None), getattr(error, "format_message", None)
    if text is None:
        return
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help() if context else text())
        sys.exit(2)
    where = f" (see: {context.command_path} --help)" if context else ""
    fail(f"{text().rstrip('.')}{where}", 2)
