"""The trackers of one run, guarded: what one of them raises is one warning, and the run goes on without it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmbench.errors import FAILURES
from mmbench.explain import first_line
from mmbench.tracking.base import TrackedEnd, TrackedEpoch, TrackedRun, Tracker
from mmbench.tracking.naming import maker_of
from mmbench.visible import one_line


def warn_on_stderr(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Tracking:
    """Trackers of one run by name; they are made when the run's first event comes.

    warn  is called with a line when a tracker fails
    """

    def __init__(
        self,
        names: Sequence[str],
        run: Callable[[], TrackedRun],
        warn: Callable[[str], object] = warn_on_stderr,
    ) -> None:
        self.names, self.run, self.warn = tuple(names), run, warn
        self.trackers: dict[str, Tracker] | None = None

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """Tell of an epoch, from its line in train.jsonl."""
        if not self.names:
            return
        report = TrackedEpoch(
            stage=line["stage"], epoch=line["epoch"], step=step, seconds=line["seconds"],
            losses=dict(line["loss"]), valid=dict(line.get("valid", {})),
        )  # fmt: skip
        self._tell(lambda tracker: tracker.epoch(report))

    def end(self, end: Callable[[], TrackedEnd]) -> None:
        """Tell how the run ended, once."""
        if self.names:
            self._tell(lambda tracker: tracker.end(end()))
            self.trackers, self.names = {}, ()

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        if self.trackers is None:
            self._begin()
        for name, tracker in list((self.trackers or {}).items()):
            self._guard(name, lambda tracker=tracker: call(tracker))  # type: ignore[misc]

    def _begin(self) -> None:
        """Make the trackers, and tell them of the run."""
        run, self.trackers = self.run(), {}
        for name in self.names:
            self._guard(name, lambda name=name: self._make(name, run))  # type: ignore[misc]

    def _make(self, name: str, run: TrackedRun) -> None:
        tracker = maker_of(name)()
        tracker.begin(run)
        assert self.trackers is not None
        self.trackers[name] = tracker

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        """Call a tracker; when it fails, warn and leave it out from now on."""
        try:
            call()
        except FAILURES as error:
            reason = one_line(f"{type(error).__name__}: {first_line(error)}")
            self.warn(f"tracker {name} failed, and the run continues without it: {reason}")
            if self.trackers is not None:
                self.trackers.pop(name, None)
