"""MAML: section "How to check it" of its specification, numbers of the official code, plain loops, a planted answer."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Recommender
from tests.models.make_maml import AS_THE_CODE, STILL, exact_model, joined_by_hand, unit
from tests.models.toy import (
    all_scores,
    catalog_of,
    in_float64,
    set_weights,
    sines,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

# -- numbers of the official code ----------------------------------------------------------------------------------


def official_model(**settings: Any) -> Recommender[Any]:
    def table(c: float, width: int) -> Tensor:
        return torch.cat([torch.zeros(1, width, dtype=torch.float64), sines(c, 5, width, scale=1.0)])

    bare, present = catalog_of(view_of([[2], [1], [4]]), n_items=5, features=False), torch.arange(6) > 0
    catalog = replace(
        bare, text_feat=table(31, 2), has_text=present, image_feat=table(32, 3), has_image=present
    )
    chosen = {"hidden_dim": 3, "inner_dim": 4, "margin": 0.3, **AS_THE_CODE} | settings
    with in_float64():
        model = toy_model("maml", catalog, **chosen)
    values = {
        "user_emb.weight": sines(1, 3, 3, scale=0.5),
        "item_emb.weight": torch.cat([torch.zeros(1, 3, dtype=torch.float64), sines(2, 5, 3, scale=0.5)]),
    }
    nets = [f"feature_net.layers.{k}" for k in range(4)] + ["attention.first", "attention.second"]
    starts = [(3, 13), (4, 14), (5, 15), (6, 16), (7, 17), (8, 18)]  # of weight [in, out] and bias
    for name, (of_weight, of_bias) in zip(nets, starts, strict=True):
        weight = model.get_parameter(f"{name}.weight")
        values[f"{name}.weight"] = sines(of_weight, *weight.shape[::-1], scale=0.5).T
        values[f"{name}.bias"] = sines(of_bias, len(weight), scale=0.5)
    set_weights(model, values)
    return model


def official_batch(model: Recommender[Any]) -> TrainBatch:
    """Pairs (0, 1) and (2, 3), negatives [0, 2, 4, 3] and [1, 0, 2, 4]; items from 0."""
    batch = training_batch(model, view_of([[2], [], [4]]))
    return batch.with_drawn(negatives=torch.tensor([[1, 3, 5, 4], [2, 1, 3, 5]]))


def test_features_weights_and_scores_are_the_official_ones() -> None:
    model = official_model()
    with torch.no_grad():
        f = model.feature_net(model.feat)
        sides = (
            model.attention.user_side(model.user_emb.weight[0]),
            model.attention.item_side(model.item_emb.weight[2], f[2]),
        )
        weights = model.attention.weights(*sides)
    for actual, expected in (
        (f[2], [-0.0142263768, -0.3636200260, -0.6026627828]),
        (weights, [0.5916116138, 1.1413634766, 1.2670249095]),
        (
            all_scores(model, 1)[0],
            [-0.5072359208, -1.4849812162, -1.9723876832, -1.2308799156, -0.4086608911],
        ),
    ):
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_losses_are_the_official_ones() -> None:
    model = official_model()
    terms = {name: value.item() for name, value in model.loss(official_batch(model)).items()}
    expected = {"rank": 4.0449105433, "feature": 4.9049710306, "covariance": -1.7354926169}
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, abs=1e-10), name
    assert terms["rank"] == pytest.approx((1.3763203250 + 1.2196585696) * math.log(1 + 3.75), abs=1e-9)
    means = official_model(loss_reduction="mean", covariance="squared")
    terms = {name: value.item() for name, value in means.loss(official_batch(means)).items()}
    expected = {"rank": 2.0224552716, "feature": 0.9809942061, "covariance": 0.1041463377}
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, abs=1e-10), name


def test_a_step_of_the_released_code() -> None:
    """Users and items only, one step of Adam, then into the ball."""
    model = official_model()
    model.freeze_nets()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sum(model.loss(official_batch(model)).values()).backward()
    optimizer.step()
    with torch.no_grad():
        model.constrain(dict(model.named_parameters()))
    for actual, expected in (
        (model.user_emb.weight[0], [0.4217354920, 0.0695600041, -0.4784621374]),
        (model.item_emb.weight[2], [0.0715600031, -0.4784621374, 0.3274932994]),
    ):
        torch.testing.assert_close(
            actual.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
        )


# -- against plain loops -------------------------------------------------------------------------------------------


def f_by_hand(own: dict[str, Tensor], features: Tensor) -> Tensor:
    """f of one item from its joined features."""
    x = unit(features)
    for k in range(4):
        x = own[f"feature_net.layers.{k}.weight"] @ x + own[f"feature_net.layers.{k}.bias"]
        x = unit(x.relu()) if k < 2 else x.relu() if k == 2 else x
    return x / max(1.0, float(x.norm()))


def distance_by_hand(own: dict[str, Tensor], user: int, item: int, f: Tensor) -> float:
    """sum_k w_k^2 (P_uk - Q_ik)^2, the attention read off the concatenation of all three vectors."""
    p, q = own["user_emb.weight"][user], own["item_emb.weight"][item]
    hidden = (own["attention.first.weight"] @ unit(torch.cat([p, q, f])) + own["attention.first.bias"]).tanh()
    raw = (own["attention.second.weight"] @ unit(hidden) + own["attention.second.bias"]).relu()
    weights = [len(p) * math.exp(float(r)) / sum(math.exp(float(other)) for other in raw) for r in raw]
    return sum(w**2 * float(a - b) ** 2 for w, a, b in zip(weights, p, q, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_scores_and_loss_against_plain_loops(reduction: str) -> None:
    catalog = toy_catalog()
    model = exact_model(
        catalog, loss_reduction=reduction, margin=0.7, feature_weight=0.3, covariance_weight=2.0, **STILL
    )
    own = {name: value.detach() for name, value in model.named_parameters()}
    f = {item: f_by_hand(own, joined_by_hand(catalog, item)) for item in range(1, 31)}
    scores = all_scores(model, 20)
    for user in (0, 7, 19):
        for item in range(1, 31):
            expected = -distance_by_hand(own, user, item, f[item])
            assert scores[user, item - 1].item() == pytest.approx(expected, rel=1e-5)  # features were float32

    batch, ranked = training_batch(model, toy_view()), 0.0
    for user, target, negatives in zip(
        batch.user.tolist(), batch.target.tolist(), batch.negatives.tolist(), strict=True
    ):
        near = distance_by_hand(own, user, target, f[target])
        far = [distance_by_hand(own, user, item, f[item]) for item in negatives]
        hinge = max(0.0, near - min(far) + 0.7)
        ranked += hinge * math.log(1 + 30 * sum(near - d + 0.7 > 0 for d in far) / len(far))
    q = own["item_emb.weight"]
    apart = sum(float(((q[item] - f[item]) ** 2).sum()) for item in range(1, 31))
    points, squares = torch.cat([q[1:], own["user_emb.weight"]]), 0.0
    for a in range(4):
        for b in range(4):
            if a != b:
                x, y = points[:, a] - points[:, a].mean(), points[:, b] - points[:, b].mean()
                squares += float((x * y).mean()) ** 2
    sizes = (len(batch.user), 30) if reduction == "mean" else (1, 1)
    terms = model.loss(batch)
    assert terms["rank"].item() == pytest.approx(ranked / sizes[0], rel=1e-5)
    assert terms["feature"].item() == pytest.approx(0.3 * apart / sizes[1], rel=1e-5)
    assert terms["covariance"].item() == pytest.approx(2.0 * squares, rel=1e-9)


def test_neither_covariances_sign_nor_the_diagonal_counts() -> None:
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = exact_model(hidden_dim=3, **STILL)
    flipped = x * torch.tensor([1.0, -1.0, 1.0])
    covariance = type(model).loss.__globals__["covariance"]
    torch.testing.assert_close(covariance(x, "squared"), covariance(flipped, "squared"))
    assert covariance(x, "signed") != covariance(flipped, "signed")
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # uncorrelated, shifted
    assert covariance(signs + 5.0, "squared").item() == pytest.approx(0.0, abs=1e-10)
