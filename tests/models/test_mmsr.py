"""MMSR: section "How to check it" of its specification; graphs, states and gradients against plain loops."""

import math
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from tests.fixed import fill
from tests.models.reference_math import dot, mean, minus_log_share, relu, softmax
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
    with_targets,
)

Bundle = list[int]  # codes of an item
NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}
HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 3, 8, 8, 3, 2], [11, 12]]
VARIANTS = [
    "mmsr",
    *(f"mmsr:{one}" for one in ("as-released", "k3", "across-first", "inside-first", "positions")),
]
VARIANTS += ["mmsr:contents", "mmsr:-text", "mmsr:-image"]
NAMES = pytest.mark.parametrize("name", VARIANTS)


def module() -> Any:
    return sys.modules[registry.find("mmsr").load().__module__]


def make(name: str = "mmsr", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a small model in float64 without dropout, with few clusters, so that items share codes."""
    small = {"hidden_dim": 6, "n_clusters": 4}
    model = toy_model(name, catalog or toy_catalog(), **(small | NO_DROPOUT | settings)).double().eval()
    fill(model)
    return model


def bundles(model: Recommender[Any], history: list[int]) -> list[list[Bundle]]:
    """Return the codes of each event in each type of the model's nodes, items first."""
    of_items = [[[item] for item in history]]
    tables = [model.get_buffer(f"{name}_codes").tolist() for name in model.n_clusters]
    return of_items + [[[code for code in table[item] if code] for item in history] for table in tables]


def padded(histories: list[list[int]]) -> Tensor:
    longest = max(map(len, histories))
    return torch.tensor([history + [0] * (longest - len(history)) for history in histories])


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


def random_histories(n: int) -> list[list[int]]:
    """Return histories of 1 to 8 of five items, so that steps repeat, return and stand still."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [torch.randint(1, 6, (length,), generator=generator).tolist() for length in lengths]


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
            found = {
                (a, b): int(graphs.relation[number, place[a], place[b]])
                for a in nodes
                for b in nodes
                if graphs.relation[number, place[a], place[b]]
            }
            assert found == expected
            assert graphs.relation[number].ne(0).sum() == len(expected)  # no edges of what is no node
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
    view = view_of([[1, 2, 1, 2, 4], [5, 2, 2, 1], [3, 1]])
    model = make(name, catalog_of(view, n_items=12), n_layers=n_layers)
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


# -- properties --------------------------------------------------------------------------------------------------


def state(model: Recommender[Any], history: list[int]) -> Tensor:
    with torch.no_grad():
        return model.query(history_batch(model, [history]))[0]


@NAMES
def test_graphs_may_be_computed_in_any_portions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where histories of unlike size lie in one, and in whatever order they come."""
    model, histories = make(name), random_histories(40)
    batch = history_batch(model, histories)
    whole = model.query(batch)
    for limits in ({"MOST_ROWS": 1}, {"MOST_CELLS": 700}, {"MOST_ROWS": 1000, "MOST_CELLS": 10**9}):
        with monkeypatch.context() as patch:
            for key, value in limits.items():
                patch.setattr(module(), key, value)
            torch.testing.assert_close(model.query(batch), whole, rtol=0, atol=1e-13)
    shuffled = history_batch(model, histories[::-1])
    torch.testing.assert_close(model.query(shuffled), whole.flip(0), rtol=0, atol=1e-13)


def test_portions_are_no_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module(), "MOST_ROWS", 7)
    monkeypatch.setattr(module(), "MOST_CELLS", 700)
    model, n_histories = make(), 0
    for graphs in model.graphs(padded(random_histories(40))):
        n_graphs, n_nodes = graphs.ids.shape
        assert n_graphs <= 7
        assert n_graphs * n_nodes**2 <= 700
        assert graphs.ids.ne(0).sum(1).max() == n_nodes or n_graphs > 1
        n_histories += n_graphs
    assert n_histories == 40


@pytest.mark.parametrize("name", ["mmsr", "mmsr:as-released", "mmsr:across-first", "mmsr:inside-first"])
def test_one_item_without_codes_is_its_own_value(name: str) -> None:
    """Toy item 3 has neither text nor picture: every softmax is over the node itself."""
    model = make(name)
    h = torch.cat([model.node_emb.weight[3], model.type_emb.weight[0], model.position_emb.weight[0]])
    value = model.maps["query" if "value" not in model.maps else "value"][0]
    torch.testing.assert_close(state(model, [3]), h @ model.input_map @ value)


def test_names_of_clusters_and_items_do_not_matter() -> None:
    """Nodes then lie in another order."""
    model = make(n_codes=2)
    histories = random_histories(20)
    before = model.query(history_batch(model, histories))
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.arange(31), 31 + torch.randperm(4, generator=generator), 35 + torch.randperm(4)])
    with torch.no_grad():
        model.node_emb.weight.copy_(model.node_emb.weight[order.argsort()])
    for name in model.n_clusters:
        codes = model.get_buffer(f"{name}_codes")
        codes.copy_(order[codes])
    torch.testing.assert_close(model.query(history_batch(model, histories)), before)


def test_the_released_inside_first_order_ignores_the_attention_inside_types() -> None:
    moved = {}
    for kind in ("paper", "code"):
        model = make("mmsr:inside-first", inside_first=kind)
        before = state(model, [4, 9, 2])
        with torch.no_grad():
            model.chain_weights.mul_(-1.5)
        moved[kind] = (state(model, [4, 9, 2]) - before).abs().max().item()
    assert moved["code"] == 0
    assert moved["paper"] > 1e-6


def test_variants_differ() -> None:
    states = {name: state(make(name), [4, 9, 2, 9, 4, 9]) for name in VARIANTS}
    for name in VARIANTS[1:]:
        assert (states[name] - states["mmsr"]).abs().max() > 1e-6, name


def test_no_tensor_has_a_vector_for_every_pair_of_nodes() -> None:
    model = toy_model("mmsr", toy_catalog(), hidden_dim=64)
    batch = training_batch(model, toy_view())
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        model.loss(batch)
    n_nodes = 3 * batch.item_seq.shape[1]
    assert max(sizes) < len(batch.slot) * n_nodes**2 * 64 / 8


# -- codes -------------------------------------------------------------------------------------------------------


def test_codes_are_the_nearest_clusters_of_items_that_have_the_modality() -> None:
    """Three planted clusters; an item between two of them has both as its codes, the nearer first."""
    feat = torch.zeros(9, 4)
    feat[1:4, 0], feat[4:6, 1], feat[6:8, 2] = 5.0, 5.0, 5.0
    feat[7] = torch.tensor([0.0, 2.0, 3.2, 0.0])
    config, present = (
        registry.find("mmsr").config(hidden_dim=5, n_clusters=3, n_codes=2),
        torch.arange(9) % 8 > 0,
    )
    codes, centres = module().codes_of(feat, present, config)
    assert codes.shape == (9, 2)
    assert not codes[[0, 8]].any()
    first = codes[:, 0].tolist()
    assert len({first[1], first[4], first[6]}) == 3
    assert first[1:4] == [first[1]] * 3
    assert first[4:6] == [first[4]] * 2
    assert codes[7].tolist() == [first[6], first[4]]
    assert centres.shape == (3, 5)
    assert centres.min().item() == pytest.approx(-(5**-0.5))
    assert centres.max().item() == pytest.approx(5**-0.5)
    assert module().codes_of(feat, present, replace(config, n_codes=9))[0].shape == (9, 3)


def test_codes_are_rows_of_the_node_table_and_the_same_for_all_seeds() -> None:
    first, second = (toy_model("mmsr", toy_catalog(), seed=seed, n_clusters=4, n_codes=2) for seed in (1, 2))
    for name, low in (("image", 31), ("text", 35)):
        codes = first.get_buffer(f"{name}_codes")
        assert torch.equal(codes, second.get_buffer(f"{name}_codes"))
        assert set(codes.unique().tolist()) == {0, *range(low, low + 4)}
        has = getattr(toy_catalog(), f"has_{name}")
        assert torch.equal((codes > 0).all(1), has)
        assert torch.equal((codes > 0).any(1), has)
        assert torch.equal(first.node_emb.weight[low : low + 4], second.node_emb.weight[low : low + 4])
    assert first.extra_state() == {
        "clusters": {"image": 4, "text": 4}, "share_without": {"image": 3 / 30, "text": 2 / 30}
    }  # fmt: skip


def test_modalities_that_a_data_set_lacks_are_left_out() -> None:
    catalog = toy_catalog()
    assert catalog.has_image is not None
    empty = replace(catalog, text_feat=None, has_text=None, has_image=torch.zeros_like(catalog.has_image))
    for poor in (empty, toy_catalog(features=False)):
        for name in ("mmsr", "mmsr:contents"):
            model = make(name, poor)
            assert model.extra_state()["clusters"] == {}
            assert torch.isfinite(state(model, [1, 2, 1])).all()
    cls = type(make())
    assert [cls.reads(make("mmsr:-text").config, name) for name in ("text", "image")] == [False, True]


# -- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mmsr", "mmsr:contents"])
def test_the_loss_is_the_cross_entropy_of_the_scores(name: str) -> None:
    model = make(name)
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.loss(batch)["ce"], loss_by_hand("ce", model.score(batch), batch))
    assert (model.needs.samples, model.needs.causal, model.needs.stackable) == (("prefix",), False, False)


class Recorder(nn.Module):
    """Keeps what passes through, and lets it through once more as nothing at one of its calls."""

    def __init__(self, silent_call: int = -1) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []
        self.silent_call = silent_call

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach())
        return 0 * x if len(self.inputs) - 1 == self.silent_call else x


@pytest.mark.parametrize(
    ("name", "n_calls", "of_codes"),
    [
        (
            "mmsr",
            1 + 3 + 3 + 1,
            (2, 3),
        ),  # across-first, in which codes' last states are read by nobody; inside-first
        ("mmsr:as-released", 1 + 3 + 1, (2, 3)),
        ("mmsr:across-first", 1 + 3, (2, 3)),
        ("mmsr:inside-first", 3 + 1, ()),
    ],
)
def test_dropout_acts_on_every_softmax_and_on_what_a_layer_says(
    name: str, n_calls: int, of_codes: tuple[int, ...]
) -> None:
    """Each order draws for itself, and each call acts on the user vector."""
    rates = toy_model(name, toy_catalog())
    assert (rates.drop.p, rates.attn_drop.p) == (0.4, 0.2)
    model, history = make(name, n_layers=1), [4, 9, 2, 9]
    before = state(model, history)
    model.attn_drop, model.drop = recorder, last = Recorder(), Recorder()
    torch.testing.assert_close(state(model, history), before)
    assert len(recorder.inputs) == n_calls
    for weights in recorder.inputs:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    assert [x.shape[-1] for x in last.inputs] == [6]
    for call in range(n_calls):
        model.attn_drop = Recorder(call)
        moved = (state(model, history) - before).abs().max().item()
        assert (moved > 1e-9) == (call not in of_codes), call
    model.attn_drop, model.drop = nn.Identity(), Recorder(0)
    assert not state(model, history).any()


def test_dropout_is_drawn_in_training_only() -> None:
    model = toy_model("mmsr", toy_catalog())
    batch = training_batch(model, toy_view())
    assert not torch.equal(model.train().query(batch), model.query(batch))
    assert torch.equal(model.eval().query(batch), model.query(batch))


def test_initialisation() -> None:
    """Every weight and bias is uniform within 1 / sqrt(D); rows of codes are the centres."""
    model, bound = toy_model("mmsr", toy_catalog(n_items=400), hidden_dim=64), 64**-0.5
    for name, parameter in model.named_parameters():
        values = parameter[1:401] if name == "node_emb.weight" else parameter
        assert values.abs().max() <= bound
        if values.numel() >= 64 * 30:
            assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert not model.node_emb.weight[0].any()
    config, catalog = model.config, toy_catalog(n_items=400)
    _, centres = module().codes_of(catalog.text_feat, catalog.has_text, config)
    assert torch.equal(model.node_emb.weight[-30:], centres)
