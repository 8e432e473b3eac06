"""The search space of a model: the recipe's, the part that all trained models share, the recipe's own values."""

from pathlib import Path

import pytest

from mmbench.models import registry
from mmbench.tuning.space import SHARED, Dimension, space_of
from tests.models.test_registry import OWN, RECIPE, write_own

TRAINED = ("sasrec", "hm4sr", "lrurec", "bpr-mf", "gru4rec")
SEARCH = """
[search]
slope = { low = 1, high = 3, source = "paper table 9" }
lr = { values = [7.0], source = "paper table 9" }
"""


def values(space: dict[str, Dimension], key: str) -> set[object]:
    return set(space[key].searched.values or ())


def test_the_shared_part_is_the_one_that_was_decided() -> None:
    assert {key: searched.values for key, searched in SHARED.items()} == {
        "lr": (3e-4, 1e-3, 3e-3),
        "dropout": (0.1, 0.3, 0.5),
        "weight_decay": (0.0, 1e-6, 1e-4),
    }


def test_the_grid_of_the_paper() -> None:
    space = space_of(registry.find("hm4sr"), "recipe")
    assert {key: list(dimension.searched.values or ()) for key, dimension in space.items()} == {
        "n_interactive_experts": [2, 4, 6, 8, 12],
        "n_temporal_experts": [2, 4, 6, 8, 12],
        "temperature": [0.1, 0.2, 0.3, 0.5, 0.7, 1.0],
        "idcl_weight": [0.25, 0.5, 0.75, 1.0, 1.25, 1.5],
        "pcl_weight": [0.1, 0.3, 0.5, 0.7, 1.0, 1.5],
        "placeholder_share": [0.1, 0.2, 0.3, 0.4, 0.5],
    }


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_search_the_same_values_of_the_shared_keys(name: str) -> None:
    entry = registry.find(name)
    space = space_of(entry)
    has_dropout = "dropout" in entry.own_settings()
    shared = {"lr", "weight_decay", "dropout"} if has_dropout else {"lr", "weight_decay"}
    assert set(space) == set(entry.recipe.search) | shared
    for key in SHARED.keys() & space.keys():
        assert values(space, key) == {*(SHARED[key].values or ()), space[key].own}
    assert has_dropout == (name != "bpr-mf")


def test_the_recipe_s_own_lists_stand_in_the_space_of_the_recipe() -> None:
    entry = registry.find("sasrec")
    assert values(space_of(entry, "recipe"), "lr") == {0.01, 0.005, 0.001, 0.0005, 0.0001}
    assert "weight_decay" not in space_of(entry, "recipe")
    assert values(space_of(entry), "attn_dropout") == {0.2, 0.5}


def test_models_without_training_have_the_recipe_s_part() -> None:
    for name in ("itemknn", "ease", "pop", "random"):
        entry = registry.find(name)
        assert set(space_of(entry)) == set(entry.recipe.search)


def test_the_recipe_s_own_value_is_in_every_space() -> None:
    for name in registry.all_names():
        entry = registry.find(name)
        for kind in ("shared", "recipe"):
            for dimension in space_of(entry, kind).values():
                tried = dimension.searched
                assert dimension.own == entry.values("")[dimension.key] or isinstance(dimension.own, tuple)
                assert tried.including(dimension.own) == tried, (name, dimension.key)
    assert values(space_of(registry.find("lrurec"), "recipe"), "lru_dropout") == {0.2, 0.4, 0.5, 0.6, 0.8}
    assert values(space_of(registry.find("tisasrec"), "recipe"), "hidden_dim") == {10, 20, 30, 40, 50, 64}


def test_a_variant_s_value_and_one_of_a_data_set_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = '[dataset.toy]\nslope = { value = 5.0, source = "paper table 8" }\n'
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path, code=OWN, recipe=RECIPE + SEARCH + extra)))
    ends = {
        (name, dataset): (space["slope"].searched.low, space["slope"].searched.high, space["slope"].own)
        for name in ("my-line", "my-line:steep")
        for dataset in ("", "toy", "toy@5")
        if (space := space_of(registry.find(name), dataset=dataset))
    }
    assert ends["my-line", ""] == (1, 3, 2.0)
    assert ends["my-line", "toy"] == ends["my-line", "toy@5"] == (1, 5.0, 5.0)
    assert ends["my-line:steep", "toy"] == (1, 9.0, 9.0)
    assert values(space_of(registry.find("my-line")), "lr") == {7.0, 0.001}  # not trained: its own list stays


def test_whole_numbers_are_told_from_real_ones() -> None:
    space = space_of(registry.find("sasrec"))
    assert [space[key].is_integer for key in ("n_layers", "dropout")] == [True, False]
    assert not space_of(registry.find("rp3beta"))["normalise"].is_integer
