"""MMSR: properties of its graphs, its codes, its training; numbers and loops are in test_mmsr.py."""

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbench.models import registry
from tests.models.make_mmsr import NAMES, VARIANTS, make, padded, random_histories
from tests.models.toy import (
    history_batch,
    last_state,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
)


def module() -> Any:
    return sys.modules[registry.find("mmsr").load().__module__]


# -- properties --------------------------------------------------------------------------------------------------


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
    torch.testing.assert_close(last_state(model, [3]), h @ model.input_map @ value)


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
        before = last_state(model, [4, 9, 2])
        with torch.no_grad():
            model.chain_weights.mul_(-1.5)
        moved[kind] = (last_state(model, [4, 9, 2]) - before).abs().max().item()
    assert moved["code"] == 0
    assert moved["paper"] > 1e-6


def test_variants_differ() -> None:
    states = {name: last_state(make(name), [4, 9, 2, 9, 4, 9]) for name in VARIANTS}
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
            assert torch.isfinite(last_state(model, [1, 2, 1])).all()
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
    before = last_state(model, history)
    model.attn_drop, model.drop = recorder, last = Recorder(), Recorder()
    torch.testing.assert_close(last_state(model, history), before)
    assert len(recorder.inputs) == n_calls
    for weights in recorder.inputs:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    (said,) = last.inputs
    assert (said[0] - before).abs().amax(-1).min() < 1e-12  # what a layer says, the user vector among it
    for call in range(n_calls):
        model.attn_drop = silent = Recorder(call)
        moved = (last_state(model, history) - before).abs().max().item()
        assert (moved > 1e-9) == (call not in of_codes), call
        for weights in silent.inputs:  # nothing is dropped twice
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    model.attn_drop, model.drop = nn.Identity(), Recorder(0)
    assert not last_state(model, history).any()


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
