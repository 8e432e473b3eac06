"""Who watches a run. Planning and preparing need no torch, so nothing here imports it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmbench.features.pipeline import PrepareWatcher
from mmbench.runs.plan import Cell
from mmbench.runs.store import RunRecord
from mmbench.training.progress import Watcher


class RunWatcher(Protocol):
    """What `mmbench.runs.schedule.execute` calls as it plans, skips, begins and ends cells."""

    def planned(self, cell: Cell, record: RunRecord | None) -> None: ...
    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None: ...
    def damaged(self, cell: Cell, why: str) -> None: ...
    def missing(self, cells: Sequence[Cell], jobs: int) -> None: ...
    def remark(self, text: str) -> None: ...
    def waiting(self, cell: Cell) -> None: ...
    def queued(self, cells: Sequence[Cell], jobs: int) -> None: ...
    def begins(self, cells: Sequence[Cell], number: int, total: int) -> Watcher | None: ...
    def ends(self, cell: Cell, record: RunRecord) -> None: ...


@dataclass(frozen=True)
class Watchers:
    """The watchers of a run.

    say          is called with remarks
    warn         is called when something that the user requested is left out
    preparation  watches data that are prepared for the run
    run          watches the cells
    """

    say: Callable[[str], object]
    warn: Callable[[str], object]
    preparation: PrepareWatcher
    run: RunWatcher
