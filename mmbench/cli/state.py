"""What the global options say, and the two consoles: results go to stdout, everything else to stderr."""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmbench.errors import DataError
from mmbench.visible import visible

if TYPE_CHECKING:
    from rich.console import Console


def for_stderr(text: str) -> str:
    """Return a line for stderr: on a terminal broken at blanks, elsewhere as it is."""
    if not sys.stderr.isatty():
        return text
    from mmbench.console import at_blanks

    return at_blanks(text, shutil.get_terminal_size().columns)


@dataclass
class State:
    data_dir: Path
    results_dir: Path
    quiet: bool = False
    debug: bool = False

    @cached_property
    def out(self) -> "Console":
        """Return stdout, for tables and other results; never wrapped when it is not a terminal."""
        from mmbench.console import SafeConsole

        console = SafeConsole()
        if not console.is_terminal:
            console.width = 1000  # a pipe or a file has no edge to wrap at
        return console

    @property
    def is_ascii_only(self) -> bool:
        """Return whether stdout cannot show blocks, bars and arrows."""
        return "utf" not in self.out.encoding.lower()

    @cached_property
    def err(self) -> "Console":
        """Return stderr, for progress and remarks; silent with --quiet."""
        from mmbench.console import SafeConsole

        return SafeConsole(stderr=True, quiet=self.quiet)

    def warn(self, text: str) -> None:
        """Print a line on stderr, with --quiet too: something that was requested is not in the output."""
        typer.echo(for_stderr(f"warning: {visible(text)}"), err=True)

    def warn_left_out(self, texts: Iterable[str]) -> None:
        """Say which runs are not in a table, and why."""
        for text in texts:
            self.warn(f"left out of the table: {text}")

    def warn_plugins(self, faults: Iterable[str]) -> None:
        """Say what of installed packages is left out, and why."""
        for fault in faults:
            self.warn(f"plugin left out: {fault}")

    def note(self, text: str) -> None:
        """Print a remark as a line on stderr; silent with --quiet."""
        self.err.print(f"note: {text}", markup=False)

    def skip_data(self, fault: DataError) -> None:
        """Say which prepared data set is passed over; for `list_prepared(..., on_error=...)`."""
        self.warn(f"data set skipped: {fault}")

    def skip_features(self, fault: DataError) -> None:
        """Say which stored features are passed over; for `list_features(..., on_error=...)`."""
        self.warn(f"features skipped: {fault}")
