"""Trackers for tests: one that keeps what it hears, and some that fail."""

from typing import ClassVar

from mmbench.tracking import TrackedEnd, TrackedEpoch, TrackedRun


class Recorder:
    """Keeps what it hears of every run, by the run's title."""

    heard: ClassVar[dict[str, list[object]]] = {}

    def begin(self, run: TrackedRun) -> None:
        self.events = self.heard.setdefault(run.title, [])
        self.events.append(run)

    def epoch(self, report: TrackedEpoch) -> None:
        self.events.append(report)

    def end(self, end: TrackedEnd) -> None:
        self.events.append(end)


class Broken(Recorder):
    """Fails in the second epoch, as on a full disk."""

    heard: ClassVar[dict[str, list[object]]] = {}
    n_calls: ClassVar[int] = 0

    def epoch(self, report: TrackedEpoch) -> None:
        Broken.n_calls += 1
        if report.step == 2:
            raise OSError(28, "No space left on device")

    def end(self, end: TrackedEnd) -> None:
        Broken.n_calls += 1


class Refusing(Recorder):
    def begin(self, run: TrackedRun) -> None:
        raise SystemExit("no network")


class Half:
    def begin(self, run: TrackedRun) -> None: ...


NUMBER = 3
