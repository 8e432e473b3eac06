"""Trackers: who hears of runs besides the results folder, such as TensorBoard. A tracker of your own has three methods:

    from mmbench.tracking import TrackedEnd, TrackedEpoch, TrackedRun

    class Printer:
        def begin(self, run: TrackedRun) -> None: print(run.title, run.settings)
        def epoch(self, report: TrackedEpoch) -> None: print(report.step, report.losses, report.valid)
        def end(self, end: TrackedEnd) -> None: print(end.status, end.test)

and is named `--track my_module:Printer`. It is called without arguments, once for each run, in the process that trains.
"""

from mmbench.tracking.base import TrackedEnd, TrackedEpoch, TrackedRun, Tracker

__all__ = ["TrackedEnd", "TrackedEpoch", "TrackedRun", "Tracker"]
