"""The `mmbench` command: a file per group of commands, each parses, calls a function and prints.

Nothing heavy is imported here or at the top of a command file: `mmbench --help` answers at once.
"""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from mmbench import __version__
from mmbench.cli.shape import Root, arrange
from mmbench.cli.state import State
from mmbench.cli.streams import guard_streams
from mmbench.errors import FAILURES, MmbenchError
from mmbench.explain import comes_from, explain
from mmbench.paths import split_paths
from mmbench.visible import one_line

LONGEST_WORD = 300  # letters; paths are shorter
INTERRUPTED = 130  # what shells expect after Ctrl-C

app = typer.Typer(
    name="mmbench",
    cls=Root,
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
        typer.Option(
            help="Folder with your own models (NAME.py + NAME.toml); repeatable. Global options may stand anywhere."
        ),
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
    check,
    data,
    datasets,
    doctor,
    estimate,
    evaluate,
    features,
    fuse,
    knockout,
    leaderboard,
    new_model,
    plot,
    power,
    recommend,
    registry,
    report,
    reproduce,
    run,
    runs,
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
    evaluate,
    tune,
    fuse,
    estimate,
    report,
    new_model,
    check,
    runs,
    plot,
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
arrange(app)


def main() -> None:
    """Run the command; known errors become a line on stderr and their exit code."""
    # A scheduler's SIGTERM ends a run as Ctrl-C does: its worker processes with it, and with the same line.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outlet = guard_streams()
    code = run_app(debug="--debug" in sys.argv[1:])
    sys.stdout.flush()
    if outlet.fault is not None and code == 0:
        code = fail(outlet.reason, 1) if outlet.reason else 1
    sys.exit(code)


def run_app(*, debug: bool) -> int:
    """Run the command line; print an error as a line and return its exit code. With `debug`, raise it."""
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except FAILURES as error:
        if debug or (isinstance(error, SystemExit) and not comes_from(error, users_folders())):
            raise
        return tell(error)
    if code == INTERRUPTED:
        typer.echo("stopped; the same command resumes from here", err=True)
    return code if isinstance(code, int) else 0


def users_folders() -> list[Path]:
    """Return the folders of code that is not ours: the user's own models, and installed packages with entry points."""
    from mmbench.plugins import places

    return [*split_paths(os.environ.get("MMBENCH_MODELS", "")), *places()]


def tell(error: BaseException) -> int:
    """Print in a line what stopped the command, and return its exit code; raise an error of mmbench's code."""
    if isinstance(error, MmbenchError):
        return fail(str(error), error.exit_code)
    if comes_from(error, users_folders()):
        return fail(f"{explain(error, folders=users_folders())} (--debug shows the traceback)", 1)
    if isinstance(error, OSError):
        return fail(explain_refusal(error), 1)
    if getattr(error, "format_message", None) is None:
        raise error
    return tell_usage(error)


def explain_refusal(error: OSError) -> str:
    """Return what the system refused to do with a file of the user's that no other message names."""
    path = error.filename if isinstance(error.filename, str | bytes) else ""
    prefix = f"cannot use {os.fsdecode(path)}: " if path else ""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{prefix}{reason}; check the name, its permissions and the free space (--debug shows more)"


def fail(message: str, code: int) -> int:
    """Print a line on stderr, on a terminal broken at blanks, and return the exit code.

    A word of hundreds of letters is cut.
    """
    from mmbench.cli.state import for_stderr

    line = re.sub(rf"(\S{{{LONGEST_WORD}}})\S+", r"\1...", one_line(message))
    typer.echo(for_stderr(f"error: {line}"), err=True)
    return code


def tell_usage(error: Any) -> int:
    """Print in a line that the command line itself was wrong (an unknown option, a missing argument).

    Such errors are known by their methods: typer has carried a copy of click since 0.20, so that the class cannot be
    imported from a stable module.
    """
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help() if context else error.format_message())
        return 2
    where = f" (see: {context.command_path} --help)" if context else ""
    return fail(f"{error.format_message().rstrip('.')}{where}", 2)
