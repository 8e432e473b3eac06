"""FREEDOM: section "How to check it" of its specification, numbers of the official code, a planted answer."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.nn.neighbours import nearest_by_cosine
from tests.models.make_freedom import (
    exact_model,
    official_catalog,
    official_model,
    with_double_features,
)
from tests.models.toy import (
    all_scores,
    toy_catalog,
    toy_view,
    training_batch,
    view_of,
)

# -- numbers of the official code ----------------------------------------------------------------------------------


def official_triples(model: Recommender[Any]) -> TrainBatch:
    batch = training_batch(model, view_of([[1], [3], [4]]))
    return batch.with_drawn(negatives=torch.tensor([[4], [5], [2]]))


def test_neighbours_are_the_official_ones() -> None:
    catalog = official_catalog()
    expected = {
        "image": [{0, 1}, {0, 1}, {2, 3}, {3, 4}, {3, 4}],
        "text": [{0, 3}, {1, 4}, {2, 3}, {0, 3}, {1, 4}],
    }
    for name, sets in expected.items():
        feat, present = getattr(catalog, f"{name}_feat"), getattr(catalog, f"has_{name}")
        items, near = nearest_by_cosine(feat, present, 2)
        assert items.tolist() == [1, 2, 3, 4, 5]
        assert [set((row - 1).tolist()) for row in near] == sets


def test_scores_are_the_official_ones() -> None:
    expected = [
        [0.1701850715, 0.0756244633, -0.2761117146, -0.1216946863, -0.0590930867],
        [0.0927441529, 0.0405602015, -0.1582129823, -0.0646491797, -0.0360381761],
        [0.0301780104, 0.0121955377, -0.0633817500, -0.0184700027, -0.0176204440],
    ]
    actual = all_scores(official_model(), 3)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_losses_are_the_official_ones() -> None:
    model = official_model()
    terms = model.loss(official_triples(model))
    assert terms["bpr"].item() == pytest.approx(0.6741718967, abs=1e-10)
    assert terms["image"].item() == pytest.approx(0.1 * 0.5897770828, abs=1e-11)
    assert terms["text"].item() == pytest.approx(0.1 * 0.6769301249, abs=1e-11)
    assert sum(terms.values()).item() == pytest.approx(0.8008426174, abs=1e-10)


def test_the_loss_on_a_pruned_graph_is_the_official_one() -> None:
    model = official_model(edge_dropout=0.5)  # keeps three of six
    model.pruned.replace_pairs(torch.tensor([0, 1, 1]), torch.tensor([1, 2, 3]))
    assert sum(model.loss(official_triples(model)).values()).item() == pytest.approx(0.8281713515, abs=1e-10)
    torch.testing.assert_close(
        all_scores(model, 3), all_scores(official_model(), 3)
    )  # ranked on the whole graph


def test_probabilities_of_edges_are_the_official_ones() -> None:
    expected = [0.2137526779, 0.1511459718, 0.1234101702, 0.1745283321, 0.1234101702, 0.2137526779]
    odds = official_model().log_odds.exp()
    torch.testing.assert_close(
        odds / odds.sum(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
    )


# -- against plain loops -------------------------------------------------------------------------------------------


def nodes_by_hand(
    model: Recommender[Any], catalog: Catalog, kept: set[tuple[int, int]]
) -> dict[str, list[Tensor]]:
    """z of users and items from dictionaries of neighbours; of the model only its tables and settings."""
    users, items = model.user_emb.weight.detach(), model.item_emb.weight.detach()
    near_user = {u: [i for v, i in kept if v == u] for u in range(len(users))}
    near_item = {i: [u for u, j in kept if j == i] for i in range(len(items))}

    def step(own: list[list[Tensor]]) -> list[list[Tensor]]:
        of_users, of_items = own
        new: list[list[Tensor]] = [[], []]
        for u in range(len(users)):
            terms = [of_items[i] / math.sqrt(len(near_user[u]) * len(near_item[i])) for i in near_user[u]]
            new[0].append(sum(terms, torch.zeros_like(users[0])))
        for i in range(len(items)):
            terms = [of_users[u] / math.sqrt(len(near_user[u]) * len(near_item[i])) for u in near_item[i]]
            new[1].append(sum(terms, torch.zeros_like(users[0])))
        return new

    layers = [[list(users), list(items)]]
    for _ in range(model.config.n_layers):
        layers.append(step(layers[-1]))
    mean = [
        [sum(layer[side][k] for layer in layers) / len(layers) for k in range(len(layers[0][side]))]
        for side in (0, 1)
    ]
    alike = list(items)
    for _ in range(model.config.n_item_layers):
        alike = [row_of_s(catalog, model.config, i, alike) for i in range(len(items))]
    return {"user": mean[0], "item": [g + h for g, h in zip(mean[1], alike, strict=True)]}


def row_of_s(catalog: Catalog, config: Any, item: int, vectors: list[Tensor]) -> Tensor:
    """The weighted mean over the item's nearest in each modality that it has; itself if it has none."""
    parts = []
    for name, share in (("image", config.image_share), ("text", 1 - config.image_share)):
        feat, has = getattr(catalog, f"{name}_feat"), getattr(catalog, f"has_{name}")
        if not has[item + 1]:
            continue
        others = [j for j in range(len(vectors)) if has[j + 1] and j != item]
        cosine = {j: float(torch.cosine_similarity(feat[item + 1], feat[j + 1], dim=0)) for j in others}
        near = [item, *sorted(others, key=lambda j: -cosine[j])[: config.n_neighbours - 1]]
        parts.append((share, sum(vectors[j] for j in near) / len(near)))
    if not parts:
        return vectors[item]
    total = sum(share for share, _ in parts)
    return sum(share * mean for share, mean in parts) / total


@pytest.mark.parametrize(
    "settings", [{}, {"n_layers": 3, "n_item_layers": 2, "n_neighbours": 4, "image_share": 0.3}]
)
def test_nodes_and_loss_against_plain_loops(settings: dict[str, Any]) -> None:
    catalog, view = with_double_features(toy_catalog()), toy_view()
    model = exact_model(catalog, hidden_dim=5, auxiliary_weight=0.3, edge_dropout=0.4, **settings)
    every = set(zip(view.users.tolist(), (view.items - 1).tolist(), strict=True))
    whole = nodes_by_hand(model, catalog, every)
    expected = torch.stack(whole["user"]) @ torch.stack(whole["item"]).T
    torch.testing.assert_close(all_scores(model, 20), expected, rtol=1e-6, atol=1e-8)  # 1e-7 in the degrees

    half = model.pruned
    kept = {(s, t - 20) for s, t in zip(half.source.tolist(), half.target.tolist(), strict=True) if s < 20}
    z, batch = nodes_by_hand(model, catalog, kept), training_batch(model, view)
    sums: Counter[str] = Counter()
    for user, target, (negative,) in zip(
        batch.user.tolist(), batch.target.tolist(), batch.negatives.tolist(), strict=True
    ):
        own = z["user"][user]
        sums["bpr"] -= torch.sigmoid(own @ z["item"][target - 1] - own @ z["item"][negative - 1]).log().item()
        for name in ("text", "image"):
            feat, weight = getattr(catalog, f"{name}_feat"), model.maps[name].weight.detach()
            gap = own @ (weight @ feat[target]) - own @ (weight @ feat[negative])
            sums[name] -= 0.3 * torch.sigmoid(gap).log().item()
    terms = model.loss(batch)
    assert set(terms) == set(sums)
    for name, total in sums.items():
        assert terms[name].item() == pytest.approx(total / len(batch.user), rel=1e-6), name
