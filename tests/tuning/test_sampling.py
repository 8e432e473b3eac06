"""What the next trial tries rests on the study and the trials before it, and on nothing else."""

import json
import math
from collections import Counter
from typing import Any

import pytest

from mmbench.errors import UsageError
from mmbench.settings.recipe import Searched
from mmbench.tuning.sampling import SamplerName, Tried, grid, importance, propose, size_of
from mmbench.tuning.space import Dimension

SPACE = {
    "lr": Dimension("lr", 0.001, Searched(low=1e-4, high=1e-2, log=True, source="test")),
    "n_layers": Dimension("n_layers", 2, Searched(low=1, high=4, source="test")),
    "dropout": Dimension("dropout", 0.5, Searched(values=(0.5, 0.1, 0.3), source="test")),
    "loss": Dimension("loss", "ce", Searched(values=("ce", "bpr"), source="test")),
    "dilations": Dimension("dilations", [1, 4], Searched(values=([1, 2], [1, 4]), source="test")),
}
LISTS = {key: SPACE[key] for key in ("dropout", "loss", "dilations")}
SAMPLERS: tuple[SamplerName, ...] = ("tpe", "random")


def value_of(values: dict[str, Any]) -> float:
    """Best at lr .003, three layers, dropout .1 and the loss bpr; the dilations change nothing."""
    near = -abs(math.log10(values["lr"] / 0.003)) if "lr" in values else 0.0
    return (
        near
        - abs(values.get("n_layers", 3) - 3)
        - 4 * abs(values["dropout"] - 0.1)
        + (values["loss"] == "bpr")
    )


def history(sampler: SamplerName, n: int, seed: int = 1, space: dict[str, Dimension] = SPACE) -> list[Tried]:
    tried: list[Tried] = []
    for number in range(n):
        values = propose(sampler, space, number, seed, tried)
        assert values is not None
        tried.append(Tried(values, value_of(values) if number % 7 != 3 else None))
    return tried


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_setting_stays_in_its_space(sampler: SamplerName) -> None:
    tried = history(sampler, 40)
    for trial in tried:
        values = trial.values
        assert 1e-4 <= values["lr"] <= 1e-2
        assert values["n_layers"] in (1, 2, 3, 4)
        assert isinstance(values["n_layers"], int)
        assert values["dropout"] in (0.5, 0.1, 0.3)
        assert values["loss"] in ("ce", "bpr")
        assert values["dilations"] in ([1, 2], [1, 4])
    assert all(len({json.dumps(trial.values[key]) for trial in tried}) > 1 for key in SPACE)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_six_digits_do_not_lead_out_of_a_range(sampler: SamplerName) -> None:
    low, high = 0.12345678, 0.12345692
    space = {"lr": Dimension("lr", low, Searched(low=low, high=high, source="test"))}
    tried = [Tried({"lr": low}, 0.1)]
    for number in range(1, 12):
        values = propose(sampler, space, number, 1, tried)
        assert values is not None
        assert low <= values["lr"] <= high
        tried.append(Tried(values, number / 10))


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_the_first_trial_is_the_recipe_s_own(sampler: SamplerName) -> None:
    assert propose(sampler, SPACE, 0, 1, []) == {
        key: dimension.recipe_value for key, dimension in SPACE.items()
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proposal_rests_on_the_trials_before_only(sampler: SamplerName) -> None:
    """Another process, with the ledger alone, proposes the same; another study something else."""
    first, again = history(sampler, 15), history(sampler, 15)
    assert first == again
    assert [trial.values for trial in history(sampler, 15, seed=2)] != [item.values for item in first]
    stored = [Tried(json.loads(json.dumps(item.values)), item.value) for item in first]
    assert propose(sampler, SPACE, 15, 1, stored) == propose(sampler, SPACE, 15, 1, first)


def test_a_grid_has_every_combination_once_the_recipe_s_first() -> None:
    actual = []
    for number in range(20):
        values = propose("grid", LISTS, number, 1, [])
        if values is None:
            break
        actual.append(json.dumps(values, sort_keys=True))
    assert len(actual) == len(set(actual)) == size_of(LISTS) == 12
    assert actual[0] == json.dumps(
        {key: dimension.recipe_value for key, dimension in LISTS.items()}, sort_keys=True
    )
    assert size_of(SPACE) is None
    with pytest.raises(UsageError, match="a grid needs lists of values, but lr has a range"):
        next(iter(grid(SPACE)))


def test_chance_draws_ranges_evenly_in_their_scale() -> None:
    drawn = [propose("random", SPACE, number, 5, []) for number in range(1, 2001)]
    logs = Counter(math.floor(math.log10(draw["lr"]) * 2) for draw in drawn if draw)  # half decades
    layers = Counter(draw["n_layers"] for draw in drawn if draw)
    assert set(layers) == {1, 2, 3, 4}
    assert all(abs(count - 500) < 6 * math.sqrt(500) for count in [*logs.values(), *layers.values()])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_small_spaces_are_tried_through_before_anything_is_repeated(sampler: SamplerName) -> None:
    tried = history(sampler, 11, space=LISTS)
    assert (
        len({json.dumps(trial.values, sort_keys=True) for trial in tried}) >= 10
    )  # 50 draws may miss the last one
    every = [Tried(values, 0.0) for number in range(12) if (values := propose("grid", LISTS, number, 1, []))]
    assert propose(sampler, LISTS, 12, 1, every) is None


def test_chance_finds_a_planted_optimum_as_often_as_arithmetic_says() -> None:
    """One of 100 combinations; eleven trials without repetition, the first of them the recipe's own."""
    space = {
        name: Dimension(name, 0, Searched(values=tuple(range(10)), source="test")) for name in ("a", "b")
    }
    n_studies, hits = 400, 0
    for seed in range(n_studies):
        tried: list[Tried] = []
        for number in range(11):
            values = propose("random", space, number, seed, tried)
            assert values is not None
            tried.append(Tried(values, 0.0))
        hits += {"a": 7, "b": 3} in [trial.values for trial in tried]
    expected = 10 / 99
    assert abs(hits / n_studies - expected) < 4 * math.sqrt(expected * (1 - expected) / n_studies)


def test_the_estimator_beats_chance_on_a_smooth_value() -> None:
    def reached(sampler: SamplerName) -> float:
        best = []
        for seed in range(4):
            values = [trial.value for trial in history(sampler, 40, seed=seed) if trial.value is not None]
            best.append(max(values))
        return sum(best) / len(best)

    assert reached("tpe") > reached("random")


def test_importance_names_what_matters() -> None:
    actual = importance(SPACE, history("random", 60))
    assert set(actual) == set(SPACE)
    assert min(actual, key=lambda key: actual[key]) == "dilations"
    assert importance(SPACE, history("random", 5)) == {}
