"""The progress of runs in other processes, read from the logs that they write into their folders."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from mmbench.runs.plan import Cell
from mmbench.runs.workers import BEGUN
from mmbench.training.files import LOG, StageEpoch
from mmbench.training.progress import EpochReport, Outlook, Watcher

POLL_S = 0.5  # seconds between looks at the logs


class Beginner(Protocol):
    """A watcher that is called when a run begins, and returns the watcher of the run's epochs."""

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> Watcher | None: ...


class Follower:
    """Reports to a watcher the epochs that runs in other processes finish. Any thread may call its methods."""

    def __init__(self, cells: Sequence[Cell], watcher: Beginner) -> None:
        self.watcher, self.total = watcher, len(cells)
        self._numbers = {cell.path: number for number, cell in enumerate(cells, start=1)}
        self._left = {cell.path: cell for cell in cells}
        self._seen: dict[Path, StageEpoch] = {
            cell.path: max(_stage_epochs(cell), default=(0, 0)) for cell in cells
        }
        self._watchers: dict[Path, Watcher | None] = {}
        self._lock = threading.Lock()

    def look(self) -> None:
        """Report what is new in all runs that have begun and not ended."""
        with self._lock:
            for cell in list(self._left.values()):
                if cell.path in self._watchers or (cell.path / BEGUN).exists():
                    self._look_at(cell)

    def end(self, cell: Cell) -> None:
        """Report what is new in a run that ended, however short it was, and nothing of it after that."""
        with self._lock:
            self._look_at(cell)
            self._left.pop(cell.path, None)

    def _look_at(self, cell: Cell) -> None:
        path = cell.path
        if path not in self._watchers:
            self._watchers[path] = self.watcher.begins([cell], self._numbers[path], self.total)
        lines = _log(cell)
        newest = max(map(_stage_epoch, lines), default=(0, 0))
        if newest < self._seen[path]:  # the run started over
            self._seen[path] = (0, 0)
        for line in lines:
            if _stage_epoch(line) > self._seen[path]:
                self._seen[path] = _stage_epoch(line)
                if (watcher := self._watchers[path]) is not None:
                    watcher.epoch(_report(line))


@contextmanager
def following(cells: Sequence[Cell], watcher: Beginner) -> Iterator[Follower]:
    """Look at the logs of runs every half second, until the context is left."""
    follower, is_over = Follower(cells, watcher), threading.Event()

    def follow() -> None:
        while not is_over.wait(POLL_S):
            follower.look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        is_over.set()
        thread.join()


def _log(cell: Cell) -> list[dict[str, Any]]:
    """Return the whole lines of a run's log, without a line that is being written or damaged."""
    lines = []
    try:
        text = (cell.path / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            content = json.loads(line)
            if line.endswith("\n") and _stage_epoch(content) > (-1, 0) and _report(content):
                lines.append(content)
    return lines


def _stage_epochs(cell: Cell) -> list[StageEpoch]:
    return list(map(_stage_epoch, _log(cell)))


def _stage_epoch(line: Mapping[str, Any]) -> StageEpoch:
    return line["stage"], line["epoch"]


def _report(line: Mapping[str, Any]) -> EpochReport:
    return EpochReport(
        epoch=line["epoch"], outlook=Outlook(**line["outlook"]), seconds=line["seconds"], loss=line["loss"],
        valid=line.get("valid", {}), best=line.get("best", 0.0), best_epoch=line.get("best_epoch", 0),
    )  # fmt: skip
