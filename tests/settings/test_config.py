"""Settings: strict types, names with suggestions, and where each value came from."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.runs.overrides import Overrides, check_overrides
from mmbench.runs.plan import make_cell, resolve_settings
from mmbench.settings.config import (
    Layer,
    Origin,
    PositiveInt,
    Probability,
    Setting,
    TrainConfig,
    build,
    parse_value,
    resolve,
)
from tests.prepared import add_features, write_toy


@dataclass(frozen=True, kw_only=True)
class Config:
    n_layers: PositiveInt = 2
    dropout: Probability = 0.5
    use_bias: bool = True
    kind: Literal["a", "b"] = "a"
    parts: tuple[Literal["id", "text"], ...] = ("id",)
    name: str = ""

    def __post_init__(self) -> None:
        if self.n_layers == 13:
            raise ValueError("n_layers 13 brings bad luck; take 12")


def test_values_of_the_right_type_are_taken_as_they_are() -> None:
    built = build(Config, {"n_layers": 3, "dropout": 0.1, "parts": ["id", "text"]}, where="toy")
    assert built == Config(n_layers=3, dropout=0.1, parts=("id", "text"))
    whole = build(Config, {"dropout": 0}, where="toy").dropout
    assert whole == 0.0
    assert isinstance(whole, float)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layers", 2.0), ("n_layers", 2.5), ("n_layers", "2"), ("n_layers", True), ("n_layers", 0),
        ("n_layers", -1), ("n_layers", [2]), ("n_layers", None), ("dropout", "0.1"), ("dropout", True),
        ("dropout", 1.0), ("dropout", -0.1), ("dropout", float("nan")), ("dropout", float("inf")),
        ("use_bias", 1), ("use_bias", "true"), ("kind", "c"), ("kind", 1), ("parts", "id"), ("parts", ["image"]),
        ("name", 1),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        build(Config, {key: value}, where="toy")
    text = str(caught.value)
    assert text.startswith(f"toy: {key}")
    assert "\n" not in text
    assert "got " in text


def test_a_configuration_may_refuse_with_its_own_words() -> None:
    with pytest.raises(UsageError) as caught:
        build(Config, {"n_layers": 13}, where="toy")
    assert "n_layers 13 brings bad luck; take 12" in str(caught.value)


def test_unknown_keys_fail_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"toy: unknown setting 'n_layer'; did you mean 'n_layers'\?"):
        build(Config, {"n_layer": 2}, where="toy")
    for layer, title in (
        (Layer(Origin.recipe, {"zzz": 1}), "recipe"),
        (Layer(Origin.variant, {"zzz": 1}, "official"), "variant official"),
        (Layer(Origin.user, {"zzz": 1}), "--set"),
    ):
        with pytest.raises(UsageError, match=rf"toy \({title}\): unknown setting 'zzz'; known: a, b"):
            resolve([layer], known=["b", "a"], where="toy")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.0", 1.0), ("1e-3", 0.001), ("true", True), ("prefix", "prefix"), ('"a b"', "a b"),
        ("test-item", "test-item"), ('["id", "text"]', ["id", "text"]), ("-1", -1), ("True", "True"),
        ("NDCG@10", "NDCG@10"), ("1_000", 1000), ("", ""), ("a=b", "a=b"), ("1 2", "1 2"),
    ],
)  # fmt: skip
def test_values_on_the_command_line(text: str, value: Any) -> None:
    actual = parse_value(text)
    assert actual == value
    assert type(actual) is type(value)


def test_the_defaults_of_training_are_valid() -> None:
    assert build(TrainConfig, vars(TrainConfig()), where="defaults") == TrainConfig()


def test_later_layers_win_and_are_named(toy: Prepared) -> None:
    entry = registry.find("sasrec:official")
    actual = resolve_settings(entry, toy, [Layer(Origin.user, {"hidden_dim": 48})])
    assert {
        key: (setting.value, setting.origin) for key, setting in actual.items() if key in EXPECTED
    } == EXPECTED
    assert actual["max_len"].note == "toy"
    assert actual["beta2"].note == "official"
    assert actual["lr"].note == entry.recipe.settings["lr"].source
    plain = resolve_settings(registry.find("sasrec"), toy, [])
    assert (plain["loss"].value, plain["loss"].origin) == ("ce", Origin.default)
    assert set(plain) == set(entry.known_settings())


EXPECTED = {
    "adam_eps": (1e-8, Origin.default),
    "max_len": (10, Origin.protocol),
    "patience": (3, Origin.protocol),
    "lr": (0.001, Origin.recipe),
    "beta2": (0.98, Origin.variant),
    "hidden_dim": (48, Origin.user),
}


def test_a_data_set_s_table_stands_between_recipe_and_variant(toy: Prepared) -> None:
    """Also when the prepared data set has a suffix; the table is that of the data set itself."""
    entry = registry.find("sasrec")
    sourced = type(next(iter(entry.recipe.settings.values())))
    table = {key: sourced(value=value, source="test") for key, value in (("lr", 0.5), ("loss", "bpr"))}
    with_table = entry.recipe.model_copy(update={"dataset": {"toy": table}})
    changed = registry.ModelEntry(recipe=with_table, file=entry.file, variant="official")
    actual = resolve_settings(changed, toy, [])
    assert actual["lr"] == Setting(0.5, Origin.dataset, "test")
    assert actual["loss"] == Setting("bce", Origin.variant, "official")
    layers = [(layer.origin, layer.note) for layer in changed.layers("toy@random:1")]
    assert layers == [
        (Origin.default, ""), (Origin.recipe, ""), (Origin.dataset, "toy"), (Origin.variant, "official"),
    ]  # fmt: skip


def test_bad_values_name_the_model_and_the_key(toy: Prepared) -> None:
    entry = registry.find("sasrec")
    for values, expected in (
        ({"lr": -1}, "sasrec: lr: "),
        ({"hidden_dim": 10, "n_heads": 3}, "hidden_dim 10 is not divisible by n_heads 3"),
        ({"selection_metric": "NDGC@10"}, "did you mean 'NDCG'"),
        ({"samples": "al"}, "sasrec: samples: "),
    ):
        with pytest.raises(UsageError) as caught:
            resolve_settings(entry, toy, [Layer(Origin.user, values)])
        assert expected in str(caught.value)


def test_equal_settings_are_one_cell_whatever_their_spelling(toy: Prepared, tmp_path: Any) -> None:
    def path(**values: Any) -> str:
        cell = make_cell(
            results_dir=tmp_path, prepared=toy, model="hm4sr", seed=1, overrides=[Layer(Origin.user, values)]
        )
        return str(cell.path)

    usual = path()
    assert path(weight_decay=0) == path(weight_decay=0.0) == usual
    assert path(text_encoder="toy") == usual, "the same features, named or found"
    assert path(text_encoder="none") != usual
    assert path(lr=0.5) != usual
    assert path(compile=False) == usual
    assert path(compile=True) != usual
    assert path(hidden_dim=32) != usual


def test_features_decide_the_cell_and_missing_ones_are_noted(tmp_path: Any) -> None:
    prepared = write_toy(tmp_path, features=False)

    def cell() -> Any:
        return make_cell(results_dir=tmp_path, prepared=prepared, model="hm4sr", seed=1, overrides=[])

    with pytest.raises(UsageError, match="has no features; run: mmbench extract toy"):
        cell()
    add_features(prepared, "text", "one", dim=5)
    first = cell()
    assert first.notes == ("HM4SR runs without image: toy has no image features",)
    add_features(prepared, "text", "one", dim=5, seed=9)
    assert cell().path != first.path
    add_features(prepared, "text", "one", dim=5)
    assert cell().path == first.path, "the same values again"
    with pytest.raises(UsageError, match=r"^iisan: unknown text features 'bert-base-uncased\+layers'"):
        make_cell(results_dir=tmp_path, prepared=prepared, model="iisan", seed=1, overrides=[])


def test_overrides_reach_the_models_that_have_them() -> None:
    overrides = Overrides({"lr": 0.1, "n_heads": 4}, {"sasrec": {"lr": 0.2}, "sasrec:official": {"lr": 0.3}})
    for model, known, values in (
        ("gru4rec", ["lr"], {"lr": 0.1}),
        ("sasrec", ["lr", "n_heads"], {"lr": 0.2, "n_heads": 4}),
        ("sasrec:official", ["lr", "n_heads"], {"lr": 0.3, "n_heads": 4}),
    ):
        assert overrides.layers(model, known) == [Layer(Origin.user, values)]
    assert overrides.layers("pop", ["window"]) == []


def test_what_an_experiment_declares_is_weaker_and_what_it_sweeps_is_stronger_than_a_user() -> None:
    overrides = Overrides(
        {"lr": 0.1, "n_heads": 4}, declared={"lr": 1.0, "dropout": 0.2}, swept={"n_heads": 8}
    )
    layers = overrides.layers("sasrec", ["lr", "n_heads", "dropout"])
    actual = resolve(layers, known=["lr", "n_heads", "dropout"], where="test")
    assert {key: (setting.value, setting.origin) for key, setting in actual.items()} == {
        "lr": (0.1, Origin.user), "dropout": (0.2, Origin.experiment), "n_heads": (8, Origin.experiment),
    }  # fmt: skip


def test_overrides_that_reach_nobody_are_refused() -> None:
    check_overrides(Overrides({"lr": 0.1}, {"sasrec": {"n_heads": 1}}), ["sasrec:official"])
    for overrides, expected in (
        (Overrides({"n_head": 1}, {}), r"--set n_head: .*did you mean 'n_heads'"),
        (Overrides({}, {"sasrce": {"lr": 1}}), "did you mean 'sasrec'"),
        (Overrides({}, {"hm4sr": {"lr": 1}}), "unknown model of this run 'hm4sr'"),
        (Overrides({}, {"sasrec": {"lrr": 1}}), r"--set sasrec.lrr: .*did you mean 'lr'"),
    ):
        with pytest.raises(UsageError, match=expected):
            check_overrides(overrides, ["sasrec"])


@dataclass(frozen=True)
class WithoutType:
    lr: float = 0.1
    table: np.random.Generator = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ForTypeCheckers:
    lr: float = 0.1
    net: "Net" = None  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(("cls", "said"), [(WithoutType, "table: "), (ForTypeCheckers, "net: Net")])
def test_a_type_that_no_recipe_can_give_is_named(cls: type, said: str) -> None:
    with pytest.raises(
        UsageError, match=f"^mine: the setting {said}.* of {cls.__name__} has a type"
    ) as caught:
        build(cls, {"lr": 0.2}, where="mine")
    assert "pydantic" not in str(caught.value)
