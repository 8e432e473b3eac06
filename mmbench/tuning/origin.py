"""How the settings of a stored run came about: from the recipe, from a search, or typed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmbench.errors import counted
from mmbench.runs.store import RunRecord
from mmbench.settings.config import CHOSEN
from mmbench.settings.describe import value_text
from mmbench.tuning.records import Plan, Trial, best_of, two_digits
from mmbench.tuning.stored import studies_of


@dataclass(frozen=True)
class SettingsOrigin:
    """How a run's settings came about.

    budget     what was spent on the search: "30 trials" or "2 h"; "" = nothing was searched
    hours      the same as a number, where the budget was a time; 0 where it was not
    cost       what it took: "30 trials, 1.9 h"
    n_trials   of the search
    is_recipe  whether the settings are the recipe's; a search may end with them
    changes    "lr=0.003, n_layers=1": what the search changed of the recipe
    """

    kind: Literal["recipe", "tuned", "--set"]
    budget: str = ""
    hours: float = 0.0
    cost: str = ""
    n_trials: int = 0
    is_recipe: bool = False
    changes: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.cost})" if self.cost else self.kind


def settings_origin(record: RunRecord) -> SettingsOrigin:
    """Return how the settings of a stored run came about.

    The ledgers beside the run decide, because the same settings may have been typed, or be the recipe's.
    """
    values = {key: setting.value for key, setting in record.settings.items()}
    origins = []
    for ledger in studies_of(record.path.parents[3], record.dataset, record.model):
        trials = ledger.trials()
        best = best_of(trials)
        if best is None or ledger.plan.protocol != record.protocol:
            continue
        chosen = {**ledger.plan.fixed, **best.values}
        if _agree(values, chosen) and _others_are_of_the_recipe(record, set(chosen)):
            recipe = {key: dimension["own"] for key, dimension in ledger.plan.space.items()}
            changes = {
                key: value for key, value in chosen.items() if key not in recipe or recipe[key] != value
            }
            origins.append(_origin(ledger.plan, trials, changes))
    if origins:
        return max(origins, key=lambda origin: origin.n_trials)
    is_chosen = any(setting.origin in CHOSEN for setting in record.settings.values())
    return SettingsOrigin("--set" if is_chosen else "recipe", is_recipe=not is_chosen)


def _origin(plan: Plan, trials: Sequence[Trial], changes: Mapping[str, object]) -> SettingsOrigin:
    hours = sum(trial.seconds for trial in trials) / 3600
    time = f"{hours:.1f} h" if hours >= 0.05 else f"{hours * 60:.1f} min"
    n_trials, is_time = counted(len(trials), "trial"), plan.unit == "seconds"
    return SettingsOrigin(
        "tuned", budget=f"{two_digits(hours)} h" if is_time else n_trials, hours=hours if is_time else 0.0,
        cost=f"{n_trials}, {time}", n_trials=len(trials), is_recipe=not changes,
        changes=", ".join(f"{key}={value_text(value)}" for key, value in sorted(changes.items())),
    )  # fmt: skip


def _agree(values: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    return all(values.get(key) == value for key, value in wanted.items())


def _others_are_of_the_recipe(record: RunRecord, keys: set[str]) -> bool:
    return not any(setting.origin in CHOSEN and key not in keys for key, setting in record.settings.items())
