"""What a run shows while it lasts: a live panel on a terminal, a plain line per epoch elsewhere. On stderr."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmbench.runs.narrator import RunLines, TrainingLines, epoch_of, terms_text
from mmbench.runs.plan import Cell
from mmbench.runs.store import RunRecord
from mmbench.runs.time_left import clock
from mmbench.training.progress import EpochReport


class Panel(TrainingLines):
    """The training of the moment, drawn."""

    def __init__(self, view: "RunView", cells: Sequence[Cell], number: int, total: int) -> None:
        super().__init__(view, cells, number, total)
        self.view = view
        self.position = (0, 0, 1)  # epoch, step, steps of the epoch
        self.terms: dict[str, float] = {}

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        super().step(epoch, step, n_steps, terms)
        self.position, self.terms = (epoch, step, n_steps), terms
        self.view.refresh()

    def epoch(self, report: EpochReport) -> None:
        super().epoch(report)
        self.view.refresh()

    def render(self) -> RenderableType:
        epoch, step, n_steps = self.position
        table = Table.grid(padding=(0, 2))
        table.add_row(
            Text(f"run {self.numbers} of {self.total}", style="bold"),
            Text(self.title, style="bold cyan"),
        )
        table.add_row("epoch", f"{self._epoch_text(epoch)}   step {step} of {n_steps}")
        table.add_row("", ProgressBar(total=n_steps, completed=step, width=40))
        table.add_row("loss", terms_text(self.terms))
        for text in self.valid_text():
            table.add_row("", text)
        now = time.monotonic()
        table.add_row("time", f"{clock(now - self.began)}   {self.left()}")
        if self.total > 1:
            table.add_row("all runs", self.view.time_text())
        return table

    def _epoch_text(self, epoch: int) -> str:
        """Return which epoch is under way and how many there can be; the newest report is of the epoch before."""
        if self.report is None:
            return f"{epoch} of at most {self.max_epochs}"
        outlook = self.report.outlook
        if epoch > self.report.epoch:
            stage, most = outlook.stage, outlook.n_epochs
        else:  # epochs are counted from 1 in a new stage
            stage, most = outlook.stage + 1, self.max_epochs
        of_stages = f" in stage {stage} of {outlook.n_stages}" if outlook.n_stages > 1 else ""
        return f"{epoch} of at most {most}{of_stages}"

    def row(self) -> tuple[Text, ...]:
        """Return the run as a line among others: which run, which epoch and which value fit 80 columns."""
        report = self.report
        epoch = epoch_of(report) if report else "starting"
        valid = next(iter(report.valid.items()), None) if report else None
        return (
            Text(f"{self.numbers}/{self.total}", style="bold"),
            Text(self.title, style="bold cyan", no_wrap=True, overflow="ellipsis"),
            Text(epoch, no_wrap=True),
            Text(f"{valid[0]} {valid[1]:.4f}" if valid else "", no_wrap=True),
            Text(clock(time.monotonic() - self.began), no_wrap=True),
        )


class RunView(RunLines):
    """All cells of a run.

    console  where progress goes
    out      is called with the lines of a dry run
    """

    def __init__(self, console: Console, out: Callable[[str], object] = lambda text: None) -> None:
        super().__init__(lambda text: console.print(text, markup=False))
        self.console, self.out = console, out
        self.live: Live | None = None
        self.current: Panel | None = None
        self.began: float | None = None  # when the first run began
        self.elsewhere: dict[Path, Panel] = {}  # runs that other processes compute at present

    @contextmanager
    def watching(self) -> Iterator["RunView"]:
        """Take the panel away at the end; it comes with the first training, as bars of other work may come before."""
        try:
            yield self
        finally:
            if self.live is not None:
                self.live.stop()
            self.live = None

    def result(self, text: str) -> None:
        self.out(text)

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> Panel:
        if self.live is None and self.console.is_terminal and not self.console.quiet:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        self.began = time.monotonic() if self.began is None else self.began
        panel = Panel(self, cells, number, total)
        if self.is_elsewhere:
            self.elsewhere[cells[0].path] = panel
        else:
            self._say_notes(cells)
            self.current = panel
        self.plain(f"[{panel.numbers}/{panel.total}] {panel.title}")
        self.refresh()
        return panel

    def ends(self, cell: Cell, record: RunRecord) -> None:
        self.elsewhere.pop(cell.path, None)
        super().ends(cell, record)
        self.refresh()

    def time_text(self) -> str:
        """Return how long the runs have taken so far, and how long those that are missing take."""
        began = time.monotonic() if self.began is None else self.began
        return f"{clock(time.monotonic() - began)}   {self.time_left.text()}".rstrip()

    def plain(self, text: str) -> None:
        """Print a line for those who have no live panel."""
        if self.live is None:
            super().plain(text)

    def refresh(self) -> None:
        if self.live is None:
            return
        if self.is_elsewhere:
            table = Table.grid(padding=(0, 2))
            for panel in list(self.elsewhere.values()):
                table.add_row(*panel.row())
            self.live.update(Group(table, Text(f"all runs  {self.time_text()}")))
        elif self.current is not None:
            self.live.update(Group(self.current.render()))
