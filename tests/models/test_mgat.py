"""MGAT: section "How to check it" of its specification, numbers of the official code, plain loops, a planted answer."""

import math
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
    in_float64,
    set_weights,
    sines,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

NARROW = {"hidden_dim": 5, "image_dim": 4, "text_dim": 3}


def exact_model(catalog: Catalog, **settings: Any) -> Recommender[Any]:
    """Return a model in float64 whose weights are far from their small beginnings."""
    doubled = replace(catalog, text_feat=catalog.text_feat.double(), image_feat=catalog.image_feat.double())
    with in_float64():
        model = toy_model("mgat", doubled, **(NARROW | settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def all_nodes(model: Recommender[Any]) -> Tensor:
    with torch.no_grad():
        return model.nodes()


# -- numbers of the official code ----------------------------------------------------------------------------------


def official_model(**settings: Any) -> Recommender[Any]:
    """Two users, three items, pairs (0,0) (0,1) (1,1) (1,2), a picture of 4 numbers and a text of 3."""

    def table(k: int, width: int) -> Tensor:
        return torch.cat(
            [
                torch.zeros(1, width, dtype=torch.float64),
                sines(2 + k, 3, width, scale=1.0, rows=2.0, columns=3.0),
            ]
        )

    bare, present = catalog_of(view_of([[1, 2], [2, 3]]), n_items=3, features=False), torch.arange(4) > 0
    catalog = replace(
        bare, image_feat=table(0, 4), has_image=present, text_feat=table(1, 3), has_text=present
    )
    with in_float64():
        model = toy_model("mgat", catalog, hidden_dim=2, image_dim=3, text_dim=2, **settings)
    values = {"node_emb.weight": sines(1, 5, 2, scale=0.3)}
    for k, name in enumerate(("image", "text")):
        names = [f"towers.{name}.{part}" for part in ("user_emb.weight", "map.weight", "map.bias")]
        for number in range(model.config.n_layers):
            layer = f"towers.{name}.layers.{number}"
            names += [f"{layer}.attention.weight", f"{layer}.attention.bias"]
            names += [
                f"{layer}.{part}.{kind}" for part in ("local", "gathered") for kind in ("weight", "bias")
            ]
        for s, full in enumerate(names):
            shape = model.get_parameter(full).shape
            values[full] = sines(
                s + k + 2, *shape, scale=1.2, rows=3.0 if len(shape) == 1 else 1.0, columns=3.0
            )
    set_weights(model, values)
    return model


def official_triples(model: Recommender[Any]) -> TrainBatch:
    batch = training_batch(model, view_of([[1], [3]]))
    return batch.with_drawn(negatives=torch.tensor([[3], [1]]))


OFFICIAL: dict[int, dict[str, Any]] = {
    1: {
        "scores": [[1.6676119051, 0.4387137074, 0.4523028539], [0.5927176126, 0.0761819994, 0.0796917156]],
        "official": 1.7917761428,
        "mean": 0.6209822908,
    },
    2: {
        "scores": [[1.7197880895, 0.4638675960, 0.5559853743], [0.7128488287, 0.1301362646, 0.3030224631]],
        "official": 1.7178001152,
        "mean": 0.5953441533,
    },
}


@pytest.mark.parametrize("n_layers", [1, 2])
def test_scores_and_losses_are_the_official_ones(n_layers: int) -> None:
    expected = OFFICIAL[n_layers]
    model = official_model(n_layers=n_layers)
    scores = torch.tensor(expected["scores"], dtype=torch.float64)
    torch.testing.assert_close(all_scores(model, 2), scores, rtol=0, atol=1e-10)
    for scale in ("mean", "official"):
        scaled = official_model(n_layers=n_layers, loss_scale=scale)
        actual = scaled.loss(official_triples(scaled))["bpr"].item()
        assert actual == pytest.approx(expected[scale], abs=1e-10)


# -- against plain loops -------------------------------------------------------------------------------------------


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def attention_by_hand(x: Tensor, weight: Tensor, bias: Tensor, near: dict[int, list[int]]) -> Tensor:
    """What each node takes of its neighbours, node after node and neighbour after neighbour."""
    z = [row @ weight for row in x]
    taken = []
    for t in range(len(x)):
        logits = []
        for s in near[t]:
            a = float(sum(z[t] * leaky(z[s])))
            logits.append(a / (1 + math.exp(-a / math.sqrt(len(near[s])))))
        total = sum(math.exp(logit) for logit in logits)
        h = sum((math.exp(logit) / total * z[s] for logit, s in zip(logits, near[t], strict=True)), 0 * z[t])
        taken.append((h + bias) / float((h + bias).norm()))
    return torch.stack(taken)


def nodes_by_hand(model: Recommender[Any], catalog: Catalog, pairs: set[tuple[int, int]]) -> list[Tensor]:
    """The vectors of all nodes in each modality; of the model only its tables and maps."""
    n_users, n = catalog.n_users, catalog.n_users + catalog.n_items
    near: dict[int, list[int]] = {node: [] for node in range(n)}
    for user, item in pairs:
        near[user].append(n_users + item)
        near[n_users + item].append(user)
    ids, vectors = model.node_emb.weight.detach(), []
    for name in ("text", "image"):
        own = {key.removeprefix(f"towers.{name}."): value.detach() for key, value in model.named_parameters()}
        feat = getattr(catalog, f"{name}_feat")[1:].double()
        items = torch.stack([(own["map.weight"] @ row + own["map.bias"]).tanh() for row in feat])
        x = torch.cat([own["user_emb.weight"], items])
        x = x / x.norm(dim=1, keepdim=True)
        outputs = []
        for k in range(model.config.n_layers):
            part = {key.removeprefix(f"layers.{k}."): value for key, value in own.items()}
            h = attention_by_hand(x, part["attention.weight"], part["attention.bias"], near)
            through = leaky(h) @ part["gathered.weight"].T + part["gathered.bias"]
            x = leaky(through + leaky(x @ part["local.weight"].T + part["local.bias"]) + ids)
            outputs.append(x)
        vectors.append(torch.cat(outputs, 1))
    return vectors


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_nodes_and_loss_against_plain_loops(n_layers: int) -> None:
    catalog, view = toy_catalog(), toy_view()
    model = exact_model(catalog, n_layers=n_layers)
    pairs = set(zip(view.users.tolist(), (view.items - 1).tolist(), strict=True))
    towers = nodes_by_hand(model, catalog, pairs)
    mean = (towers[0] + towers[1]) / 2
    torch.testing.assert_close(all_nodes(model), mean)
    torch.testing.assert_close(all_scores(model, 20), mean[:20] @ mean[20:].T)
    batch, total = training_batch(model, view), 0.0
    for user, target, (negative,) in zip(
        batch.user.tolist(), batch.target.tolist(), batch.negatives.tolist(), strict=True
    ):
        gap = mean[user] @ mean[20 + target - 1] - mean[user] @ mean[20 + negative - 1]
        total -= torch.sigmoid(gap).log().item()
    assert model.loss(batch)["bpr"].item() == pytest.approx(total / len(batch.user), rel=1e-9)
    concat = exact_model(catalog, n_layers=n_layers, combine="concat")
    torch.testing.assert_close(all_nodes(concat), torch.cat(towers, 1))


def test_nodes_that_are_asked_for_are_those_of_the_whole_graph() -> None:
    model = exact_model(toy_catalog())
    asked = torch.tensor([3, 49, 20, 3])
    torch.testing.assert_close(model.nodes(asked), model.nodes()[asked])


def test_raw_and_scaled_features() -> None:
    catalog = toy_catalog()
    raw = toy_model("mgat", catalog).towers["image"].feat
    assert torch.equal(raw, catalog.image_feat[1:])
    norms = toy_model("mgat", catalog, feature_norm="scale").towers["image"].feat.norm(dim=1)
    assert norms[catalog.has_image[1:]].mean().item() == pytest.approx(8**0.5, rel=1e-6)
    assert not norms[~catalog.has_image[1:]].any()


# -- who sees whom -------------------------------------------------------------------------------------------------


def with_events(histories: list[list[int]], n_items: int = 12) -> Catalog:
    return catalog_of(view_of(histories), n_items=n_items)


def changed_by(first: list[list[int]], second: list[list[int]], **settings: Any) -> list[int]:
    """Return the nodes whose vectors differ between two sets of events of the same sizes."""
    before, after = (all_nodes(exact_model(with_events(events), **settings)) for events in (first, second))
    return ((before - after).abs().amax(1) > 1e-9).nonzero()[:, 0].tolist()


def test_with_one_layer_an_edge_reaches_its_ends_and_their_neighbours_gates() -> None:
    """Users 0..3, items 1..12 are nodes 4..15. The edge of user 1 and item 4 (node 7) is added. User 2 and item 2 (node
    5) see the new degrees of their ends in gates; item 3 (node 6) has one neighbour only, and so no choice.
    """
    before = [[1, 2], [2, 3], [4, 5], [6]]
    after = [[1, 2], [2, 3, 4], [4, 5], [6]]
    assert changed_by(before, after, n_layers=1) == [1, 2, 5, 7]


def test_a_neighbour_of_degree_one_is_taken_whatever_the_gate() -> None:
    """A node with one neighbour has weight 1: its attention is the neighbour's vector, normalised."""
    catalog = with_events([[1], [2, 3]])
    model = exact_model(catalog, n_layers=1, modalities=["image"])
    layer, x = model.towers["image"].layers[0], model.towers["image"].start()
    z = x @ layer.attention.weight
    h = layer.attention(x, model.graph)
    for node, neighbour in ((0, 2), (2, 0), (3, 1), (4, 1)):
        expected = torch.nn.functional.normalize(z[neighbour] + layer.attention.bias, dim=0)
        torch.testing.assert_close(h[node], expected)


def test_weights_over_the_neighbours_sum_to_one() -> None:
    """Where all z are one vector, the weights do not matter: every node with neighbours takes that vector."""
    model = exact_model(toy_catalog(), n_layers=1)
    attention = model.towers["image"].layers[0].attention
    x = torch.ones(50, 4, dtype=torch.float64)
    expected = torch.nn.functional.normalize((x @ attention.weight)[0] + attention.bias, dim=0)
    has_edges = model.graph.degree > 0
    torch.testing.assert_close(
        attention(x, model.graph)[has_edges], expected.expand(int(has_edges.sum()), -1)
    )


def test_an_item_without_events_has_the_normalised_bias_and_its_features() -> None:
    catalog = with_events([[1, 2], [3]])
    model = exact_model(catalog, n_layers=1)
    attention = model.towers["text"].layers[0].attention
    h = attention(model.towers["text"].start(), model.graph)
    torch.testing.assert_close(h[-1], torch.nn.functional.normalize(attention.bias, dim=0))
    changed = catalog.text_feat.clone()
    changed[12] += 1.0
    other = exact_model(replace(catalog, text_feat=changed), n_layers=1)
    gap = (all_scores(model, 2) - all_scores(other, 2)).abs().amax(0)
    assert gap[-1] > 1e-3
    assert not gap[:-1].any()


def test_the_order_of_items_does_not_matter() -> None:
    histories = [[1, 2, 5], [2, 3], [4, 5, 1]]
    catalog, order = (
        with_events(histories, n_items=6),
        torch.tensor([0, 4, 2, 6, 1, 5, 3]),
    )  # new id of each item
    moved = with_events([[int(order[item]) for item in history][::-1] for history in histories], n_items=6)
    old = order.argsort()  # old id of each new one
    moved = replace(moved, text_feat=catalog.text_feat[old], image_feat=catalog.image_feat[old])
    first, second = exact_model(catalog), exact_model(moved)
    own = dict(first.named_parameters())
    ids = own["node_emb.weight"].detach().clone()
    ids[3:] = ids[3:][old[1:] - 1]
    set_weights(second, own | {"node_emb.weight": ids})
    torch.testing.assert_close(all_scores(second, 3), all_scores(first, 3)[:, old[1:] - 1])


def test_repeated_events_are_one_edge() -> None:
    once, thrice = with_events([[1, 2], [2]]), with_events([[1, 2, 1, 1], [2, 2]])
    torch.testing.assert_close(all_nodes(exact_model(once)), all_nodes(exact_model(thrice)))


# -- parameters and training ---------------------------------------------------------------------------------------


def test_gradients_reach_every_part_of_each_modality() -> None:
    model = exact_model(toy_catalog())
    _, grads = gradients(model, training_batch(model, toy_view()))
    assert set(grads) == {name for name, _ in model.named_parameters()}
    assert all(grad.any() for grad in grads.values())


def test_one_modality_alone_is_the_mean_over_itself() -> None:
    catalog, pairs = toy_catalog(), toy_view()
    both = exact_model(catalog, n_layers=1)
    edges = set(zip(pairs.users.tolist(), (pairs.items - 1).tolist(), strict=True))
    towers = dict(zip(("text", "image"), nodes_by_hand(both, catalog, edges), strict=True))
    for name in ("image", "text"):
        alone = exact_model(catalog, n_layers=1, modalities=[name])
        set_weights(alone, {key: both.get_parameter(key) for key, _ in alone.named_parameters()})
        torch.testing.assert_close(all_nodes(alone), towers[name])


def test_one_layer_has_no_parameters_of_a_second() -> None:
    shallow, two = (toy_model("mgat", toy_catalog(), n_layers=n) for n in (1, 2))
    assert not any("layers.1" in name for name in shallow.state_dict())
    assert any("layers.1" in name for name in two.state_dict())
    assert shallow.item_table().shape == (30, 64)
    assert two.item_table().shape == (30, 128)


def test_initial_weights_are_the_codes() -> None:
    model = toy_model("mgat", toy_catalog(n_items=300, n_users=200), hidden_dim=64, image_dim=50, text_dim=40)
    own = {name: value.detach() for name, value in model.named_parameters()}
    for name, fans in (
        ("node_emb.weight", 500 + 64),
        ("towers.image.user_emb.weight", 200 + 50),
        ("towers.image.layers.0.attention.weight", 50 + 50),
        ("towers.image.layers.0.local.weight", 50 + 64),
        ("towers.text.layers.1.gathered.weight", 64 + 64),
    ):
        assert own[name].std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.06), name
        assert own[name].abs().max() > 2.5 * (2 / fans) ** 0.5, name  # normal, not uniform
    for name, width in (
        ("map.weight", 8),
        ("map.bias", 8),
        ("layers.0.attention.bias", 50),
        ("layers.0.local.bias", 50),
        ("layers.1.attention.bias", 64),
    ):
        largest = own[f"towers.image.{name}"].abs().max().item()
        assert 0.8 * width**-0.5 < largest <= width**-0.5, name


def test_users_without_events_are_ranked_alike() -> None:
    model = toy_model("mgat", with_events([[1, 2], [], [3], []]))
    scores = all_scores(model, 4)
    assert torch.equal(scores[1], scores[3])
    assert not torch.allclose(scores[0], scores[1])


def test_nothing_is_dropped() -> None:
    model = exact_model(toy_catalog())
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.train().loss(batch)["bpr"], model.eval().loss(batch)["bpr"])


def test_settings_and_data_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="must name text, image, or both"):
        toy_model("mgat", toy_catalog(), modalities=["text", "text"])
    with pytest.raises(ValueError, match="reads text and image features, and the data set has none"):
        toy_model("mgat", toy_catalog(features=False))
    assert list(toy_model("mgat", replace(toy_catalog(), image_feat=None)).towers) == ["text"]


def test_finds_style_in_pictures_and_brand_in_texts() -> None:
    """Measured: style .98, brand 1.0; pictures alone 1.0 and .49; features of other items .52 and .57."""
    shop, narrow = planted_shop(), {"hidden_dim": 16, "image_dim": 24, "text_dim": 24}
    both = trained("mgat", shop, **narrow)
    assert finds_taste(both, shop, "style") > 0.85
    assert finds_taste(both, shop, "brand") > 0.85
    pictures = trained("mgat:image", shop, **narrow)
    assert finds_taste(pictures, shop, "style") > 0.85
    assert finds_taste(pictures, shop, "brand") < 0.65
