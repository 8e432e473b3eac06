"""Plain lines about a study: a line for each trial that ended, and now and then about the trial under way."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmbench.errors import counted
from mmbench.runs.time_left import clock
from mmbench.training.progress import EpochReport
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.records import Trial, best_of, two_digits
from mmbench.tuning.sampling import size_of
from mmbench.tuning.study import Budget, Watching

LINE_EVERY_S = 30.0  # of a trial under way


class StudyLines(Watching):
    """Reports a study in plain lines.

    say  is called with each line
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.trials: list[Trial] = []
        self.spoke = time.monotonic()

    def opened(self, ledger: Ledger, budget: Budget, jobs: int) -> None:
        self.budget, self.jobs, self.trials = budget, jobs, ledger.trials()
        plan, size = ledger.plan, size_of(ledger.plan.dimensions)
        combinations = f"{size:,} combinations of" if size is not None else "ranges of"
        self.say(
            f"{plan.model} on {plan.dataset}: {budget.text}, {plan.sampler} over {combinations} "
            f"{', '.join(plan.space)}; {counted(len(self.trials), 'trial')} so far; study {plan.study_id}"
        )

    def began(self, number: int, values: Mapping[str, Any]) -> None:
        self.spoke = time.monotonic()

    def epoch(self, number: int, report: EpochReport) -> None:
        if time.monotonic() - self.spoke > LINE_EVERY_S:
            self.spoke = time.monotonic()
            self.say(f"  trial {number}: epoch {report.epoch}, best {report.best:.4f}")

    def ended(self, trial: Trial) -> None:
        self.trials.append(trial)
        best = best_of(self.trials)
        value = "–" if trial.value is None else f"{trial.value:.4f}"
        record = f" (best {best.value:.4f}, trial {best.number})" if best else ""
        reason = f": {trial.reason}" if trial.reason else ""
        status = f", {trial.status}{reason}" if trial.status != "finished" else ""
        self.say(
            f"{self._spent()}: trial {trial.number} {value}{record}, "
            f"{trial.seconds:.0f} s{status}  {settings_text(trial.values)}{self._left()}"
        )

    def _spent(self) -> str:
        """Return what is spent of the budget: "3 of 20 trials", "0.8 of 2 h"."""
        if self.budget.trials is not None:
            return f"{len(self.trials)} of {self.budget.text}"
        hours = sum(trial.seconds for trial in self.trials) / 3600
        return f"{two_digits(hours)} of {self.budget.text}"

    def _left(self) -> str:
        """Return how long the rest takes if its trials take as long as those before."""
        n_left = 0 if self.budget.trials is None else self.budget.trials - len(self.trials)
        if n_left <= 0:
            return ""
        seconds = float(np.median([trial.seconds for trial in self.trials])) * n_left / self.jobs
        return f"  (about {clock(seconds)} left)"


def settings_text(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())
