"""TMMSRec: what its variants consist of, and settings and data that it refuses."""

from typing import Any

import pytest

from mmbench.errors import UsageError
from mmbench.models.base import Catalog
from mmbench.models.needs import Negatives, whole_history
from mmbench.models.registry import check_recipe, find
from mmbench.settings.config import TrainConfig, build
from tests.models.make_tmmsrec import INTENDED, TABLE_4, VARIANTS, make
from tests.models.toy import (
    n_parameters,
    toy_catalog,
    view_of,
)

# Variants


def test_recipe_lists_the_variants_and_every_setting_exists() -> None:
    entry = find("tmmsrec")
    check_recipe(entry)
    assert list(entry.recipe.variants) == VARIANTS
    for variant in VARIANTS:
        values: dict[str, Any] = {}
        varied = find(f"tmmsrec:{variant}")
        own = varied.own_settings()
        for layer in varied.layers("demo"):
            values.update(layer.values)
        build(varied.config_class(), {k: v for k, v in values.items() if k in own}, where=variant)
        train = build(TrainConfig, {k: v for k, v in values.items() if k not in own}, where=variant)
        assert train.validation == ("test-item" if variant == "leaky" else "valid")
        assert train.batch_unit == "rows"


def test_table_4_variants_have_one_encoder_per_modality() -> None:
    encoder = n_parameters(make("tmmsrec:id").encoders)
    table, text, image = 31 * 24, 12 * 24 + 24, 8 * 24 + 24
    sizes = {name: n_parameters(make(f"tmmsrec:{name}")) for name in TABLE_4}
    expected = {
        "id": table + encoder,
        "id+text": table + text + 2 * encoder,
        "id+image": table + image + 2 * encoder,
    }
    for name, size in expected.items():
        assert sizes[name] == sizes[f"{name}+tie"] == size
    assert sizes["id+image+text"] == n_parameters(make()) == table + text + image + 3 * encoder
    for name in TABLE_4:
        assert (make(f"tmmsrec:{name}").time is not None) is name.endswith("tie")


def test_tables_5_and_6_and_the_shared_encoder_have_their_parameters() -> None:
    full, encoder = n_parameters(make()), n_parameters(make("tmmsrec:id").encoders)
    assert all(n_parameters(make(f"tmmsrec:{variant}")) == full for variant in ("np", "rp", "vp"))
    shared = n_parameters(make("tmmsrec:as-released", **INTENDED | {"encoder": "shared"}))
    assert (
        shared
        == n_parameters(make("tmmsrec:add"))
        == n_parameters(make("tmmsrec:as-released"))
        == full - 2 * encoder
    )
    linear = 4 * 24 * 24 + 24
    assert n_parameters(make("tmmsrec:linear")) == shared + linear
    assert n_parameters(make("tmmsrec:mlp")) == shared + linear + 24 * 24 + 24


def test_released_choices_reach_the_engine() -> None:
    assert make("tmmsrec").needs.get(Negatives).exclude is whole_history
    needs = make("tmmsrec:as-released").needs
    assert (needs.layout, needs.causal) == ("fixed", False)
    users, items = needs.get(Negatives).exclude(view_of([[4, 5, 6], [], [7, 4]]))
    assert (users.tolist(), items.tolist()) == ([0, 2], [4, 7])
    assert make("tmmsrec").needs.samples[0] == "last-window"


def test_frozen_features_are_no_weights() -> None:
    model = make()
    assert not [key for key in model.state_dict() if key.endswith((".feat", ".present"))]
    assert model.extra_state() == {"modalities": ["id", "text", "image"]}


# Refusals


def catalog_without(*modalities: str) -> Catalog:
    values = dict(vars(toy_catalog()))
    for modality in modalities:
        values[f"{modality}_feat"] = values[f"has_{modality}"] = None
    return Catalog(**values)


def test_a_missing_modality_is_left_out() -> None:
    model = make(catalog=catalog_without("image"))
    assert model.modalities == ["id", "text"]
    assert model.item_table().shape == (30, 48)
    assert make("tmmsrec:id+tie", catalog_without("text", "image")).modalities == ["id"]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("tmmsrec", ("text", "image")), ("tmmsrec:id+text", ("text",)), ("tmmsrec:id+image+tie", ("image",))],
)
def test_features_that_a_variant_is_about_must_exist(name: str, missing: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"reads.*{missing[0]}.*has none.*mmbench extract"):
        make(name, catalog_without(*missing))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_dim": 128}, r"hidden_dim 128 is not divisible by 6 .*use 126 or 132$"),
        ({"hidden_dim": 4}, r"not divisible by 6 .*use 6$"),
        ({"hidden_dim": 24, "n_heads": 5}, r"hidden_dim 24 is not divisible by n_heads 5"),
        ({"modalities": []}, r"modalities \[\] must name at least one"),
        ({"modalities": ["id", "id"]}, r"each once"),
        ({"modalities": ["id", "audio"]}, r"modalities"),
        ({"backbone": "lstm"}, r"backbone"),
        ({"tie_dropout": 1.0}, r"tie_dropout"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find("tmmsrec").config(**settings)
    assert "\n" not in str(caught.value)


def test_padding_in_attention_needs_attention() -> None:
    with pytest.raises(UsageError, match=r"padding_keys is about attention.*'gru4rec'"):
        make("tmmsrec:as-released", backbone="gru4rec")
