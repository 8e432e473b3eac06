"""VBPR: section "How to check it" of its specification, numbers of re-implementations, a planted answer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender
from tests.models.planted import finds_taste, planted_shop, trained
from tests.models.toy import (
    all_scores,
    catalog_of,
    gradients,
    history_batch,
    set_weights,
    sines,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

GAMMA_U, GAMMA_I, BETA_I = "user_emb.weight", "item_emb.weight", "item_bias.weight"
THETA, MAP, BETA = (f"content.image.{name}" for name in ("user_emb.weight", "map", "bias"))


def random_weights(model: Recommender[Any], *, seed: int = 0, std: float = 0.5) -> Recommender[Any]:
    """Return the model in float64 with weights that are all far from 0, padding rows excepted."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name in (GAMMA_I, BETA_I):
            if name in dict(model.named_parameters()):
                model.get_parameter(name)[0] = 0.0
    return model


# -- numbers of re-implementations ---------------------------------------------------------------------------------


def published_catalog() -> Catalog:
    feat = sines(7, 4, 3, scale=3.0)
    feat[0] = 0.0
    bare = catalog_of(view_of([[1], [3]]), n_items=3, features=False)
    return replace(bare, image_feat=feat, has_image=torch.arange(4) > 0)


def published_model(**settings: Any) -> Recommender[Any]:
    """The tensors that the reference implementations were given: 0.3 sin(c + i + 2j)."""
    chosen = {"hidden_dim": 4, "feature_norm": "none"} | settings
    model = toy_model("vbpr", published_catalog(), **chosen).double()
    values = {
        GAMMA_U: sines(1, 2, 2, scale=0.3), GAMMA_I: sines(2, 4, 2, scale=0.3), THETA: sines(3, 2, 2, scale=0.3),
        MAP: sines(4, 3, 2, scale=0.3), BETA_I: sines(5, 4, scale=0.3)[:, None], BETA: sines(6, 3, scale=0.3),
    }  # fmt: skip
    own = dict(model.named_parameters())
    set_weights(model, {name: value for name, value in values.items() if name in own})
    return model


def published_triples(model: Recommender[Any]) -> TrainBatch:
    batch = training_batch(model, view_of([[1], [3]]))
    return batch.with_drawn(negatives=torch.tensor([[2], [1]]))


def test_scores_are_those_of_the_reimplementations() -> None:
    expected = [[-0.8349463947, -0.0720956184, 0.7570395370], [-0.9515759507, -0.2479304501, 0.6836611630]]
    actual = all_scores(published_model(), 2)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_losses_are_those_of_the_reimplementations() -> None:
    model = published_model(reg_weight=0.5, content_reg_weight=0.1)
    terms = model.loss(published_triples(model))
    assert terms["bpr"].item() == pytest.approx(0.6618422956, abs=1e-10)
    assert terms["reg"].item() == pytest.approx(0.1235734111, abs=1e-10)


def test_mmrecs_form_has_mmrecs_loss() -> None:
    model = published_model(use_bias=False, reg="mmrec", reg_weight=0.5)
    terms = model.loss(published_triples(model))
    # MMRec adds 1e-10 inside its logarithm.
    assert terms["bpr"].item() == pytest.approx(0.7745089594, abs=1e-9)
    assert terms["bpr"].item() + terms["reg"].item() == pytest.approx(1.5990902082, abs=1e-9)


# -- against plain loops -------------------------------------------------------------------------------------------


def score_by_hand(weights: dict[str, Tensor], feat: Tensor, user: int, item: int) -> float:
    """beta_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i, one number after the other."""
    total = float(weights[BETA_I][item, 0])
    for k in range(weights[GAMMA_U].shape[1]):
        total += float(weights[GAMMA_U][user, k] * weights[GAMMA_I][item, k])
    for d in range(weights[MAP].shape[1]):
        visual = sum(float(feat[item, f] * weights[MAP][f, d]) for f in range(feat.shape[1]))
        total += float(weights[THETA][user, d]) * visual
    for f in range(feat.shape[1]):
        total += float(feat[item, f] * weights[BETA][f])
    return total


def test_scores_loss_and_penalty_against_plain_loops() -> None:
    catalog = toy_catalog()
    model = random_weights(
        toy_model("vbpr", catalog, hidden_dim=6, n_negatives=2, reg_weight=0.3, content_reg_weight=0.2)
    )
    weights, batch = dict(model.state_dict()), training_batch(model, toy_view())
    raw = catalog.image_feat.double()
    mean_norm = raw.norm(dim=1)[catalog.has_image].mean()
    feat = raw / mean_norm
    actual = all_scores(model, 3)
    for user in range(3):
        for item in range(1, 31):
            expected = score_by_hand(weights, feat, user, item)
            assert float(actual[user, item - 1]) == pytest.approx(expected, abs=1e-6)  # features were float32

    total, squares, pairs = 0.0, 0.0, 0
    for user, target, negatives in zip(
        batch.user.tolist(), batch.target.tolist(), batch.negatives.tolist(), strict=True
    ):
        own = score_by_hand(weights, feat, user, target)
        for negative in negatives:
            x = torch.tensor(own - score_by_hand(weights, feat, user, negative))
            total, pairs = total - float(torch.sigmoid(x).log()), pairs + 1
        rows = [weights[GAMMA_U][user], weights[THETA][user]]
        rows += [weights[name][item] for item in [target, *negatives] for name in (GAMMA_I, BETA_I)]
        squares += sum(float((row**2).sum()) for row in rows)
    terms = model.loss(batch)
    assert terms["bpr"].item() == pytest.approx(total / pairs, rel=1e-6)
    penalty = 0.3 / 2 * squares / len(batch.user)
    penalty += 0.2 / 2 * float((weights[MAP] ** 2).sum() + (weights[BETA] ** 2).sum())
    assert terms["reg"].item() == pytest.approx(penalty, rel=1e-9)


def test_gradient_of_one_triple() -> None:
    """dE = -sigma(-x) (f_i - f_j) theta_u^T, d beta' = -sigma(-x) (f_i - f_j)."""
    catalog = toy_catalog()
    model = random_weights(toy_model("vbpr", catalog, hidden_dim=4, feature_norm="none"))
    batch = training_batch(model, view_of([[4]]))
    i, j = 4, int(batch.negatives[0, 0])
    _, grads = gradients(model, batch)
    weights, feat = dict(model.state_dict()), catalog.image_feat.double()
    x = score_by_hand(weights, feat, 0, i) - score_by_hand(weights, feat, 0, j)
    s, apart = -torch.sigmoid(torch.tensor(-x)), feat[i] - feat[j]
    torch.testing.assert_close(grads[MAP], s * apart[:, None] * weights[THETA][0])
    torch.testing.assert_close(grads[BETA], s * apart)
    torch.testing.assert_close(grads[THETA][0], s * (apart @ weights[MAP]))
    torch.testing.assert_close(grads[GAMMA_U][0], s * (weights[GAMMA_I][i] - weights[GAMMA_I][j]))
    torch.testing.assert_close(grads[GAMMA_I][j], -s * weights[GAMMA_U][0])
    assert not grads[THETA][1:].any()


def test_without_content_it_is_bpr_mf_with_a_bias() -> None:
    catalog, settings = toy_catalog(), {"n_negatives": 2, "reg_weight": 0.4}
    model = random_weights(toy_model("vbpr", catalog, hidden_dim=12, **settings))
    plain = toy_model("bpr-mf", catalog, hidden_dim=6, **settings).double()
    zeros = {name: torch.zeros_like(model.get_parameter(name)) for name in (MAP, BETA, THETA)}
    set_weights(model, zeros)
    set_weights(plain, {name: model.get_parameter(name) for name in (GAMMA_U, GAMMA_I, BETA_I)})
    torch.testing.assert_close(all_scores(model, 20), all_scores(plain, 20))
    batch = training_batch(plain, toy_view())
    (loss, grads), (plain_loss, plain_grads) = gradients(model, batch), gradients(plain, batch)
    assert loss == pytest.approx(plain_loss, rel=1e-12)
    for name, grad in plain_grads.items():
        torch.testing.assert_close(grads[name], grad)


# -- features ------------------------------------------------------------------------------------------------------


def test_one_vector_added_to_all_features_changes_no_ranking() -> None:
    catalog = toy_catalog()
    moved = replace(catalog, image_feat=catalog.image_feat + torch.linspace(-1, 1, 8))
    settings = {"hidden_dim": 6, "feature_norm": "none"}
    before = random_weights(toy_model("vbpr", catalog, **settings))
    after = random_weights(toy_model("vbpr", moved, **settings))
    gap = all_scores(after, 20) - all_scores(before, 20)
    assert (gap - gap[:, :1]).abs().max() < 1e-5
    assert gap.abs().max() > 0.1
    assert (gap[0, 0] - gap[1, 0]).abs() > 1e-3


def test_features_reach_new_items_through_the_content_part_only() -> None:
    """Items 28 to 30 have no event: pictures that change places move their scores by what the pictures add."""
    view, catalog = view_of([[1, 2, 3], [4, 5]]), toy_catalog()
    feat = catalog.image_feat.clone()
    feat[30] = feat[29]
    same = replace(catalog_of(view, n_items=30), image_feat=feat)
    changed = feat.clone()
    changed[28], changed[29] = feat[29], feat[28]
    models = []
    for table in (feat, changed):
        given = replace(same, image_feat=table)
        models.append(random_weights(toy_model("vbpr", given, hidden_dim=6, feature_norm="none")))
    first, second = (all_scores(model, 2) for model in models)
    content = models[0].content["image"]
    vectors, bias = content.table()
    torch.testing.assert_close(vectors[28], vectors[29])
    torch.testing.assert_close(bias[28], bias[29])
    theta = models[0].get_parameter(THETA).detach()
    added = (theta @ vectors.T + bias).detach()  # [U, N]
    torch.testing.assert_close(second[:, 27] - first[:, 27], added[:, 28] - added[:, 27])
    torch.testing.assert_close(second[:, 28] - first[:, 28], added[:, 27] - added[:, 28])
    torch.testing.assert_close(second[:, :27], first[:, :27])


@pytest.mark.parametrize(("kind", "length"), [("scale", 1.0), ("l2", 1.0), ("none", None)])
def test_scale_of_the_features(kind: str, length: float | None) -> None:
    catalog = toy_catalog()
    feat = toy_model("vbpr", catalog, feature_norm=kind).content["image"].feat
    norms, raw = feat.norm(dim=1), catalog.image_feat.norm(dim=1)
    assert not norms[~catalog.has_image].any()
    mean = raw[catalog.has_image].mean() if length is None else torch.tensor(length)
    torch.testing.assert_close(norms[catalog.has_image].mean(), mean)
    spread = (norms / raw)[catalog.has_image].std()
    assert (spread < 1e-6) == (kind != "l2")  # all but l2 keep the ratios of the norms


def test_an_item_without_a_picture_is_ranked_by_its_factors() -> None:
    model = random_weights(toy_model("vbpr", toy_catalog(), hidden_dim=6))
    own, user = model.get_parameter(GAMMA_I)[11], model.get_parameter(GAMMA_U)[:20]
    expected = user @ own + model.get_parameter(BETA_I)[11, 0]
    torch.testing.assert_close(all_scores(model, 20)[:, 10], expected.detach())


# -- widths, initial weights, training -----------------------------------------------------------------------------


def test_half_of_the_width_is_for_pictures() -> None:
    shared = toy_model("vbpr", toy_catalog(), hidden_dim=9)
    assert [shared.get_parameter(name).shape[1] for name in (GAMMA_U, GAMMA_I, THETA, MAP)] == [5, 5, 4, 4]
    full = toy_model("vbpr", toy_catalog(), hidden_dim=9, dim_split="full")
    assert [full.get_parameter(name).shape[1] for name in (GAMMA_U, GAMMA_I, THETA, MAP)] == [9, 9, 9, 9]


def test_initial_weights() -> None:
    catalog = toy_catalog(n_items=300, n_users=200)
    normal = toy_model("vbpr", catalog, hidden_dim=64)
    for name in (GAMMA_U, GAMMA_I, THETA):
        assert normal.get_parameter(name).std().item() == pytest.approx(0.01, rel=0.1)
    assert not normal.get_parameter(BETA_I).any()
    assert not normal.get_parameter(BETA).any()
    bound = normal.get_parameter(MAP).abs().max().item()
    assert bound == pytest.approx((6 / (8 + 32)) ** 0.5, rel=0.05)  # Xavier-uniform
    xavier = toy_model("vbpr", catalog, hidden_dim=64, init="xavier")
    for name, n_rows_and_columns in ((GAMMA_U, 200 + 64), (THETA, 200 + 64), (GAMMA_I, 300 + 32)):
        largest = xavier.get_parameter(name).abs().max().item()
        assert largest == pytest.approx((6 / n_rows_and_columns) ** 0.5, rel=0.01)
    spread = xavier.get_parameter(MAP).std().item()
    assert spread == pytest.approx((2 / (8 + 32)) ** 0.5, rel=0.2)  # Xavier-normal: also beyond the bound
    assert xavier.get_parameter(MAP).abs().max() > 1.1 * (6 / (8 + 32)) ** 0.5
    for model in (normal, xavier):
        assert not model.get_parameter(GAMMA_I)[0].any()


def test_users_without_events_are_ranked_by_what_all_users_share() -> None:
    catalog = replace(toy_catalog(n_users=20), **_events([[1, 2], [], [3]]))
    model = toy_model("vbpr", catalog, init="xavier")
    for name in (GAMMA_U, THETA):
        assert model.get_parameter(name).any(1).tolist()[:3] == [True, False, True]


def _events(histories: list[list[int]]) -> dict[str, Any]:
    bare = catalog_of(view_of(histories), n_items=30, features=False)
    return {name: getattr(bare, name) for name in ("n_users", "train_offsets", "train_items", "train_times")}


def test_nothing_is_dropped_and_the_history_is_not_read() -> None:
    model = random_weights(toy_model("vbpr", toy_catalog(), hidden_dim=6))
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.train().loss(batch)["bpr"], model.eval().loss(batch)["bpr"])
    with torch.no_grad():
        scores = model.score(history_batch(model, [[1], [5, 6, 7]], users=[3, 3]))
    torch.testing.assert_close(scores[0], scores[1])


def test_finds_style_in_pictures_and_not_brand() -> None:
    """Measured: style 1.0, brand .49; pictures of other items .64; without pictures .53."""
    shop = planted_shop()
    model = trained("vbpr", shop, hidden_dim=16)
    assert finds_taste(model, shop, "style") > 0.9
    assert finds_taste(model, shop, "brand") < 0.65
    assert finds_taste(trained("bpr-mf", shop, hidden_dim=16), shop, "style") < 0.65
    mixed_up = planted_shop(shuffled=True)
    assert finds_taste(trained("vbpr", mixed_up, hidden_dim=16), mixed_up, "style") < 0.75


def test_settings_and_data_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="content_reg_weight belongs to reg = 'l2'"):
        toy_model("vbpr", toy_catalog(), reg="mmrec", content_reg_weight=0.1)
    with pytest.raises(ValueError, match="leaves no width for 1 feature tables"):
        toy_model("vbpr", toy_catalog(), hidden_dim=1)
    with pytest.raises(ValueError, match="reads image features, and the data set has none; make them with"):
        toy_model("vbpr", replace(toy_catalog(), image_feat=None))
