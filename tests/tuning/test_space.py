"""The search space of a model: the recipe's, the part that all trained models share, the recipe's own values."""

import json
from pathlib import Path

import pytest

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.tuning.request import make_search
from mmbench.tuning.space import SHARED, Dimension, read_space_file, space_of
from mmbench.tuning.study import Budget, plan_study
from tests.models.test_registry import OWN, RECIPE, write_own

TRAINED = ("sasrec", "hm4sr", "lrurec", "bpr-mf", "gru4rec")
SEARCH = """
[search]
slope = { low = 1, high = 3, source = "paper table 9" }
lr = { values = [7.0], source = "paper table 9" }
"""


def values(space: dict[str, Dimension], key: str) -> set[object]:
    return set(space[key].searched.values or ())


def test_the_shared_part_is_as_decided() -> None:
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
        assert values(space, key) == {*(SHARED[key].values or ()), space[key].recipe_value}
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
                assert dimension.recipe_value == entry.values("")[dimension.key] or isinstance(
                    dimension.recipe_value, tuple
                )
                assert tried.including(dimension.recipe_value) == tried, (name, dimension.key)
                if tried.points is not None:  # written alike too, or the estimator would not know it again
                    assert json.dumps(dimension.recipe_value) in [
                        json.dumps(point) for point in tried.points
                    ], name
    assert values(space_of(registry.find("lrurec"), "recipe"), "lru_dropout") == {0.2, 0.4, 0.5, 0.6, 0.8}
    assert values(space_of(registry.find("tisasrec"), "recipe"), "hidden_dim") == {10, 20, 30, 40, 50, 64}


def test_values_of_a_variant_and_of_a_data_set_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = '[dataset.toy]\nslope = { value = 5.0, source = "paper table 8" }\n'
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path, code=OWN, recipe=RECIPE + SEARCH + extra)))
    ends = {
        (name, dataset): (
            space["slope"].searched.low,
            space["slope"].searched.high,
            space["slope"].recipe_value,
        )
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


FILE = """
[search]
lr = { low = 1e-4, high = 1e-2, log = true, source = "ours, for a talk" }
n_layers = [1, 2]
[model.hm4sr]
temperature = { low = 0.1, high = 0.5, step = 0.2 }
lr = [0.001]
[model."sasrec:official"]
dropout = [0.2]
"""


def test_a_file_lists_what_is_searched_for_all_models_and_for_one(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(FILE)
    models = ["hm4sr", "sasrec", "sasrec:official", "gru4rec"]
    search = make_search(models, sampler="random", space=file, listed={"sasrec.n_layers": [3]})
    assert search.kind == "listed"
    listed = {
        model: {
            key: str(value) if not isinstance(value, list) else ", ".join(map(str, value))
            for key, value in search.listed.of_user(model, registry.find(model).known_settings()).items()
        }
        for model in models
    }
    drawn = "0.0001 to 0.01, log"
    assert listed["hm4sr"] == {"lr": "0.001", "n_layers": "1, 2", "temperature": "0.1 to 0.5, step 0.2"}
    assert listed["sasrec"] == {"lr": drawn, "n_layers": "3"}
    assert listed["sasrec:official"] == {"lr": drawn, "n_layers": "3", "dropout": "0.2"}
    assert listed["gru4rec"]["lr"] == drawn
    searched = read_space_file(file)
    assert searched["lr"].source == "ours, for a talk"
    assert searched["n_layers"].source.startswith("decision")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "searches nothing"),
        ("[search]", "searches nothing"),
        ("[serach]\nlr = [1.0]", "serach: a space has the tables"),
        ("search = 3", "a space has the tables"),
        ("model = 3", "a space has the tables"),
        ("[search]\nlr = 3", "lr: must be"),
        ("[search]\nlr = []", "lr: values is empty"),
        ("[search]\nlr = { low = 1.0 }", "lr: a range needs low and high"),
        ("[search]\nlr = { lwo = 1.0, high = 2.0 }", "lr.lwo: "),
        (
            "[search]\nlr = { low = 'x', high = 2.0 }",
            "lr.low: must be a number",
        ),
        ("[search", "--space"),
        ("[search]\nlr = " + "[" * 20_000, "nested too deeply"),
        ("[search]\nlrr = [0.1]", "unknown setting 'lrr'; did you mean 'lr'"),
        ("[model.sasrek]\nlr = [0.1]", "unknown model of this run 'sasrek'"),
        ("[model.sasrec]\ntemperature = [0.1]", "unknown setting 'temperature'"),
    ],
)
def test_a_wrong_file_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        make_search(["sasrec"], sampler="random", space=file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_user_s_recipe_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Prepared
) -> None:
    wrong = RECIPE + '[search]\nslop = { values = [1.0], source = "paper table 9" }\n'
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path, code=OWN, recipe=wrong)))
    with pytest.raises(
        UsageError, match=r"my_line.toml \[search\]: unknown setting 'slop'; did you mean 'slope'"
    ):
        plan_study(toy, "my-line", results_dir=tmp_path, budget=Budget(trials=1))
