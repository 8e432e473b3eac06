"""A study as Python and the command line show it: its trials, what was best, what each setting matters."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from mmbench.errors import counted
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.lines import settings_text
from mmbench.tuning.records import Plan, Trial, best_of
from mmbench.tuning.sampling import Tried, importance
from mmbench.tuning.stored import studies_of

if TYPE_CHECKING:
    import pandas as pd

N_SHOWN = 5
HEADER = ["trial", "value", "status", "s", "settings unlike the recipe's"]


@dataclass(frozen=True)
class Study:
    """A study with its trials in the order of their numbers; trial 0 has the recipe's settings."""

    path: Path
    plan: Plan
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, ledger: Ledger) -> "Study":
        """Return what a ledger holds now; DataError for a damaged ledger."""
        trials = sorted(ledger.trials(), key=lambda trial: trial.number)
        return cls(ledger.path, ledger.plan, tuple(trials))

    @property
    def study_id(self) -> str:
        return self.plan.study_id

    @cached_property
    def best(self) -> Trial | None:
        """Return the trial that `run --tuned` takes; None while no trial has finished."""
        return best_of(list(self.trials))

    @property
    def settings(self) -> dict[str, Any]:
        """Return the best settings, and those that every trial had."""
        return {**self.plan.fixed, **(self.best.values if self.best else {})}

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    @cached_property
    def importance(self) -> dict[str, float]:
        """Return the share of the values' variance that each setting explains, largest first; {} where unknown."""
        tried = [Tried(trial.values, trial.value) for trial in self.trials]
        return importance(self.plan.dimensions, tried)

    @property
    def ranked(self) -> list[Trial]:
        """Return the trials with a value, best first, stopped and pruned trials included."""
        return sorted(
            (trial for trial in self.trials if trial.value is not None), key=lambda trial: trial.order
        )

    def title(self) -> str:
        plan, n_seeds = self.plan, self.plan.n_seeds
        return (
            f"{plan.model} on {plan.dataset}: study {plan.study_id}, {counted(len(self.trials), 'trial')}, "
            f"{self.seconds / 3600:.2f} h, {plan.sampler}, validation {plan.metric}, "
            f"{counted(n_seeds, 'seed')} a trial"
        )

    def rows(self, n: int = N_SHOWN) -> list[list[str]]:
        """Return the n best trials and the recipe's, as texts under HEADER."""
        ranked = self.ranked
        shown = ranked[:n] + [trial for trial in ranked[n:] if trial.number == 0]
        return [
            [
                str(trial.number),
                f"{trial.value:.4f}",
                trial.status,
                f"{trial.seconds:.0f}",
                self._unlike(trial),
            ]
            for trial in shown
        ]

    def _unlike(self, trial: Trial) -> str:
        if trial.number == 0:
            return "(recipe)"
        recipe = {key: dimension["own"] for key, dimension in self.plan.space.items()}
        return settings_text({key: value for key, value in trial.values.items() if value != recipe[key]})

    def remarks(self) -> list[str]:
        """Return lines about failed trials, importance, and the best trial beside the recipe's settings."""
        failed = [trial for trial in self.trials if trial.status == "failed"]
        lines = (
            [f"{counted(len(failed), 'trial')} failed; trial {failed[0].number}: {failed[0].reason}"]
            if failed
            else []
        )
        if self.importance:
            shares = ", ".join(f"{key} {share:.0%}" for key, share in self.importance.items())
            lines.append(f"importance: {shares}")
        return [*lines, self.verdict()]

    def verdict(self) -> str:
        """Say how far the best trial lies above the recipe's own settings."""
        recipe = next((trial for trial in self.trials if trial.number == 0), None)
        if self.best is None or self.best.value is None:
            return "no trial has finished yet"
        if recipe is None or recipe.value is None:
            return "the recipe's own settings have no value yet"
        if self.best.number == 0:
            return "no trial was better than the recipe's own settings"
        gain = self.best.value - recipe.value
        within = ", within the spread between seeds" if is_within_noise(self.best, recipe) else ""
        return (
            f"trial {self.best.number} is {gain:.4f} ({gain / max(abs(recipe.value), 1e-12):.1%}) above the recipe's "
            f"settings on the validation targets{within}; the best of many is partly luck, so compare on other seeds: "
            "run --tuned"
        )

    def __str__(self) -> str:
        from tabulate import tabulate

        table = tabulate(self.rows(), headers=HEADER, tablefmt="plain", disable_numparse=True)
        return "\n".join([self.title(), table, *self.remarks()])

    __repr__ = __str__

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per trial: number, status, value, seconds, epochs, parameters, and a column per setting."""
        import pandas as pd

        return pd.DataFrame(
            {
                "trial": trial.number, "status": trial.status, "value": trial.value, "seconds": trial.seconds,
                "n_epochs": trial.n_epochs, "n_parameters": trial.n_parameters, "reason": trial.reason,
                **trial.values,
            }
            for trial in self.trials
        )  # fmt: skip


def is_within_noise(best: Trial, recipe: Trial) -> bool:
    """Return whether two trials differ by less than two standard errors of their seeds' values; False for one seed.

    A trial's seeds differ as the seeds of a table do.
    """
    samples = [
        [max(value for _, value in curve) for curve in trial.curves if curve] for trial in (best, recipe)
    ]
    if min(map(len, samples)) < 2:
        return False
    error = sum(stdev(values) ** 2 / len(values) for values in samples) ** 0.5
    return fmean(samples[0]) - fmean(samples[1]) < 2 * error


def stored_studies(results_dir: Path, datasets: Sequence[str], models: Sequence[str]) -> list[Study]:
    """Return every study of models on data sets, whatever was searched and how; DataError for a damaged study."""
    return [
        Study.of(ledger)
        for dataset in datasets
        for model in dict.fromkeys(models)
        for ledger in studies_of(results_dir, dataset, model)
    ]
