"""VBPR_ITV: section "How to check it" of its specification, numbers of a reference and of MMRec, a planted answer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender
from tests.models.planted import finds_taste, planted_shop, trained
from tests.models.test_vbpr import all_scores, published_catalog, published_triples, random_weights
from tests.models.toy import gradients, set_weights, sines, toy_catalog, toy_model, toy_view, training_batch

FACTORS = ("user_emb.weight", "item_emb.weight", "item_bias.weight")


def of(modality: str) -> dict[str, str]:
    """Return the names of a modality's parameters."""
    return {
        short: f"content.{modality}.{name}"
        for short, name in (("theta", "user_emb.weight"), ("map", "map"), ("bias", "bias"))
    }


# -- numbers -------------------------------------------------------------------------------------------------------


def both_modalities() -> Catalog:
    text = sines(11, 4, 2, scale=3.0)
    text[0] = 0.0
    return replace(published_catalog(), text_feat=text, has_text=torch.arange(4) > 0)


def published_model(fusion: str = "separate", **settings: Any) -> Recommender[Any]:
    """The tensors that the reference was given: 0.3 sin(c + i + 2j)."""
    chosen = {"hidden_dim": 2, "dim_split": "full", "feature_norm": "none", "fusion": fusion} | settings
    model = toy_model("vbpr-itv", both_modalities(), **chosen).double()
    map_image, map_text = sines(4, 3, 2, scale=0.3), sines(9, 2, 2, scale=0.3)
    values = {
        "user_emb.weight": sines(1, 2, 2, scale=0.3), "item_emb.weight": sines(2, 4, 2, scale=0.3),
        "item_bias.weight": sines(5, 4, scale=0.3)[:, None],
        "content.image.user_emb.weight": sines(3, 2, 2, scale=0.3), "content.image.map": map_image,
        "content.image.bias": sines(6, 3, scale=0.3),
        "content.text.user_emb.weight": sines(8, 2, 2, scale=0.3), "content.text.map": map_text,
        "content.text.bias": sines(10, 2, scale=0.3),
        "content.content.user_emb.weight": sines(3, 2, 2, scale=0.3),
        "content.content.map": torch.cat([map_text, map_image]),
    }  # fmt: skip
    own = dict(model.named_parameters())
    set_weights(model, {name: value for name, value in values.items() if name in own})
    return model


def test_separate_has_the_numbers_of_a_plain_reference() -> None:
    model = published_model(reg_weight=0.5, content_reg_weight=0.1)
    expected = [[-1.6675352769, -0.7983486335, 0.8048360618], [-1.6663283587, -0.8513503604, 0.7463552331]]
    torch.testing.assert_close(
        all_scores(model, 2), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
    )
    terms = model.loss(published_triples(model))
    assert terms["bpr"].item() == pytest.approx(0.6525662242, abs=1e-10)
    assert terms["reg"].item() == pytest.approx(0.1647986213, abs=1e-10)


def test_concat_has_the_numbers_of_mmrec() -> None:
    model = published_model("concat", use_bias=False, reg="mmrec", reg_weight=0.5)
    expected = [[0.2668627947, 0.2438444106, -0.0033634001], [0.3354210266, -0.0293059613, -0.3670891836]]
    torch.testing.assert_close(
        all_scores(model, 2), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
    )
    terms = model.loss(published_triples(model))
    assert sum(terms.values()).item() == pytest.approx(1.9027984103, abs=1e-9)  # 1e-10 in MMRec's logarithm


# -- relations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"init": "xavier"}, {"dim_split": "full", "use_bias": False}])
def test_pictures_alone_are_vbpr_bit_for_bit(settings: dict[str, Any]) -> None:
    common = {"hidden_dim": 7, "reg_weight": 0.1, **settings}
    vbpr = toy_model("vbpr", toy_catalog(), seed=3, **common)
    itv = toy_model("vbpr-itv", toy_catalog(), seed=3, modalities=["image"], **common)
    for name, value in vbpr.state_dict().items():
        assert torch.equal(itv.state_dict()[name], value), name
    assert torch.equal(all_scores(vbpr, 20), all_scores(itv, 20))
    batch = training_batch(vbpr, toy_view())
    assert gradients(vbpr, batch)[0] == gradients(itv, batch)[0]


def test_without_modalities_it_is_bpr_mf() -> None:
    itv = random_weights(toy_model("vbpr-itv", toy_catalog(), modalities=[], hidden_dim=6, reg_weight=0.2))
    plain = toy_model("bpr-mf", toy_catalog(), hidden_dim=6, reg_weight=0.2).double()
    set_weights(plain, {name: itv.get_parameter(name) for name in FACTORS})
    torch.testing.assert_close(all_scores(itv, 20), all_scores(plain, 20))
    batch = training_batch(plain, toy_view())
    assert gradients(itv, batch)[0] == pytest.approx(gradients(plain, batch)[0], rel=1e-12)


def test_texts_of_zeros_leave_vbpr_and_teach_nothing() -> None:
    catalog = toy_catalog()
    empty = replace(catalog, text_feat=torch.zeros_like(catalog.text_feat))
    vbpr = toy_model("vbpr", catalog, hidden_dim=6, dim_split="full").double()
    itv = random_weights(toy_model("vbpr-itv", empty, hidden_dim=6, dim_split="full"))
    set_weights(vbpr, {name: itv.get_parameter(name) for name, _ in vbpr.named_parameters()})
    torch.testing.assert_close(all_scores(itv, 20), all_scores(vbpr, 20))
    batch = training_batch(vbpr, toy_view())
    (loss, grads), (expected, vbpr_grads) = gradients(itv, batch), gradients(vbpr, batch)
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, grad in vbpr_grads.items():
        torch.testing.assert_close(grads[name], grad)
    for name in of("text").values():
        assert not grads[name].any()


def test_concat_is_separate_with_tied_user_factors() -> None:
    settings = {"hidden_dim": 6, "dim_split": "full"}
    separate = random_weights(toy_model("vbpr-itv", toy_catalog(), **settings))
    concat = toy_model("vbpr-itv", toy_catalog(), fusion="concat", **settings).double()
    own, text, image = separate.get_parameter, of("text"), of("image")
    set_weights(separate, {text["theta"]: own(image["theta"])})
    set_weights(
        concat,
        {name: own(name) for name in FACTORS}
        | {
            "content.content.user_emb.weight": own(image["theta"]),
            "content.content.map": torch.cat([own(text["map"]), own(image["map"])]),
            "content.content.bias": torch.cat([own(text["bias"]), own(image["bias"])]),
        },
    )
    torch.testing.assert_close(all_scores(concat, 20), all_scores(separate, 20))


def test_modalities_can_change_their_roles() -> None:
    catalog = toy_catalog()
    swapped = replace(
        catalog, text_feat=catalog.image_feat, has_text=catalog.has_image,
        image_feat=catalog.text_feat, has_image=catalog.has_text,
    )  # fmt: skip
    first = random_weights(toy_model("vbpr-itv", catalog, hidden_dim=8))
    second = toy_model("vbpr-itv", swapped, hidden_dim=8).double()
    values = {name: first.get_parameter(name) for name in FACTORS}
    for key, name in of("text").items():
        values[of("image")[key]] = first.get_parameter(name)
        values[name] = first.get_parameter(of("image")[key])
    set_weights(second, values)
    torch.testing.assert_close(all_scores(second, 20), all_scores(first, 20))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_vector_added_to_all_features_changes_no_ranking(modality: str) -> None:
    catalog = toy_catalog()
    feat = getattr(catalog, f"{modality}_feat")
    moved = replace(catalog, **{f"{modality}_feat": feat + torch.linspace(-1, 1, feat.shape[1])})
    before, after = (
        random_weights(toy_model("vbpr-itv", given, hidden_dim=8, feature_norm="none"))
        for given in (catalog, moved)
    )
    gap = all_scores(after, 20) - all_scores(before, 20)
    assert (gap - gap[:, :1]).abs().max() < 1e-5
    assert gap.abs().max() > 0.1


def test_each_modality_is_scaled_by_itself() -> None:
    """However long the texts' rows are, both modalities begin with contributions of like size."""
    catalog = toy_catalog()
    long_texts = replace(catalog, text_feat=1000 * catalog.text_feat)
    for fusion, names in (("separate", ("text", "image")), ("concat", ("content",))):
        ordinary, long = (
            toy_model("vbpr-itv", given, fusion=fusion, hidden_dim=8) for given in (catalog, long_texts)
        )
        for name in names:
            torch.testing.assert_close(long.content[name].feat, ordinary.content[name].feat)


def test_text_stands_before_the_image_when_both_are_one_table() -> None:
    catalog = toy_catalog()
    model = toy_model("vbpr-itv", catalog, fusion="concat", feature_norm="none")
    assert torch.equal(model.content["content"].feat, torch.cat([catalog.text_feat, catalog.image_feat], 1))


def test_widths() -> None:
    def widths(**settings: Any) -> list[int]:
        model = toy_model("vbpr-itv", toy_catalog(), **settings)
        return [table.embedding_dim for table in model.modules() if isinstance(table, torch.nn.Embedding)]

    assert widths(hidden_dim=128, use_bias=False) == [64, 64, 32, 32]
    assert widths(hidden_dim=18, use_bias=False) == [10, 10, 4, 4]
    assert widths(hidden_dim=128, use_bias=False, fusion="concat") == [64, 64, 64]
    assert widths(hidden_dim=16, use_bias=False, dim_split="full") == [16] * 4


# -- planted answer ------------------------------------------------------------------------------------------------


def norms_of_taste(model: Recommender[Any]) -> dict[str, float]:
    """Return the mean length of what texts and pictures add to the user vectors' comparisons."""
    actual = {}
    for name in ("text", "image"):
        part: Any = model.content[name]
        theta: Tensor = part.user_emb.weight.detach()
        actual[name] = (theta @ part.map.detach().T).norm(dim=1).mean().item()
    return actual


def test_finds_style_in_pictures_and_brand_in_texts() -> None:
    """Measured: both .95; texts alone: style .52, brand 1.0."""
    shop = planted_shop()
    both = trained("vbpr-itv", shop, hidden_dim=16)
    assert finds_taste(both, shop, "style") > 0.85
    assert finds_taste(both, shop, "brand") > 0.85
    texts = trained("vbpr-itv:text", shop, hidden_dim=16)
    assert finds_taste(texts, shop, "brand") > 0.9
    assert finds_taste(texts, shop, "style") < 0.65


def test_where_only_texts_matter_pictures_get_little_weight() -> None:
    shop = planted_shop(only="brand")
    model = trained("vbpr-itv", shop, hidden_dim=16, n_steps=150, reg_weight=0.02)
    assert finds_taste(model, shop, "brand") > 0.9
    assert finds_taste(trained("vbpr", shop, hidden_dim=16), shop, "brand") < 0.65
    norms = norms_of_taste(model)
    assert norms["image"] < 0.5 * norms["text"]


def test_modalities_that_there_are_not() -> None:
    catalog = toy_catalog()
    with pytest.raises(UsageError, match="at most once each"):
        toy_model("vbpr-itv", catalog, modalities=["text", "text"])
    without = replace(catalog, text_feat=None)
    assert list(toy_model("vbpr-itv", without).content) == ["image"]
    assert list(toy_model("vbpr-itv", without, fusion="concat").content) == ["image"]
    with pytest.raises(
        ValueError, match=r"reads text features, and the data set has none.*or set modalities = \[\]"
    ):
        toy_model("vbpr-itv", without, modalities=["text"])
