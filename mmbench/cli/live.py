"""What a run shows while it goes on: a live panel on a terminal, one plain line per epoch elsewhere. On stderr."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmbench.runs.plan import Cell
from mmbench.runs.store import RunRecord
from mmbench.training.progress import Progress


def clock(seconds: float) -> str:
    """81.2 -> "1:21"; hours only when there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def terms_text(terms: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in terms.items())


class _Panel:
    """What is being trained, fed by the trainer."""

    def __init__(self, view: "RunView", cells: Sequence[Cell], title: str, number: int, total: int) -> None:
        self.view, self.title, self.total = view, title, total
        self.numbers = str(number) if len(cells) == 1 else f"{number}-{number + len(cells) - 1}"
        self.began = time.monotonic()
        self.epoch_began = self.began
        self.max_epochs = int(cells[0].settings["max_epochs"].value)
        self.at = (0, 0, 1)
        self.terms: dict[str, float] = {}
        self.line: dict[str, Any] = {}
        self.seconds: list[float] = []

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        self.at, self.terms = (epoch, step, n_steps), terms
        self.view.refresh()

    def heard(self, line: dict[str, Any]) -> None:
        """An epoch ended."""
        now = time.monotonic()
        self.seconds.append(now - self.epoch_began)
        self.epoch_began, self.line = now, line
        self.view.plain(self.epoch_text())
        self.view.refresh()

    def note(self, text: str) -> None:
        self.view.say(f"{self.title}: {text}")

    def left(self) -> str:
        """Upper bound of the time left in this cell: early stopping usually ends it sooner."""
        if not self.seconds:
            return ""
        recent = sorted(self.seconds[-5:])[len(self.seconds[-5:]) // 2]
        return f"at most {clock(recent * (self.max_epochs - self.line['epoch']))} left"

    def valid_text(self) -> list[str]:
        line = self.line
        return [
            f"valid {name} {value:.4f} (best {line['best']:.4f} at epoch {line['best_epoch']})"
            for name, value in line.get("valid", {}).items()
        ]

    def epoch_text(self) -> str:
        line = self.line
        parts = [f"[{self.numbers}/{self.total}] {self.title}: epoch {line['epoch']}/{self.max_epochs}"]
        parts += [terms_text(line["loss"]), *self.valid_text(), f"{line['seconds']:.1f} s"]
        return "  ".join([*parts, self.left()]).rstrip()

    def render(self) -> RenderableType:
        epoch, step, n_steps = self.at
        table = Table.grid(padding=(0, 2))
        table.add_row(
            Text(f"cell {self.numbers} of {self.total}", style="bold"),
            Text(self.title, style="bold cyan"),
        )
        table.add_row("epoch", f"{epoch} of at most {self.max_epochs}   step {step} of {n_steps}")
        table.add_row("", ProgressBar(total=n_steps, completed=step, width=40))
        table.add_row("loss", terms_text(self.terms))
        for text in self.valid_text():
            table.add_row("", text)
        table.add_row("time", f"{clock(time.monotonic() - self.began)}   {self.left()}")
        return table


class CellView(_Panel):
    """One cell (see mmbench.training.progress.Watcher)."""

    def __init__(self, view: "RunView", cell: Cell, number: int, total: int) -> None:
        super().__init__(view, [cell], cell.title, number, total)

    def epoch(self, line: dict[str, Any]) -> None:
        self.heard(line)


class StackView(_Panel):
    """Several seeds trained as one (see mmbench.training.progress.StackWatcher); numbers are means over them."""

    def __init__(self, view: "RunView", cells: Sequence[Cell], number: int, total: int) -> None:
        seeds = ", ".join(str(one.seed) for one in cells)
        title = f"{cells[0].model} on {cells[0].dataset}, seeds {seeds}"
        super().__init__(view, cells, title, number, total)
        self.metric = str(cells[0].settings["selection_metric"].value)

    def epoch(self, runs: Sequence[Progress]) -> None:
        epoch = max(one.epoch for one in runs)
        found = [one.curve[-1][self.metric] for one in runs if one.curve and one.curve[-1]["epoch"] == epoch]
        seconds = sum(one.epoch_seconds[-1] for one in runs)
        line = {"epoch": epoch, "seconds": seconds, "loss": self.terms, "seeds": len(runs)}
        if found:
            line |= {"valid": {self.metric: fmean(found)}, "best": fmean(one.best for one in runs)}
        self.heard(line)

    def valid_text(self) -> list[str]:
        seeds = f"mean of {self.line.get('seeds', 0)} seeds"
        return [
            f"valid {name} {value:.4f} (best {self.line['best']:.4f}, {seeds})"
            for name, value in self.line.get("valid", {}).items()
        ]


class RunView:
    """All cells of a run (see mmbench.runs.schedule.RunWatcher)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.current: _Panel | None = None
        self.is_elsewhere = False  # computed in other processes, whose notes come with their records

    @contextmanager
    def watching(self) -> Iterator["RunView"]:
        if not self.console.is_terminal or self.console.quiet:
            yield self
            return
        with Live(console=self.console, refresh_per_second=4, transient=True) as self.live:
            yield self
        self.live = None

    def plain(self, text: str) -> None:
        """A line for those who have no live panel."""
        if self.live is None:
            self.console.print(text, markup=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def refresh(self) -> None:
        if self.live is not None and self.current is not None:
            self.live.update(Group(self.current.render()))

    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None:
        remark = " (made by another version of the code)" if other_code else ""
        self.say(f"already finished: {cell.title}{remark}")

    def damaged(self, cell: Cell, why: str) -> None:
        self.say(f"computed again: {cell.title}, because {why.partition(';')[0]}")

    def waiting(self, cell: Cell) -> None:
        self.say(f"another run is computing {cell.title}; waiting for it")

    def queued(self, cells: Sequence[Cell], jobs: int) -> None:
        """Side by side there is no live panel: several cells would fight for it. Each says when it ends."""
        self.is_elsewhere = True
        for note in dict.fromkeys(note for cell in cells for note in cell.notes):
            self.say(f"note: {note}")
        count = f"{len(cells)} cells" if len(cells) != 1 else "1 cell"
        self.say(f"{count}, {jobs} at a time; train.jsonl in each cell's folder shows its epochs")

    def begins(self, cell: Cell, number: int, total: int) -> CellView:
        for note in cell.notes:
            self.say(f"note: {note}")
        panel = CellView(self, cell, number, total)
        self._show(panel)
        return panel

    def begins_stack(self, cells: Sequence[Cell], number: int, total: int) -> StackView:
        for note in dict.fromkeys(note for cell in cells for note in cell.notes):
            self.say(f"note: {note}")
        panel = StackView(self, cells, number, total)
        self._show(panel)
        return panel

    def _show(self, panel: _Panel) -> None:
        self.current = panel
        self.plain(f"[{panel.numbers}/{panel.total}] {panel.title}")
        self.refresh()

    def ends(self, cell: Cell, record: RunRecord) -> None:
        if record.status == "failed":
            self.say(f"FAILED {cell.title}: {record.reason}")
            return
        for note in record.environment.get("notes", []) if self.is_elsewhere else []:
            self.say(f"{cell.title}: {note}")
        how = f"{record.n_epochs} epochs, best {record.best_epoch}" if record.n_epochs else record.stopped
        spent = record.seconds.get("train", 0.0) + record.seconds.get("valid", 0.0)
        self.say(f"finished {cell.title}: {how}, {clock(spent)}")
