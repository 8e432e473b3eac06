"""What a download looks like on a terminal: a bar per file."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mmbench.fetch.lines import DownloadLines


class DownloadBars(DownloadLines):
    """Shows bars for the raw files that are fetched; a context, at whose end the bars go."""

    def __init__(self, console: Console, note: Callable[[str], object]) -> None:
        super().__init__(note)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "DownloadBars":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def bytes(self, name: str, n_bytes: int, total: int | None) -> None:
        self.meter(name, n_bytes)
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total)
            self.bars.update(self.tasks[name], completed=n_bytes)
            self.bars.reset(self.tasks[name], total=total, completed=n_bytes)  # the rate counts from here
        self.bars.update(self.tasks[name], completed=n_bytes, total=total)
