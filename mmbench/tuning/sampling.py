"""Which settings the next trial tries: by chance, along a grid, or by Optuna's tree-structured Parzen estimator.

A proposal rests on the study, the trial's number and the trials before it, and on nothing that a process remembers:
a study that was interrupted continues as if it had not been. Trial 0 tries the recipe's settings.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mmbench.errors import UsageError
from mmbench.runtime import derive_seed
from mmbench.settings.recipe import Searched
from mmbench.tuning.space import Dimension

SamplerName = Literal["tpe", "random", "grid"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
Values = dict[str, Any]
Space = Mapping[str, Dimension]
N_DRAWS = 50  # at settings that were not tried yet, before a repetition is accepted


@dataclass(frozen=True)
class Tried:
    """A trial before: its settings, and its value; None = it failed or is under way."""

    values: Values
    value: float | None


def propose(
    sampler: SamplerName, space: Space, number: int, seed: int, tried: Sequence[Tried]
) -> Values | None:
    """Return the settings of trial `number` of a study as JSON values; None when every combination was tried."""
    values = _propose(sampler, space, number, seed, tried)
    return None if values is None else dict(json.loads(json.dumps(values)))


def _propose(
    sampler: SamplerName, space: Space, number: int, seed: int, tried: Sequence[Tried]
) -> Values | None:
    if number == 0:
        return {key: dimension.recipe_value for key, dimension in space.items()}
    if sampler == "grid":
        return next(itertools.islice(grid(space), number - 1, None), None)
    known, size = {_key(trial.values) for trial in tried}, size_of(space)
    if size is not None and len(known) >= size:
        return None
    draw = _Tpe(space, seed, number, tried) if sampler == "tpe" else _Chance(space, seed, number)
    for _ in range(N_DRAWS):
        values = draw.next()
        if _key(values) not in known:
            break
    return values


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def grid(space: Space) -> "itertools.chain[Values]":
    """Yield every combination of listed values but the recipe's, which is trial 0; the last key changes first."""
    lists = {}
    for key, dimension in space.items():
        points = dimension.searched.points
        if points is None:
            raise UsageError(
                f"a grid needs lists of values, but {key} has a range; use --sampler tpe or random"
            )
        lists[key] = points
    recipe = {key: dimension.recipe_value for key, dimension in space.items()}
    combinations = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return itertools.chain(values for values in combinations if _key(values) != _key(recipe))


def size_of(space: Space) -> int | None:
    """Return the number of combinations; None where a range has no end of them."""
    n_points = 1
    for dimension in space.values():
        points = dimension.searched.points
        if points is None:
            return None
        n_points *= len(points)
    return n_points


class _Chance:
    """Draws every setting by itself, evenly over its list or range."""

    def __init__(self, space: Space, seed: int, number: int) -> None:
        self.space = space
        self.generator = np.random.default_rng(derive_seed(seed, "trial", number))

    def next(self) -> Values:
        return {key: self._draw(dimension) for key, dimension in self.space.items()}

    def _draw(self, dimension: Dimension) -> Any:
        searched, share = dimension.searched, float(self.generator.random())
        if (points := searched.points) is not None:
            return points[int(share * len(points))]
        low, high = float(searched.low or 0), float(searched.high or 0)
        if dimension.is_integer:
            high += 1 - 1e-9
        value = low * (high / low) ** share if searched.log else low + (high - low) * share
        return math.floor(value) if dimension.is_integer else _rounded(value, searched)


def _rounded(value: float, searched: Searched) -> float:
    """Return a value of a range with six digits, and never outside, where Optuna would refuse it as tried."""
    return min(max(float(f"{value:.6g}"), float(searched.low or 0)), float(searched.high or 0))


class _Tpe:
    """Asks Optuna, whose study is rebuilt from the trials before. Listed numbers are tried in their order."""

    def __init__(self, space: Space, seed: int, number: int, tried: Sequence[Tried]) -> None:
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.lists = space, {key: _ordered(dimension) for key, dimension in space.items()}
        self.distributions = {key: self._distribution(optuna, key) for key in space}
        draws = derive_seed(seed, "trial", number) % 2**32
        sampler = optuna.samplers.TPESampler(seed=draws, multivariate=True)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        states = optuna.trial.TrialState
        for trial in tried:
            self.study.add_trial(
                optuna.trial.create_trial(
                    params={key: self._coded(key, value) for key, value in trial.values.items()},
                    distributions=self.distributions, value=trial.value,
                    state=states.FAIL if trial.value is None else states.COMPLETE,
                )
            )  # fmt: skip

    def next(self) -> Values:
        codes = self.study.ask(self.distributions).params
        return {key: self._decoded(key, code) for key, code in codes.items()}

    def _distribution(self, optuna: Any, key: str) -> Any:
        dimension, points = self.space[key], self.lists[key]
        if points is not None:
            kinds = optuna.distributions
            return (
                kinds.IntDistribution(0, len(points) - 1)
                if _are_numbers(points)
                else kinds.CategoricalDistribution(range(len(points)))
            )
        searched = dimension.searched
        kind = "IntDistribution" if dimension.is_integer else "FloatDistribution"
        return getattr(optuna.distributions, kind)(searched.low, searched.high, log=searched.log)

    def _coded(self, key: str, value: Any) -> Any:
        points = self.lists[key]
        return value if points is None else [json.dumps(point) for point in points].index(json.dumps(value))

    def _decoded(self, key: str, code: Any) -> Any:
        points = self.lists[key]
        if points is not None:
            return points[code]
        return code if isinstance(code, int) else _rounded(code, self.space[key].searched)


def _ordered(dimension: Dimension) -> list[Any] | None:
    """Return the listed values, numbers in their order; None for a range."""
    points = dimension.searched.points
    if points is None:
        return None
    return sorted(points) if _are_numbers(points) else list(points)


def _are_numbers(points: Sequence[Any]) -> bool:
    return all(isinstance(point, int | float) and not isinstance(point, bool) for point in points)


def import_optuna() -> Any:
    """Return the module; UsageError when it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "--sampler tpe needs optuna: pip install 'mmbench[tune]', or use --sampler random"
        ) from error
    return optuna


def importance(space: Space, tried: Sequence[Tried]) -> dict[str, float]:
    """Return how much of the value's variance each setting explains, largest first; {} where that is unknown."""
    finished = [trial for trial in tried if trial.value is not None]
    if len(finished) < 10 or len(space) < 2:
        return {}
    try:
        optuna = import_optuna()
    except UsageError:
        return {}
    study = _Tpe(space, 0, 1, finished).study
    try:
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (RuntimeError, ValueError):  # all values are equal
        return {}
    return {key: float(share) for key, share in shares.items()}
