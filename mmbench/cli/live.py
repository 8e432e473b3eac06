"""What a run shows while it goes on: a live panel on a terminal, one plain line per epoch elsewhere. On stderr."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmbench.runs.plan import Cell
from mmbench.runs.store import RunRecord
from mmbench.training.progress import EpochReport


def clock(seconds: float) -> str:
    """81.2 -> "1:21"; hours only when there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def terms_text(terms: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in terms.items())


class Panel:
    """What is being trained at present: one run, or several seeds as one, whose numbers are means then."""

    def __init__(self, view: "RunView", cells: Sequence[Cell], number: int, total: int) -> None:
        self.view, self.total, first = view, total, cells[0]
        self.title = first.title if len(cells) == 1 else (
            f"{first.model} on {first.dataset}, seeds {', '.join(str(cell.seed) for cell in cells)}"
        )  # fmt: skip
        self.numbers = str(number) if len(cells) == 1 else f"{number}-{number + len(cells) - 1}"
        self.began = self.epoch_began = time.monotonic()
        self.max_epochs = int(first.settings["max_epochs"].value)
        self.position = (0, 0, 1)  # epoch, step, steps of the epoch
        self.terms: dict[str, float] = {}
        self.report: EpochReport | None = None
        self.seconds: list[float] = []

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        self.position, self.terms = (epoch, step, n_steps), terms
        self.view.refresh()

    def epoch(self, report: EpochReport) -> None:
        now = time.monotonic()
        self.seconds.append(now - self.epoch_began)
        self.epoch_began, self.report = now, report
        self.view.plain(self.epoch_text(report))
        self.view.refresh()

    def note(self, text: str) -> None:
        self.view.say(f"{self.title}: {text}")

    def left(self) -> str:
        """Return an upper bound of the time that is left: early stopping usually ends a run sooner."""
        if self.report is None:
            return ""
        recent = sorted(self.seconds[-5:])[len(self.seconds[-5:]) // 2]
        return f"at most {clock(recent * (self.max_epochs - self.report.epoch))} left"

    def valid_text(self) -> list[str]:
        if self.report is None:
            return []
        n, epoch = self.report.n_runs, self.report.best_epoch
        of_which = f"at epoch {epoch}" if n == 1 else f"mean of {n} seeds"
        return [
            f"valid {name} {value:.4f} (best {self.report.best:.4f} {of_which})"
            for name, value in self.report.valid.items()
        ]

    def epoch_text(self, report: EpochReport) -> str:
        parts = [f"[{self.numbers}/{self.total}] {self.title}: epoch {report.epoch}/{self.max_epochs}"]
        parts += [terms_text(report.loss), *self.valid_text(), f"{report.seconds:.1f} s"]
        return "  ".join([*parts, self.left()]).rstrip()

    def render(self) -> RenderableType:
        epoch, step, n_steps = self.position
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


class RunView:
    """All cells of a run (see mmbench.runs.schedule.RunWatcher)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.current: Panel | None = None
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

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> Panel:
        for note in dict.fromkeys(note for cell in cells for note in cell.notes):
            self.say(f"note: {note}")
        panel = Panel(self, cells, number, total)
        self._show(panel)
        return panel

    def _show(self, panel: Panel) -> None:
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
