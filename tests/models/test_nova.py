"""NOVA: section "How to check it" of its specification, and the network against plain loops."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from tests.models import reference_nova, waves
from tests.models.reference_nova import World
from tests.models.test_dropout import (
    DIM,
    FIRST_OF_ROWS,
    FIVES,
    MASK,
    UNIT,
    answer_one,
    assert_dropped,
    bare,
    let_through,
)
from tests.models.test_reference import (
    RANKED,
    assert_terms_and_gradients,
    catalog,
    leaves,
    make,
    step_of,
)
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch
from tests.models.waves import TOY_HISTORIES, name_of, put, put_map, put_norm, queries, wave

NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"fusion": "add"},
    {"fusion": "concat"},
    {"pooling": "mean"},
    {"fuse_once": True},
    {"fuse_once": True, "fusion": "concat"},
    {"ids_in_fusion": False},
    {"side_norm": True},
    {"sides": ["position"], "side_norm": True},
    {"sides": ["category"], "fusion": "concat"},
]


def lively(**settings: Any) -> Recommender[Any]:
    """Return a model in evaluation mode with weights so large that every part shows."""
    model = toy_model("nova", toy_catalog(), **{"hidden_dim": 8, "inner_dim": 6} | NO_DROPOUT | settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
        model.item_emb.weight[0] = 0
    return model.double().eval()


# -- numbers of a plain reference --------------------------------------------------------------------------------


def wave_model(**settings: Any) -> Recommender[Any]:
    sizes = {"hidden_dim": 4, "inner_dim": 8, "n_heads": 2, "n_layers": 2}
    model = toy_model("nova", waves.catalog_with(waves.CATEGORIES), **sizes, **NO_DROPOUT, **settings)
    model.double()
    put(model, "item_emb.weight", wave(0, 7, 4))
    put(model, "sides.position.weight", wave(1, 4, 4))
    put(model, "sides.category.emb.weight", wave(2, 5, 4)[1:])  # row 0 of the five is padding's
    put_norm(model, "norm", 3, 4)
    for layer, block in enumerate(model.blocks):
        k = 4 + 10 * layer
        put_map(block, "attention.qkv", (4, 4), k, k + 1, k + 2)
        put_map(block, "attention.out", (4, 4), k + 3)
        put_norm(block, "norm1", k + 4, 4)
        put_map(block, "up", (8, 4), k + 5)
        put_map(block, "down", (4, 8), k + 6)
        put_norm(block, "norm2", k + 7, 4)
    for layer, fusion in enumerate(model.fusions):
        if fusion.kind == "concat":
            put_map(fusion, "concat", (4, 12), 12 + 10 * layer)
        if fusion.kind == "gate":
            put_map(fusion, "gate", (1, 4), 13 + 10 * layer)
    return model


@pytest.mark.parametrize(
    ("settings", "over_items", "over_padding_too"),
    [
        ({"fusion": "add"}, 2.7685842956, 2.9010990560),
        ({"fusion": "concat"}, 2.7715885644, 2.9037942634),
        ({"fusion": "gate"}, 2.7709856635, 2.9032647604),
        ({"fusion": "gate", "fuse_once": True}, 2.7708869850, None),
    ],
)
def test_cross_entropies_of_the_specification(
    settings: dict[str, Any], over_items: float, over_padding_too: float | None
) -> None:
    model, target = wave_model(**settings), torch.tensor(waves.TARGETS)
    batch = waves.with_targets(history_batch(model, waves.HISTORIES), target)
    assert model.loss(batch)["ce"].item() == pytest.approx(over_items, abs=6e-11)
    if over_padding_too is not None:
        logits = model.query(batch) @ model.item_emb.weight.T
        assert F.cross_entropy(logits, target).item() == pytest.approx(over_padding_too, abs=6e-11)


def test_scores_of_the_specification() -> None:
    model = wave_model(fusion="gate")
    expected = [0.5159897778, -0.6720673474, 0.7504839605, -0.7421781604, 0.6481097265, -0.4791487666]
    scores = model.eval().score(history_batch(model, waves.HISTORIES))[0]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-11)


# -- the network against plain loops -----------------------------------------------------------------------------


def built(**settings: Any) -> tuple[Recommender[Any], World]:
    model, known = make("nova", **settings), catalog()
    assert known.category_ids is not None
    assert known.category_offsets is not None
    ids, ends = known.category_ids.tolist(), known.category_offsets.tolist()
    categories = [ids[ends[i] : ends[i + 1]] for i in range(known.n_items + 1)]
    return model, World(categories=categories, n_layers=2, n_heads=2, **settings)


@pytest.mark.parametrize("settings", SWITCHES, ids=name_of)
def test_scores_losses_and_gradients(settings: dict[str, Any]) -> None:
    model, world = built(**settings)
    batch, samples = step_of(model, "all")
    weights = leaves(model)
    expected = {"ce": reference_nova.loss(weights, world, samples)}
    assert_terms_and_gradients(model.train().loss(batch), expected, model, weights)
    scores = model.eval().score(history_batch(model, RANKED))
    for row, items in enumerate(RANKED):
        state = reference_nova.state(weights, world, items)
        torch.testing.assert_close(
            scores[row], torch.stack(reference_nova.scores(weights, state)), rtol=1e-10, atol=1e-12
        )


# -- properties --------------------------------------------------------------------------------------------------


def test_without_side_information_it_is_sasrec_without_positions() -> None:
    model = lively(fusion="add")
    other = toy_model("sasrec", toy_catalog(), hidden_dim=8, inner_dim=6).double().eval()
    weights = {
        name.replace("blocks.", "encoder.blocks."): value
        for name, value in model.state_dict().items()
        if not name.startswith("sides.")
    }
    weights["position_emb.weight"] = torch.zeros_like(other.position_emb.weight)
    other.load_state_dict(weights)
    with torch.no_grad():
        assert (queries(model) - queries(other)).abs().max() > 1e-3
        model.sides.position.weight.zero_()
        model.sides.category.emb.weight.zero_()
    torch.testing.assert_close(queries(model), queries(other), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fusion", ["add", "concat", "gate"])
def test_side_information_moves_nothing_but_attention(fusion: str) -> None:
    model = lively(fusion=fusion)

    def change_sides() -> None:
        for parameter in model.sides.parameters():
            parameter.mul_(-3.0).add_(0.7)

    with torch.no_grad():
        before = queries(model)
        change_sides()
        assert (queries(model) - before)[0].abs().max() > 1e-3
        for block in model.blocks:  # every event looks at all earlier ones alike
            block.attention.qkv.weight[:16] = 0
            block.attention.qkv.bias[:16] = 0
        before = queries(model)
        change_sides()
        assert torch.equal(queries(model), before)


def test_order_reaches_one_layer_through_queries_and_keys_only() -> None:
    model = lively(n_layers=1)
    orders = [[4, 9, 2, 7], [2, 4, 9, 7]]
    assert (queries(model, orders[:1]) - queries(model, orders[1:])).abs().max() > 1e-4
    with torch.no_grad():
        model.sides.position.weight.zero_()
        torch.testing.assert_close(queries(model, orders[:1]), queries(model, orders[1:]), rtol=0, atol=1e-13)
        assert (queries(model, [[4, 9, 7, 2]]) - queries(model, orders[:1])).abs().max() > 1e-4


def test_gates_are_one_number_for_each_stream() -> None:
    model = lively()
    batch = history_batch(model, TOY_HISTORIES)
    streams = torch.cat([model.item_emb(batch.item_seq)[..., None, :], model.sides(batch)], -2)
    assert streams.shape[-2:] == (3, 8)
    gates: list[Tensor] = []
    model.fusions[0].gate.register_forward_hook(lambda _, args, out: gates.append(out.sigmoid()))
    with torch.no_grad():
        model.fusions[0](streams)
        assert gates[0].shape == (*streams.shape[:-1], 1)
        assert 0 < gates[0].min() < gates[0].max() < 1
        model.fusions[0].gate.weight.zero_()
        torch.testing.assert_close(model.fusions[0](streams), streams.sum(-2) / 2)


def test_what_pads_a_history_has_no_part_in_it() -> None:
    model = lively()
    before = queries(model)
    with torch.no_grad():
        model.item_emb.weight[0] = 9.0
    assert torch.equal(queries(model), before)


def test_parameters_are_those_of_sasrec_and_the_fusions() -> None:
    def count(name: str, **settings: Any) -> int:
        return sum(p.numel() for p in toy_model(name, toy_catalog(), hidden_dim=8, **settings).parameters())

    sasrec, categories = count("sasrec"), 5 * 8
    assert count("nova", fusion="add") == sasrec + categories
    assert count("nova", fusion="gate") == sasrec + categories + 2 * 8
    assert count("nova", fusion="concat") == sasrec + categories + 2 * (3 * 8 * 8 + 8)
    assert count("nova:fuse-once") == sasrec + categories + 8
    assert count("nova:-category") == sasrec + 2 * 8
    assert count("nova:side-norm") == sasrec + categories + 2 * 8 + 2 * 2 * 8


def test_weights_start_as_published() -> None:
    model = toy_model("nova", toy_catalog(n_items=400, n_users=400), fusion="concat")
    assert not model.item_emb.weight[0].any()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif parameter.dim() == 1:
            assert not parameter.any(), name
        else:
            rows = parameter[1:] if name == "item_emb.weight" else parameter
            n = rows.numel()
            assert rows.std().item() == pytest.approx(0.02, rel=4 * (2 * n) ** -0.5), name
            assert rows.mean().item() == pytest.approx(0, abs=4 * 0.02 * n**-0.5), name


def test_ids_are_dropped_and_side_information_is_not_in_any_layer() -> None:
    model = toy_model("nova", toy_catalog(), hidden_dim=64, dropout=0.5, attn_dropout=0.0)
    read: list[Tensor] = []
    fused: list[Tensor] = []
    for layer, fusion in zip(model.blocks, model.fusions, strict=True):
        layer.register_forward_pre_hook(lambda _, args: read.append(args[0]))
        fusion.register_forward_pre_hook(lambda _, args: fused.append(args[0]))
    batch = training_batch(model, toy_view())
    model.loss(batch)
    assert read[0][batch.mask].eq(0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    for ids, streams in zip(read, fused, strict=True):
        assert torch.equal(streams[..., 0, :], ids)  # a layer's fusion sees what its attention reads
        assert torch.equal(streams[..., 1:, :], model.sides(batch))


def block(**rates: float) -> Any:
    config = {"hidden_dim": DIM, "inner_dim": DIM, "n_heads": 1, "n_layers": 1}
    return bare(toy_model("nova", toy_catalog(), **config | NO_DROPOUT | rates).blocks[0])


@pytest.mark.parametrize("slot", [None, FIRST_OF_ROWS], ids=["all-places", "one-of-each-row"])
def test_attention_drops_weights(slot: Tensor | None) -> None:
    torch.manual_seed(0)
    layer = block(attn_dropout=0.5)
    let_through(layer.attention.qkv, slice(2 * DIM, None))
    let_through(layer.attention.out)
    mixed = layer.attention.read(UNIT, UNIT, MASK, slot)
    assert_dropped(mixed, 0.5, kept=2 / UNIT.shape[1])


@pytest.mark.parametrize("layer", ["attention.out", "down"])
def test_what_a_layer_adds_is_dropped_and_the_residual_is_not(layer: str) -> None:
    torch.manual_seed(0)
    whole = block(dropout=0.5)
    answer_one(whole.get_submodule(layer))
    assert_dropped(whole(FIVES, FIVES, MASK) - 5, 0.5, kept=2)


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [[], ["position", "position"]])
def test_sides_must_name_each_kind_once(sides: list[str]) -> None:
    with pytest.raises(UsageError, match="must name position, category, or both, each once"):
        toy_model("nova", toy_catalog(), sides=sides)


def test_a_data_set_without_categories() -> None:
    bare = toy_catalog(features=False)
    with pytest.raises(ValueError, match='the data set has no categories; set sides = \\["position"\\]'):
        toy_model("nova", bare)
    model = toy_model("nova:-category", bare)
    assert queries(model.eval()).shape == (4, 64)
