"""MMSR: section "How to check it" of its specification; graphs, states and gradients against plain loops."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.models.base import Recommender
from tests.models.make_mmsr import NAMES, VARIANTS, make, padded, random_histories
from tests.models.reference_math import dot, mean, minus_log_share, relu, softmax
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    training_batch,
    view_of,
    with_targets,
)

Bundle = list[int]  # codes of an item


HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 3, 8, 8, 3, 2], [11, 12]]


VARIANTS += ["mmsr:contents", "mmsr:-text", "mmsr:-image"]


def bundles(model: Recommender[Any], history: list[int]) -> list[list[Bundle]]:
    """Return the codes of each event in each type of the model's nodes, items first."""
    of_items = [[[item] for item in history]]
    tables = [model.get_buffer(f"{name}_codes").tolist() for name in model.n_clusters]
    return of_items + [[[code for code in table[item] if code] for item in history] for table in tables]


# -- numbers -----------------------------------------------------------------------------------------------------


def wave(c: float, *shape: int) -> Tensor:
    """Return the specification's 0.5 sin(c + i + 2j + 3k)."""
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    return 0.5 * (c + sum((number + 1) * axis for number, axis in enumerate(axes))).sin()


def numbers_model(**settings: Any) -> Recommender[Any]:
    """Return the specification's model of 4 items and 2 clusters of each modality."""
    feat = torch.zeros(5, 4)
    feat[1:, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    present = torch.arange(5) > 0
    catalog = replace(
        catalog_of(view_of([[1, 2, 3, 2, 4]]), n_items=4, max_len=4, features=False),
        text_feat=feat, image_feat=feat, has_text=present, has_image=present,
    )  # fmt: skip
    model = make(catalog=catalog, hidden_dim=4, n_clusters=2, **settings)
    maps = {name: {"query": 5, "key": 6, "value": 7}[name] for name in model.maps}
    weights = {
        "image_codes": torch.tensor([[0], [5], [6], [5], [0]]), "text_codes": torch.tensor([[0], [7], [7], [8], [8]]),
        "node_emb.weight": wave(1, 9, 4), "type_emb.weight": wave(2, 4, 4)[1:], "position_emb.weight": wave(3, 4, 4),
        "input_map": wave(4, 12, 4), **{f"maps.{name}": wave(c, 4, 4, 4)[1:] for name, c in maps.items()},
        "chain_weights": 2 * (7 + torch.arange(1, 5)[:, None] + torch.arange(4).double()).sin(),
        "gate.0.weight": wave(12, 4, 4), "gate.0.bias": wave(13, 4), "gate.2.weight": wave(14, 1, 4),
    }  # fmt: skip
    model.load_state_dict(weights, strict=True)
    return model


def test_numbers_of_the_graph() -> None:
    model = numbers_model()
    (graphs,) = model.graphs(torch.tensor([[1, 2, 3, 2]]))
    assert graphs.ids.tolist() == [[1, 2, 3, 5, 6, 7, 8]]
    expected = ["1205070", "3140570", "0415007", "6061499", "0604190"]
    rows = [[int(digit) for digit in row] for row in expected]
    assert graphs.relation[0].tolist() == [*rows, [8, 8, 0, 10, 10, 1, 4], [0, 0, 8, 10, 0, 4, 1]]


def numbers_loss(**settings: Any) -> float:
    model = numbers_model(**settings)
    batch = with_targets(history_batch(model, [[1, 2, 3, 2], [4, 1]]), [4, 3])
    return model.loss(batch)["ce"].item()


def test_numbers_of_the_official_code() -> None:
    model = numbers_model(qkv="tied", inside_first="code")
    scores = model.score(history_batch(model, [[1, 2, 3, 2], [4, 1]]))
    expected = [
        [0.0416749241, 0.0761603455, 0.0406242965, -0.0322615434],
        [-0.0012404484, -0.0081893658, -0.0076090179, -0.0000329741],
    ]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-9)
    assert numbers_loss(qkv="tied", inside_first="code") == pytest.approx(1.4202606300, abs=1e-8)


def test_numbers_of_the_switches() -> None:
    assert numbers_loss(inside_first="code") == pytest.approx(1.3790254424, abs=1e-8)
    assert numbers_loss(qkv="tied") == pytest.approx(1.4151485453, abs=1e-8)
    assert numbers_loss() == pytest.approx(1.3789548410, abs=1e-8)


# -- graphs ------------------------------------------------------------------------------------------------------


def graph_by_hand(
    codes: list[list[Bundle]], types: list[int], *, is_unique: bool, is_released: bool
) -> tuple[list[tuple[int, Any]], dict[tuple[Any, Any], int]]:
    """Return the nodes (type, name), and the relation of each ordered pair with an edge, edge by edge."""
    n_events = len(codes[0])

    def names(kind: int, event: int) -> list[tuple[int, Any]]:
        """A node is a code, or one code of one event."""
        bundle = codes[types.index(kind)][event]
        return [(kind, code if is_unique else (event, code)) for code in bundle]

    nodes = list(
        dict.fromkeys(node for kind in types for event in range(n_events) for node in names(kind, event))
    )
    relation = {(node, node): 1 for node in nodes}
    across = {(0, 1): 5, (1, 0): 6, (0, 2): 7, (2, 0): 8, (1, 2): 9, (2, 1): 10}
    for event in range(n_events):
        for a, b in across:
            if a in types and b in types:
                for own in names(a, event):
                    relation |= {(own, other): across[a, b] for other in names(b, event)}
    seen: Counter[tuple[int, int]] = Counter()
    for event in range(n_events - 1):
        first, second = codes[0][event][0], codes[0][event + 1][0]
        is_skipped = first == second or (seen[first, second] > 0 and seen[second, first] > 0)
        seen[first, second] += 1
        for kind in types if not (is_released and is_skipped) else [0]:
            for own in names(kind, event):
                for other in names(kind, event + 1):
                    connect(relation, own, other)
    return nodes, relation


def connect(relation: dict[tuple[Any, Any], int], first: Any, second: Any) -> None:
    """Add the edge of a step from one node to another of its type, as the released loader does."""
    if first == second or relation.get((first, second)) == 4:
        return
    if relation.get((second, first)) == 2:
        relation[first, second] = relation[second, first] = 4
    else:
        relation[first, second], relation[second, first] = 2, 3


GRAPHS = [{}, {"n_codes": 3}, {"code_edges": "released"}, {"n_codes": 3, "code_edges": "released"}]


GRAPHS += [{"nodes": "positions"}, {"nodes": "positions", "n_codes": 2}, {"use_image": False}]


@pytest.mark.parametrize("settings", GRAPHS, ids=str)
def test_relations_are_those_of_a_loop_over_edges(settings: dict[str, Any]) -> None:
    model, histories = make(**settings), random_histories(60)
    n_graphs, is_unique = 0, model.config.nodes == "unique"
    for graphs in model.graphs(padded(histories)):
        for number, row in enumerate(graphs.row.tolist()):
            codes = bundles(model, histories[row])
            nodes, expected = graph_by_hand(
                codes, model.types, is_unique=is_unique, is_released=model.config.code_edges == "released"
            )
            place = node_places(graphs, number, nodes)
            actual = {
                (a, b): int(graphs.relation[number, place[a], place[b]])
                for a in nodes
                for b in nodes
                if graphs.relation[number, place[a], place[b]]
            }
            assert actual == expected
            assert graphs.relation[number].ne(0).sum() == len(expected)  # no edges of what is not a node
            last = nodes[[node for node in nodes if node[0] == 0].index(name_of_last(codes, is_unique))]
            assert int(graphs.last[number]) == place[last]
            n_graphs += 1
    assert n_graphs == 60


def name_of_last(codes: list[list[Bundle]], is_unique: bool) -> tuple[int, Any]:
    event = len(codes[0]) - 1
    return (0, codes[0][event][0] if is_unique else (event, codes[0][event][0]))


def node_places(graphs: Any, number: int, nodes: list[tuple[int, Any]]) -> dict[Any, int]:
    """Return where each node lies in a graph, from its id and from the events that have it."""
    events = torch.cat([part[number] for part in graphs.events], 1)  # [L, n]
    places = {}
    for node in nodes:
        name = node[1]
        if isinstance(name, tuple):
            event, code = name
            matches = (graphs.ids[number] == code) & (events[event] > 0)
        else:
            matches = graphs.ids[number] == name
        (place,) = matches.nonzero()[:, 0].tolist()
        places[node] = place
    return places


def test_codes_come_in_pairs() -> None:
    model = make(n_codes=2)
    for graphs in model.graphs(padded(random_histories(60))):
        relation, is_node = graphs.relation, graphs.ids > 0
        assert torch.equal(relation.diagonal(dim1=1, dim2=2) == 1, is_node)
        assert not relation[~is_node].any()
        assert not relation.mT[~is_node].any()
        for own, back in ((2, 3), (4, 4), (5, 6), (7, 8), (9, 10)):
            assert torch.equal(relation == own, relation.mT == back)


# -- plain loops -------------------------------------------------------------------------------------------------


def user_by_hand(model: Recommender[Any], weights: dict[str, Tensor], history: list[int]) -> Tensor:
    """Return the user vector of one history, one pair of nodes after another."""
    config, codes = model.config, bundles(model, history)
    is_unique = config.nodes == "unique"
    nodes, relation = graph_by_hand(
        codes, model.types, is_unique=is_unique, is_released=config.code_edges == "released"
    )
    states = {}
    for kind, name in nodes:
        code, own = (name, None) if is_unique else (name[1], name[0])
        events = [t for t, bundle in enumerate(codes[model.types.index(kind)]) if code in bundle]
        events = events if own is None else [own]
        place = sum(weights["position_emb.weight"][t] for t in events) / len(events)
        kind_emb = weights["type_emb.weight"][model.types.index(kind)]
        states[kind, name] = (
            torch.cat([weights["node_emb.weight"][code], kind_emb, place]) @ weights["input_map"]
        )
    for _ in range(config.n_layers):
        states = layer_by_hand(model, weights, states, relation)
    last = states[name_of_last(codes, is_unique)]
    if config.candidates == "items":
        return last
    means = []
    for kind, of_events in zip(model.types[1:], codes[1:], strict=True):
        width = model.get_buffer(f"{list(model.n_clusters)[model.types.index(kind) - 1]}_codes").shape[1]
        total = torch.zeros_like(last)
        for bundle in of_events:
            total = total + sum(states[kind, code] for code in bundle) / width
        means.append(total / len(history))
    return weights["fusion.weight"] @ torch.cat([last, *means]) + weights["fusion.bias"]


def layer_by_hand(
    model: Recommender[Any],
    weights: dict[str, Tensor],
    states: dict[Any, Tensor],
    relation: dict[tuple[Any, Any], int],
) -> dict[Any, Tensor]:
    config = model.config

    def mapped(x: dict[Any, Tensor], name: str) -> dict[Any, Tensor]:
        return {
            node: state @ weights[f"maps.{name}"][model.types.index(node[0])] for node, state in x.items()
        }

    def attend(logit: Any, edges: range, values: dict[Any, Tensor]) -> dict[Any, Tensor]:
        out = {}
        for node in states:
            seen = [other for other in states if relation.get((node, other)) in edges or other == node]
            logits = [logit(node, other) for other in seen]
            shares = softmax([relu(x) - 0.1 * relu(-x) for x in logits])
            out[node] = sum(share * values[other] for share, other in zip(shares, seen, strict=True))
        return out

    def hom(x: dict[Any, Tensor], values: dict[Any, Tensor]) -> dict[Any, Tensor]:
        def logit(i: Any, j: Any) -> Tensor:
            return (weights["chain_weights"][relation[i, j] - 1] * x[i] * x[j]).sum()

        return attend(logit, range(1, 5), values)

    def het(query: dict[Any, Tensor], key: dict[Any, Tensor], values: dict[Any, Tensor]) -> dict[Any, Tensor]:
        return attend(lambda i, j: dot(query[i], key[j]), range(5, 11), values)

    is_tied = config.qkv == "tied"
    query, key, value = (mapped(states, "query" if is_tied else name) for name in ("query", "key", "value"))
    across_first = inside_first = across = het(query, key, value)
    if config.orders != "inside-first":
        across_first = hom(across, value)
    if config.inside_first == "paper" and config.orders != "across-first":
        updated = hom(value, value)
        inside_first = het(mapped(updated, "query"), mapped(updated, "key"), value)
    if config.orders != "both":
        return across_first if config.orders == "across-first" else inside_first

    def energy(x: Tensor) -> Tensor:
        return (weights["gate.2.weight"] @ relu(weights["gate.0.weight"] @ x + weights["gate.0.bias"]))[0]

    out = {}
    for node in states:
        a, b = softmax([energy(inside_first[node]), energy(across_first[node])])
        out[node] = a * inside_first[node] + b * across_first[node]
    return out


def items_by_hand(model: Recommender[Any], weights: dict[str, Tensor]) -> list[Tensor]:
    rows = weights["node_emb.weight"]
    if model.config.candidates == "items":
        return list(rows[1 : model.n_items + 1])
    vectors = []
    for item in range(1, model.n_items + 1):
        codes = [bundle[0] for bundle in bundles(model, [item])[1:]]
        sums = [sum((rows[code] for code in bundle), torch.zeros_like(rows[0])) for bundle in codes]
        vectors.append(weights["fusion.weight"] @ torch.cat([rows[item], *sums]) + weights["fusion.bias"])
    return vectors


@NAMES
@pytest.mark.parametrize("n_layers", [1, 2])
def test_losses_and_gradients_are_those_of_plain_loops(name: str, n_layers: int) -> None:
    check_losses_and_gradients(name, n_layers=n_layers)


def test_several_codes_of_users_are_averaged_and_of_candidates_added() -> None:
    check_losses_and_gradients("mmsr:contents", n_codes=2)


def check_losses_and_gradients(name: str, **settings: Any) -> None:
    view = view_of([[1, 2, 1, 2, 4], [5, 2, 2, 1], [3, 1]])
    model = make(name, catalog_of(view, n_items=12), **settings)
    batch = training_batch(model, view)
    lengths = (batch.slot % batch.item_seq.shape[1] + 1).tolist()
    histories = [row[:length] for row, length in zip(batch.item_seq.tolist(), lengths, strict=True)]
    weights = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
    items = items_by_hand(model, weights)
    losses = []
    for history, target in zip(histories, batch.target.tolist(), strict=True):
        user = user_by_hand(model, weights, history)
        losses.append(minus_log_share([dot(user, item) for item in items], target - 1))
    mean(losses).backward()
    loss, computed = gradients(model, batch)
    assert loss == pytest.approx(mean(losses).item(), abs=1e-12)
    assert computed.keys() == weights.keys()
    for key, gradient in computed.items():
        wanted = weights[key].grad
        assert wanted is not None
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-8, atol=1e-11, msg=lambda text, n=key: f"{n}: {text}"
        )
