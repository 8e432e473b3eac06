"""Plain lines about a run: when it begins, after each epoch, and when it ends."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.choices import SPLITS
from mmbench.errors import DataError
from mmbench.evaluation.metrics import Metric
from mmbench.runs.plan import Cell
from mmbench.runs.store import RECORD, RunRecord
from mmbench.settings.config import Origin
from mmbench.settings.describe import value_text
from mmbench.training.names import LOG, RESUME

if TYPE_CHECKING:
    from mmbench.training.progress import EpochReport

SHOWN_CUTOFF = 10  # is the cutoff of the NDCG in the line about a run's end


def clock(seconds: float) -> str:
    """Return a duration: 81.2 -> "1:21"; hours only when there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epochs_done(path: Path) -> int:
    """Return after how many epochs an unfinished cell resumes; 0 for a cell without a finished epoch."""
    log = path / LOG
    if (path / RECORD).is_file() or not (path / RESUME).is_file() or not log.is_file():
        return 0
    return log.read_bytes().count(b"\n")


def interruption(cell: Cell) -> str:
    """Return where an unfinished cell was interrupted, "" for a cell without a finished epoch."""
    n_done = epochs_done(cell.path)
    return f"interrupted at epoch {n_done} of {cell.settings['max_epochs'].value}" if n_done else ""


def declared_settings(cell: Cell) -> list[str]:
    """Return the settings that a declared table or sweep gives a cell: "n_experts=8"."""
    return [
        f"{key}={value_text(setting.value)}"
        for key, setting in sorted(cell.settings.items())
        if setting.origin is Origin.experiment
    ]


def _scores(record: RunRecord) -> str:
    """Return NDCG on both splits, or nothing where it cannot be read."""
    shown = str(Metric("NDCG", min(SHOWN_CUTOFF, record.n_items)))
    try:
        values = [record.metrics(split, shown)[shown] for split in SPLITS]
    except DataError:
        return ""
    return "".join(f", {split} {shown} {value:.4f}" for split, value in zip(SPLITS, values, strict=True))


def terms_text(terms: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in terms.items())


class TrainingLines:
    """What is being trained at present: a run, or a stack of seeds, whose numbers are means then."""

    def __init__(self, run: "RunLines", cells: Sequence[Cell], number: int, total: int) -> None:
        self.run, self.total, first = run, total, cells[0]
        self.title = first.title if len(cells) == 1 else (
            f"{first.model} on {first.dataset}, seeds {', '.join(str(cell.seed) for cell in cells)}"
        )  # fmt: skip
        self.numbers = str(number) if len(cells) == 1 else f"{number}-{number + len(cells) - 1}"
        self.began = self.epoch_began = time.monotonic()
        self.max_epochs = int(first.settings["max_epochs"].value)
        self.report: EpochReport | None = None
        self.seconds: list[float] = []

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        """Ignore a step; lines are per epoch."""

    def epoch(self, report: "EpochReport") -> None:
        now = time.monotonic()
        # The first epoch's time on the clock counts the start of everything, too.
        self.seconds.append(now - self.epoch_began if self.report else report.seconds)
        self.epoch_began, self.report = now, report
        self.run.plain(self.epoch_text(report))

    def note(self, text: str) -> None:
        self.run.say(f"{self.title}: {text}")

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

    def epoch_text(self, report: "EpochReport") -> str:
        parts = [f"[{self.numbers}/{self.total}] {self.title}: epoch {report.epoch}/{self.max_epochs}"]
        parts += [terms_text(report.loss), *self.valid_text(), f"{report.seconds:.1f} s"]
        return "  ".join([*parts, self.left()]).rstrip()


class RunLines:
    """All cells of a run (see mmbench.runs.schedule.RunWatcher).

    say  is called with each line
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self.is_elsewhere = False  # computed in other processes, whose notes come with their records

    def say(self, text: str) -> None:
        """Say a remark, or how a run ended."""
        self._say(text)

    def plain(self, text: str) -> None:
        """Say where a training stands."""
        self._say(text)

    def result(self, text: str) -> None:
        """Say whether a cell is finished, as the user asked."""
        self._say(text)

    def planned(self, cell: Cell, record: RunRecord | None) -> None:
        state = "finished" if record is not None else "missing"
        interrupted = "" if record is not None else interruption(cell)
        self.result(f"{state:8}  {cell.path}  {interrupted}".rstrip())

    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None:
        remark = " (made by another version of the code)" if other_code else ""
        self.say(f"already finished: {cell.title}{remark}")

    def damaged(self, cell: Cell, why: str) -> None:
        self.say(f"computed again: {cell.title}, because {why.partition(';')[0]}")

    def waiting(self, cell: Cell) -> None:
        self.say(f"another run is computing {cell.title}; waiting for it")

    def queued(self, cells: Sequence[Cell], jobs: int) -> None:
        """Say how many runs are computed side by side; their lines are those of runs in this process."""
        self.is_elsewhere = True
        self._say_notes(cells)
        count = f"{len(cells)} runs" if len(cells) != 1 else "1 run"
        self.say(f"{count}, {jobs} at a time")

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> TrainingLines:
        if not self.is_elsewhere:
            self._say_notes(cells)
        for cell in cells:
            if n_done := epochs_done(cell.path):
                self.say(f"resuming {cell.title} at epoch {n_done + 1}")
        training = TrainingLines(self, cells, number, total)
        self.plain(f"[{training.numbers}/{training.total}] {training.title}")
        return training

    def ends(self, cell: Cell, record: RunRecord) -> None:
        if record.status == "failed":
            self.say(f"FAILED {cell.title}: {record.failure}")
            return
        for note in record.environment.get("notes", []) if self.is_elsewhere else []:
            self.say(f"{cell.title}: {note}")
        how = (
            f"{record.n_epochs} epoch{'s' * (record.n_epochs != 1)}, best {record.best_epoch}"
            if record.n_epochs
            else record.stopped
        )
        spent = record.seconds.get("train", 0.0) + record.seconds.get("valid", 0.0)
        self.say(f"finished {cell.title}: {how}, {clock(spent)}{_scores(record)}")

    def _say_notes(self, cells: Sequence[Cell]) -> None:
        for note in dict.fromkeys(note for cell in cells for note in cell.notes):
            self.say(f"note: {note}")
