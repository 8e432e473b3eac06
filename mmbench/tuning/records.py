"""What a study stores: its plan, its trials, and the best settings among them."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from mmbench import strict
from mmbench.atomic import hash_json
from mmbench.errors import counted
from mmbench.settings.recipe import Searched
from mmbench.tuning.sampling import SamplerName
from mmbench.tuning.space import Dimension

Status = Literal["finished", "pruned", "cut", "failed"]
CHOOSABLE = ("finished", "cut")  # a pruned trial was stopped because it was worse than others


@dataclass(frozen=True, kw_only=True)
class Plan(strict.Strict):
    """What a study searches. Its budget does not belong to it: with more trials the same study continues later."""

    dataset: str
    model: str
    metric: str
    sampler: SamplerName
    unit: Literal["trials", "seconds"]
    n_seeds: int  # of each trial
    prunes: bool
    space: dict[str, dict[str, Any]]  # by setting: its recipe's own value, and what is tried
    fixed: dict[str, Any]  # settings that the user gave all trials
    protocol: dict[str, Any]
    features: dict[str, Any]  # by modality: what the features were made from

    @cached_property
    def study_id(self) -> str:
        return hash_json(self.to_json())[:10]

    @cached_property
    def seed(self) -> int:
        """The sampler's, which differs between studies."""
        return int(self.study_id, 16)

    @cached_property
    def dimensions(self) -> dict[str, Dimension]:
        return {
            key: Dimension(key, content["own"], Searched.model_validate(content["searched"]))
            for key, content in self.space.items()
        }


def space_content(space: dict[str, Dimension]) -> dict[str, dict[str, Any]]:
    """Return a search space as a plan holds it, in JSON values."""
    return {
        key: json.loads(
            json.dumps(
                {
                    "own": dimension.recipe_value,
                    "searched": dimension.searched.model_dump(exclude_defaults=True),
                }
            )
        )
        for key, dimension in space.items()
    }


@dataclass(frozen=True, kw_only=True)
class Trial(strict.Strict):
    """How a trial went. `value`: the mean over its seeds of the best validation value."""

    number: int
    status: Status
    values: dict[str, Any]
    value: float | None = None
    reason: str = ""
    seeds: tuple[int, ...] = ()
    curves: tuple[tuple[tuple[int, float], ...], ...] = ()  # of each seed: epoch, value
    n_epochs: int = 0  # of all seeds
    n_parameters: int = 0
    seconds: float = 0.0

    @property
    def order(self) -> tuple[float, int, int]:
        """Smaller is better: the larger value, then fewer parameters, then the earlier trial."""
        assert self.value is not None
        return (-self.value, self.n_parameters, self.number)


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the best trial; of equal values that with fewer parameters, then the earlier."""
    candidates = [trial for trial in trials if trial.value is not None and trial.status in CHOOSABLE]
    return min(candidates, key=lambda trial: trial.order, default=None)


def two_digits(hours: float) -> str:
    """Return hours with two digits, or all that stand before the point: 0.25, 1.5, 120."""
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"


def best_toml(plan: Plan, trials: list[Trial]) -> str:
    """Return the best settings as TOML, in the form that `mmbench run --config` and recipes have."""
    best = best_of(trials)
    if best is None:
        return "# no trial has finished yet\n"
    seconds = sum(trial.seconds for trial in trials)
    head = (
        f"# {plan.model} on {plan.dataset}: the best of {counted(len(trials), 'trial')} ({seconds / 3600:.2f} h), "
        f"validation {plan.metric} {best.value:.6f}\n"
    )
    source = json.dumps(f"tuned: study {plan.study_id}, trial {best.number}")
    rows = [
        f"{key} = {{ value = {json.dumps(value)}, source = {source} }}" for key, value in best.values.items()
    ]
    return head + "[settings]\n" + "\n".join(rows) + "\n"
