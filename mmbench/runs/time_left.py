"""How long the missing runs of a command still take, from the epochs and the ends of runs so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from mmbench.runs.plan import Cell
from mmbench.runs.store import RunRecord

if TYPE_CHECKING:
    from mmbench.training.progress import EpochReport

Configuration = tuple[Path, str, str]  # what the seeds of a row share: data, model, config id
RECENT = 5  # epochs whose median is the pace


def clock(seconds: float) -> str:
    """Return a duration: 81.2 -> "1:21"; hours only when there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def configuration_of(cell: Cell) -> Configuration:
    return cell.data_path, cell.model, cell.config_id


class EpochTimes:
    """The seconds per epoch of a training, with validation and saving, without the start of the process.

    now  returns the time on a clock that only advances
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.seconds = now, list[float]()
        self._steps: list[
            tuple[float, int]
        ] = []  # the first and the newest step of the first epoch, with times
        self._ended: float | None = None  # the end of the newest epoch

    def step(self, step: int, n_steps: int) -> None:
        if self._ended is None:
            self._n_steps = n_steps
            self._steps = [*self._steps[:1], (self.now(), step)]

    def epoch(self, report: "EpochReport") -> None:
        now = self.now()
        if self._ended is None:
            self.seconds.append(self._first(now) or report.seconds)
        else:  # the log of another process may tell several epochs at once, between which no time passes here
            self.seconds.append(max(now - self._ended, report.seconds))
        self._ended = now

    def _first(self, now: float) -> float:
        """Return the seconds of the first epoch at the pace of its steps after the first; 0 if no two were seen."""
        if len(self._steps) < 2:
            return 0.0
        (began, first), (ended, last) = self._steps
        return (ended - began) / (last - first) * self._n_steps + (now - ended)

    @property
    def pace(self) -> float:
        """Return the seconds that an epoch takes at present."""
        return median(self.seconds[-RECENT:])


@dataclass(frozen=True)
class Estimate:
    """Seconds; `is_bound` where early stopping can only make them fewer."""

    seconds: float
    is_bound: bool


@dataclass(frozen=True)
class _Training:
    """A run in training: seconds per epoch of its own, and its newest epoch."""

    pace: float
    report: "EpochReport"

    @property
    def is_bound(self) -> bool:
        """Return whether no epochs of another stage are to come, whose seconds nobody knows."""
        return self.report.outlook.is_last_stage


class TimeLeft:
    """Estimates how long the missing runs take.

    Seeds of a configuration that ended tell what its other seeds take; a run in training tells it from its epochs;
    of a configuration that has not begun nothing is known.
    """

    def __init__(self) -> None:
        self.jobs = 1
        self._missing: dict[Path, Cell] = {}
        self._training: dict[Path, _Training] = {}
        self._ended: dict[Configuration, list[RunRecord]] = {}  # by this command
        self._stored: dict[Configuration, list[RunRecord]] = {}  # before it, perhaps on another machine

    def plan(self, cells: Sequence[Cell], jobs: int) -> None:
        """Take note of the runs that will be computed, `jobs` at a time."""
        self._missing, self.jobs = {cell.path: cell for cell in cells}, jobs

    def stored(self, cell: Cell, record: RunRecord) -> None:
        """Take note of a run that was finished before."""
        self._missing.pop(cell.path, None)
        self._stored.setdefault(configuration_of(cell), []).append(record)

    def epoch(self, cells: Sequence[Cell], pace: float, report: "EpochReport") -> None:
        """Take note of an epoch of a run, or of a stack, whose runs share its seconds."""
        for cell in cells:
            if cell.path in self._missing:
                self._training[cell.path] = _Training(pace / report.n_runs, report)

    def ends(self, cell: Cell, record: RunRecord) -> None:
        """Take note of the end of a run; a failed run tells nothing of the others."""
        self._missing.pop(cell.path, None)
        self._training.pop(cell.path, None)
        if record.status == "finished":
            self._ended.setdefault(configuration_of(cell), []).append(record)

    def text(self) -> str:
        """Return how long the missing runs take; "" where a single run is missing or none is timed yet."""
        missing = list(self._missing.values())
        known = [estimate for cell in missing if (estimate := self._estimate(cell))]
        if len(missing) < 2 or not known:
            return ""
        seconds = [estimate.seconds for estimate in known]
        total = max(max(seconds), sum(seconds) / self.jobs)
        is_bound = self.jobs == 1 and all(estimate.is_bound for estimate in known)
        text = f"{'at most' if is_bound else 'about'} {clock(total)} left for"
        if len(known) == len(missing):
            return f"{text} {len(missing)} runs"
        return f"{text} {len(known)} of {len(missing)} runs; others not timed yet"

    def _estimate(self, cell: Cell) -> Estimate | None:
        training = self._training.get(cell.path)
        return self._rest(cell, training) if training else self._whole(cell)

    def _rest(self, cell: Cell, training: _Training) -> Estimate:
        """Return what a run in training still takes; it goes on at least until its patience is over."""
        report, lengths = training.report, self._lengths(cell)
        most = report.outlook.n_left
        if not lengths:
            return Estimate(training.pace * most, training.is_bound)
        patience = int(cell.settings["patience"].value) * int(cell.settings["eval_every"].value)
        until_patience = report.best_epoch + patience - report.epoch
        expected = max(fmean(lengths) - report.outlook.n_done, until_patience)
        return Estimate(training.pace * min(expected, most), is_bound=False)

    def _whole(self, cell: Cell) -> Estimate | None:
        """Return what a run takes that has not begun."""
        key = configuration_of(cell)
        if ended := self._ended.get(key):
            return Estimate(fmean(map(seconds_of, ended)), is_bound=False)
        alike = [
            training
            for path, training in list(self._training.items())
            if configuration_of(self._missing[path]) == key
        ]
        lengths = self._lengths(cell)
        if alike:
            length = fmean(lengths) if lengths else alike[0].report.outlook.n_total
            is_bound = not lengths and alike[0].is_bound
            return Estimate(fmean(training.pace for training in alike) * length, is_bound)
        if stored := self._stored.get(key):
            return Estimate(fmean(map(seconds_of, stored)), is_bound=False)
        return None

    def _lengths(self, cell: Cell) -> list[int]:
        """Return the epochs of finished seeds of a cell's configuration."""
        key = configuration_of(cell)
        records = [*self._ended.get(key, []), *self._stored.get(key, [])]
        return [record.n_epochs for record in records if record.n_epochs]


def seconds_of(record: RunRecord) -> float:
    """Return the seconds that a run took: training, validation and rankings."""
    return sum(seconds for part, seconds in record.seconds.items() if part != "epoch")
