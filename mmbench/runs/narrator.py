"""Plain lines about a run: when it begins, after each epoch, and when it ends."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.choices import SPLITS
from mmbench.errors import DataError, counted
from mmbench.evaluation.metrics import Metric
from mmbench.runs.plan import Cell
from mmbench.runs.store import RECORD, RunRecord
from mmbench.runs.time_left import EpochTimes, TimeLeft, clock
from mmbench.settings.config import Origin
from mmbench.settings.describe import value_text
from mmbench.training.names import LOG, RESUME

if TYPE_CHECKING:
    from mmbench.training.progress import EpochReport

SHOWN_CUTOFF = 10  # is the cutoff of the NDCG in the line about a run's end


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


def epoch_of(report: "EpochReport") -> str:
    """Return which epoch ended: "epoch 3/100", with its stage where there are several."""
    outlook = report.outlook
    stage = f"stage {outlook.stage}/{outlook.n_stages} " if outlook.n_stages > 1 else ""
    return f"{stage}epoch {report.epoch}/{outlook.n_epochs}"


class TrainingLines:
    """What is being trained at present: a run, or a stack of seeds, whose numbers are means then."""

    def __init__(self, run: "RunLines", cells: Sequence[Cell], number: int, total: int) -> None:
        self.run, self.cells, self.total, first = run, cells, total, cells[0]
        self.title = first.title if len(cells) == 1 else (
            f"{first.model} on {first.dataset}, seeds {', '.join(str(cell.seed) for cell in cells)}"
        )  # fmt: skip
        self.numbers = str(number) if len(cells) == 1 else f"{number}-{number + len(cells) - 1}"
        self.began = time.monotonic()
        self.max_epochs = int(first.settings["max_epochs"].value)
        self.report: EpochReport | None = None
        self.times = EpochTimes(time.monotonic)

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        """Take the time of a step; lines are per epoch."""
        self.times.step(step, n_steps)

    def epoch(self, report: "EpochReport") -> None:
        self.times.epoch(report)
        self.report = report
        self.run.time_left.epoch(self.cells, self.times.pace, report)
        self.run.plain(self.epoch_text(report))

    def note(self, text: str) -> None:
        self.run.say(f"{self.title}: {text}")

    def left(self) -> str:
        """Return the time that is left at most: early stopping usually ends a run sooner.

        Epochs of another stage to come may take longer than those so far: "about".
        """
        if self.report is None:
            return ""
        outlook = self.report.outlook
        word = "at most" if outlook.is_last_stage else "about"
        return f"{word} {clock(self.times.pace * outlook.n_left)} left"

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
        parts = [f"[{self.numbers}/{self.total}] {self.title}: {epoch_of(report)}"]
        parts += [terms_text(report.loss), *self.valid_text(), f"{report.seconds:.1f} s", self.left()]
        return "  ".join(filter(None, [*parts, self.run.time_left.text()]))


class RunLines:
    """All cells of a run (see mmbench.runs.watchers.RunWatcher).

    say  is called with each line
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self.time_left = TimeLeft()
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
        self.time_left.stored(cell, record)
        remark = " (made by another version of the code)" if other_code else ""
        self.say(f"already finished: {cell.title}{remark}")

    def damaged(self, cell: Cell, why: str) -> None:
        self.say(f"computed again: {cell.title}, because {why.partition(';')[0]}")

    def missing(self, cells: Sequence[Cell], jobs: int) -> None:
        """Take note of the runs that will be computed, so that the time left counts them all."""
        self.time_left.plan(cells, jobs)

    def remark(self, text: str) -> None:
        """Say what the user can do about the runs that follow."""
        self.say(f"note: {text}")

    def waiting(self, cell: Cell) -> None:
        self.say(f"another run is computing {cell.title}; waiting for it")

    def queued(self, cells: Sequence[Cell], jobs: int) -> None:
        """Say how many runs are computed side by side; their lines are those of runs in this process."""
        self.is_elsewhere = True
        self._say_notes(cells)
        self.say(f"{counted(len(cells), 'run')}, {jobs} at a time")

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
        self.time_left.ends(cell, record)
        if record.status == "failed":
            self.say(f"FAILED {cell.title}: {record.failure}")
            return
        for note in record.environment.get("notes", []) if self.is_elsewhere else []:
            self.say(f"{cell.title}: {note}")
        how = (
            f"{counted(record.n_epochs, 'epoch')}, best {record.best_epoch}"
            if record.n_epochs
            else record.stopped
        )
        spent = record.seconds.get("train", 0.0) + record.seconds.get("valid", 0.0)
        self.say(f"finished {cell.title}: {how}, {clock(spent)}{_scores(record)}")

    def _say_notes(self, cells: Sequence[Cell]) -> None:
        for note in dict.fromkeys(note for cell in cells for note in cell.notes):
            self.say(f"note: {note}")
