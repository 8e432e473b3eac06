"""UniSRec: section "How to check it" of its specification, and the adaptor against plain loops.

The item drop is in tests/nn/test_item_drop.py, the stages are in test_unisrec_stages.py.
"""

import math
import sys
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender
from mmbench.models.registry import find
from tests.fixed import fill
from tests.models.make_unisrec import cosine_wave
from tests.models.planted_answers import teach
from tests.models.toy import (
    catalog_of,
    close,
    gradients,
    history_batch,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

UNISREC = sys.modules[find("unisrec").load().__module__]


QUIET: dict[str, Any] = {"dropout": 0.0, "attn_dropout": 0.0, "adaptor_dropout": 0.0}


STILL = QUIET | {"noisy_gate": False}


HISTORIES, TARGETS = [[2], [1, 3, 5], [4, 2, 1, 5, 3, 2]], [3, 4, 3]


def make(name: str = "unisrec", catalog: Catalog | None = None, **settings: Any) -> Any:
    """Return a small model in float64 whose weights let every bias show."""
    small = {"hidden_dim": 8, "inner_dim": 12, "n_experts": 3}
    model = toy_model(name, catalog or toy_catalog(), **(small | settings)).double()
    fill(model)
    return model


# -- numbers of the official code -----------------------------------------------------------------------------------


def t(k: int, *shape: int) -> Tensor:
    """Return the specification's tensor number k, 0.3 sin(k + 0.7 n)."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.3 * (k + 0.7 * n).sin()).view(*shape)


def numbered(name: str, **settings: Any) -> Any:
    """Return the specification's model of 5 items, in evaluation mode."""
    plain = catalog_of(view_of([[1, 2, 3], [4, 5]]), n_items=5, max_len=6, features=False)
    catalog = replace(plain, text_feat=torch.cat([torch.zeros(1, 6).double(), t(90, 5, 6)]))
    sizes = {"hidden_dim": 4, "inner_dim": 6, "n_experts": 2, "n_layers": 1, "n_heads": 2}
    model: Any = toy_model(name, catalog, **sizes, **QUIET, **settings).double().eval()
    block = model.encoder.blocks[0]
    values = {
        model.position_emb.weight: t(1, 6, 4), model.norm.weight: 1 + t(2, 4), model.norm.bias: t(3, 4),
        block.attention.qkv.weight: torch.cat([t(k, 4, 4) for k in (10, 12, 14)]),
        block.attention.qkv.bias: torch.cat([t(k, 4) for k in (11, 13, 15)]),
        block.attention.out.weight: t(16, 4, 4), block.attention.out.bias: t(17, 4),
        block.up.weight: t(18, 6, 4), block.up.bias: t(19, 6), block.down.weight: t(20, 4, 6),
        block.down.bias: t(21, 4), block.norm1.weight: 1 + t(22, 4), block.norm1.bias: t(23, 4),
        block.norm2.weight: 1 + t(24, 4), block.norm2.bias: t(25, 4),
        model.adaptors.text.weight: torch.stack([t(60, 4, 6), t(62, 4, 6)]),
        model.adaptors.text.offset: torch.cat([t(61, 6), t(63, 6)]),
        model.adaptors.text.gate.weight: t(80, 6, 2).T, model.adaptors.text.noise.weight: t(81, 6, 2).T,
    }  # fmt: skip
    if model.item_emb is not None:
        values[model.item_emb.weight] = t(100, 6, 4)
    with torch.no_grad():
        for parameter, value in values.items():
            parameter.copy_(value)
    assert set(values) == set(model.parameters())
    return model


def numbered_batch(width: int = 6) -> TrainBatch:
    """Return the three histories right padded to `width`, each with its target."""
    length = torch.tensor([len(history) for history in HISTORIES])
    items = torch.tensor([history + [0] * (width - len(history)) for history in HISTORIES])
    real = torch.arange(width) < length[:, None]
    return TrainBatch(
        item_seq=items, time_seq=torch.zeros_like(items), position=torch.arange(width) * real, segment=real.long(),
        slot=torch.arange(3) * width + length - 1, user=torch.arange(3), target=torch.tensor(TARGETS),
    )  # fmt: skip


def test_vector_of_an_item() -> None:
    v = numbered("unisrec").content(torch.tensor([3]))
    close(v, 0.0400008056, 0.2152545264, -0.2510625274, 0.0309177154)


def test_transductive_numbers() -> None:
    model, batch = numbered("unisrec"), numbered_batch()
    state = model.states(batch, model.content(batch.item_seq))[1]
    close(state, -0.5990870622, 1.5278590905, 0.4722948402, -0.9299440054)
    cosines = [0.7355590274, 0.3417568701, 0.4157049509, 0.4599919598, 0.8698360902]
    close(model.score(batch)[1], *cosines)
    close(model.candidates(model.content())[0] @ model.query(batch)[1], 0.6118387096)  # the padding row
    close(model.loss(batch)["ce"], 7.0594864586)
    close(numbered("unisrec:as-released").loss(batch)["ce"], 8.2130031790)
    with mock.patch.object(torch, "randn", cosine_wave):
        close(numbered("unisrec:as-released").train().loss(batch)["ce"], 7.6413851216)


def test_inductive_numbers() -> None:
    model, batch = numbered("unisrec", use_ids=False), numbered_batch()
    close(model.score(batch)[1], 0.8166268106, 0.8427559157, 0.2318740768, 0.8139386590, 0.8437695314)
    close(model.candidates(model.content())[0] @ model.query(batch)[1], 0.7403827347)
    close(model.loss(batch)["ce"], 3.4639638995)
    released = numbered("unisrec:as-released", use_ids=False)
    close(released.loss(batch)["ce"], 3.6922604474)
    with mock.patch.object(torch, "randn", cosine_wave):
        close(released.train().loss(batch)["ce"], 4.0841735552)


AUGMENTED = [[True], [True, False, True], [True, False, True, False, True, True]]  # [2], [1, 5], [4, 1, 3, 2]


@pytest.mark.parametrize(
    ("name", "si", "ss"),
    [("unisrec", 2.2891381261, 0.0348674348), ("unisrec:as-released", 2.2891848866, 0.0348678920)],
)
@pytest.mark.parametrize("width", [6, 9])
def test_pretraining_numbers(
    name: str, si: float, ss: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = numbered(name, ss_weight=1.0), numbered_batch(width)
    model.start_stage("pretrain")
    kept = torch.tensor([row + [True] * (width - len(row)) for row in AUGMENTED])
    monkeypatch.setattr(UNISREC, "choose_kept", lambda *_: kept)
    terms = model.loss(batch)
    assert set(terms) == {"si", "ss"}
    close(terms["si"], si)
    close(terms["ss"], ss)
    weighted = numbered(name, ss_weight=0.25)
    weighted.start_stage("pretrain")
    close(weighted.loss(batch)["ss"] * 4, ss)


def test_gradients_of_pretraining_are_those_of_one_history_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both sides of both contrasts learn: histories, shortened histories and the targets' texts."""
    model = make(pretrain_on=("target",), ss_weight=0.5, temperature=0.3, **STILL)
    model.start_stage("pretrain")
    batch = training_batch(model, view_of([[4, 9, 2, 5], [1, 3, 9], [6, 5]]), samples="prefix")
    kept = batch.mask & (batch.position != 1)
    monkeypatch.setattr(UNISREC, "choose_kept", lambda *_: kept)
    _, computed = gradients(model, batch)
    whole, short = [], []
    for slot in batch.slot.tolist():
        place = slice(slot - int(batch.position.flatten()[slot]), slot + 1)
        items = batch.item_seq.flatten()[place]
        whole.append(items.tolist())
        short.append(items[kept.flatten()[place]].tolist())
    model.zero_grad()
    batches = [history_batch(model, lists) for lists in (whole, short)]
    states = [
        model.encode(model.content(b.item_seq), b.position, b.attention_mask(causal=True), b.slot)
        for b in batches
    ]
    anchor, *others = (F.normalize(x, dim=1) for x in (*states, model.content(batch.target)))
    same = (batch.target[:, None] == batch.target[None]) & ~torch.eye(len(anchor), dtype=torch.bool)
    assert same.any()
    ss, si = (
        F.cross_entropy((anchor @ x.T / 0.3).masked_fill(same, -math.inf), torch.arange(len(anchor)))
        for x in others
    )
    (si + 0.5 * ss).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert computed.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(computed[name], grad, rtol=1e-8, atol=1e-11)


# -- the adaptor ------------------------------------------------------------------------------------------------------


def test_weights_of_a_model_start_as_released() -> None:
    model: Any = toy_model("unisrec", toy_catalog(n_items=400, n_users=60), hidden_dim=32)
    adaptor = model.adaptors.text
    assert not any(p.any() for p in (adaptor.offset, adaptor.gate.weight, adaptor.noise.weight))
    for weight in (adaptor.weight, model.item_emb.weight, model.position_emb.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.item_emb.weight[0].any()


# -- scores ------------------------------------------------------------------------------------------------------------


def scores(model: Recommender[Any], histories: list[list[int]]) -> Tensor:
    with torch.no_grad():
        return model.eval().score(history_batch(model, histories))


PLAIN = [[4, 9, 2], [1], [6, 6, 8, 20, 30, 5, 5, 2], [17, 18]]


def test_scores_are_cosines() -> None:
    model = make()
    before = scores(model, PLAIN)
    assert before.abs().max() <= 1 + 1e-12
    content = model.content()
    with mock.patch.object(
        type(model), "content", lambda self, ids=None: content[ids] if ids is not None else content
    ):
        torch.testing.assert_close(scores(model, PLAIN), before)
    unit = model.item_table()
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(30).double())
    expected = F.normalize(content + model.item_emb.weight, dim=1)[1:]
    torch.testing.assert_close(unit, expected)
    larger = model.candidates(3 * content + 2 * model.item_emb.weight)[1:]  # 3 (v + e)
    torch.testing.assert_close(larger, unit)


def test_inductive_model_knows_items_by_their_texts_only() -> None:
    catalog = toy_catalog()
    model = make("unisrec:inductive", catalog)
    assert not any(30 < len(parameter) < 33 for parameter in model.parameters())
    order = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randperm(30) + 1])  # old id -> new id
    assert catalog.text_feat is not None
    moved = make("unisrec:inductive", replace(catalog, text_feat=catalog.text_feat[order.argsort()]))
    histories = [[int(order[item]) for item in history] for history in PLAIN]
    torch.testing.assert_close(scores(moved, histories)[:, order[1:] - 1], scores(model, PLAIN))


def test_without_texts_it_is_sasrec_with_a_cosine() -> None:
    catalog = toy_catalog()
    assert catalog.text_feat is not None
    model = make(catalog=replace(catalog, text_feat=torch.zeros_like(catalog.text_feat))).eval()
    nn.init.zeros_(model.adaptors.text.offset)
    sasrec: Any = toy_model("sasrec", catalog, hidden_dim=8, inner_dim=12).double().eval()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("adaptors")}
    sasrec.load_state_dict(own, strict=True)
    with torch.no_grad():
        sasrec.item_emb.weight[0] = 0  # padding is read by nobody
        query, table = sasrec.query(history_batch(sasrec, PLAIN)), sasrec.item_table()
    torch.testing.assert_close(scores(model, PLAIN), F.normalize(query, dim=1) @ F.normalize(table, dim=1).T)


def test_two_modalities_have_adaptors_of_their_own() -> None:
    both = make("unisrec:text-image").eval()
    parts = [make(modalities=[name]).eval() for name in ("text", "image")]
    for part, name in zip(parts, ("text", "image"), strict=True):
        part.adaptors[name].load_state_dict(both.adaptors[name].state_dict())
    torch.testing.assert_close(both.content(), parts[0].content() + parts[1].content())
    ids = torch.tensor([[3, 0], [30, 7]])
    torch.testing.assert_close(both.content(ids), both.content()[ids])


def test_a_large_ranking_computes_each_item_once_with_the_same_scores() -> None:
    model, many = make().eval(), [PLAIN[k % 4] for k in range(40)]
    torch.testing.assert_close(scores(model, many)[:4], scores(model, PLAIN), rtol=1e-12, atol=1e-12)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unisrec", "unisrec:inductive", "unisrec:text-image"])
def test_all_positions_and_prefixes_have_one_loss(name: str) -> None:
    model, view = make(name, **STILL), toy_view()
    actual = [gradients(model, training_batch(model, view, samples=kind)) for kind in ("all", "prefix")]
    assert actual[0][0] == pytest.approx(actual[1][0], rel=1e-10)
    for key, grad in actual[0][1].items():
        torch.testing.assert_close(grad, actual[1][1][key], rtol=1e-7, atol=1e-9)


def test_loss_is_the_cross_entropy_of_cosines_over_the_temperature() -> None:
    model, view = make(**STILL, temperature=0.3), toy_view()
    batch = training_batch(model, view)
    logits = model.score(batch) / 0.3
    torch.testing.assert_close(model.loss(batch)["ce"], F.cross_entropy(logits, batch.target - 1))


@pytest.mark.parametrize("own", [True, False])
def test_whose_draws_a_slot_has(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With "shared" a slot reads the vector that the catalogue has in this step."""
    model = make(catalogue_noise="own" if own else "shared").train()
    seen: list[Tensor] = []
    inner = type(model).states
    monkeypatch.setattr(type(model), "states", lambda self, b, x: seen.append(x) or inner(self, b, x))
    tables: list[Tensor] = []
    candidates = type(model).candidates
    monkeypatch.setattr(type(model), "candidates", lambda self, c: tables.append(c) or candidates(self, c))
    batch = training_batch(model, view_of([[5, 5, 5, 1], [5, 2]]))
    model.loss(batch)
    of_five = seen[0][batch.item_seq == 5]
    assert len(of_five) == 4
    assert len(of_five.unique(dim=0)) == (4 if own else 1)
    assert torch.equal(seen[0], tables[0][batch.item_seq]) is not own


def test_items_without_a_vector_have_no_gradient() -> None:
    """Items 3 and 7 have no text; while the offsets are 0, so is their vector."""
    view = view_of([[1, 2, 3], [7, 4, 5]])
    steepness = {}
    for name in ("unisrec", "unisrec:as-released"):
        model = make(name, use_ids=False, **STILL)
        nn.init.zeros_(model.adaptors.text.offset)
        _, grads = gradients(model, training_batch(model, view))
        steepness[name] = grads["adaptors.text.offset"].abs().max().item()
        assert not model.item_table()[2].any()
    assert 0 < steepness["unisrec"] < 100
    assert steepness["unisrec:as-released"] > 1e8
    taken_back = make(
        "unisrec:as-released", use_ids=False, **STILL, zero_vectors="constant", padding="no class"
    )
    nn.init.zeros_(taken_back.adaptors.text.offset)
    _, grads = gradients(taken_back, training_batch(taken_back, view))
    assert grads["adaptors.text.offset"].abs().max().item() == pytest.approx(steepness["unisrec"])


def test_a_target_without_a_vector_has_no_gradient_in_pretraining() -> None:
    """Item 7 has no text; the released code's cosine is steep here too."""
    steepness = {}
    for name in ("unisrec", "unisrec:as-released"):
        model = make(name, use_ids=False, pretrain_on=("target",), ss_weight=0.0, **STILL)
        model.start_stage("pretrain")
        nn.init.zeros_(model.adaptors.text.offset)
        batch = training_batch(model, view_of([[1, 7], [2, 4]]), samples="prefix")
        _, grads = gradients(model, batch)
        steepness[name] = grads["adaptors.text.offset"].abs().max().item()
    assert 0 < steepness["unisrec"] < 100
    assert steepness["unisrec:as-released"] > 1e8


def test_short_vectors_are_zero_and_others_are_not_touched() -> None:
    x = torch.tensor([[6e-7, 6e-7], [1.0, 2.0], [0.0, 2e-6]], requires_grad=True)
    kept = UNISREC.without_tiny(x)
    assert kept.tolist() == [[0, 0], [1, 2], [0, pytest.approx(2e-6)]]
    kept.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [1, 1], [1, 1]]


def test_dropout_acts_on_the_input_too() -> None:
    model = make(**(STILL | {"dropout": 0.5})).train()
    batch = training_batch(model, view_of([[1, 2, 3, 4, 5, 6]]))
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(0)
    model.query(batch)
    assert 0.2 < seen[0].eq(0).double().mean() < 0.8
    assert torch.equal(model.item_table(), model.eval().item_table())  # but not on candidates


@pytest.mark.parametrize(
    ("name", "modality", "knows"),
    [
        ("unisrec", "text", True),
        ("unisrec", "image", False),
        ("unisrec:inductive", "text", True),
        ("unisrec:text-image", "image", True),
        ("unisrec:text-image", "text", True),
    ],
)
def test_what_it_reads_tells_what_an_item_is(name: str, modality: str, knows: bool) -> None:
    shown, hidden = teach(name, modality, hidden_dim=32, inner_dim=32, n_experts=4, **STILL)
    assert shown > 0.95
    assert (hidden > 0.7) is knows
    assert knows or hidden < 0.5  # 0.25 by chance


@pytest.mark.parametrize("modalities", [[], ["text", "text"]])
def test_bad_modalities_are_one_line(modalities: list[str]) -> None:
    with pytest.raises(UsageError, match='modalities must name "text", "image" or both, each once'):
        make(modalities=modalities)


def test_features_that_are_missing() -> None:
    with pytest.raises(ValueError, match="reads text features, and the data set has none"):
        make(catalog=toy_catalog(features=False))
    model = make("unisrec:text-image", replace(toy_catalog(), image_feat=None))
    assert model.extra_state() == {"modalities": ["text"], "pretrain_on": ()}
