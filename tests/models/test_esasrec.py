"""eSASRec: LiGR layers, the numbers of the official code, the dropped table, positions from either end."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Recommender
from mmbench.models.needs import Negatives, nothing
from tests.models.planted_answers import teach
from tests.models.toy import (
    catalog_of,
    history_batch,
    in_float64,
    set_weights,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

SMALL = {"hidden_dim": 12, "inner_dim": 16, "n_heads": 2, "dropout": 0.0}
OFFICIAL = {"hidden_dim": 4, "inner_dim": 8, "n_heads": 2, "dropout": 0.0, "n_negatives": 3}
EVENTS = [[2, 5, 2, 1], [1, 2, 3, 4, 5]]


def official_weight(number: int, *shape: int, is_norm: bool = False) -> Tensor:
    entry = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.5 * torch.sin(1.3 * number + 0.7 * entry) + is_norm).view(shape)


def official_model(name: str = "esasrec:official", **settings: Any) -> Recommender[Any]:
    """The model of the official code's numbers: 5 items, 4 places, weights that are sines."""
    catalog = catalog_of(view_of(EVENTS), n_items=5, max_len=4, features=False)
    with in_float64():
        model = toy_model(name, catalog, **(OFFICIAL | settings)).double()
    block = "blocks.0."
    matrices = {
        "item_emb.weight": (1, 6, 4), "position_emb.weight": (2, 4, 4),
        f"{block}norm1.bias": (4, 4), f"{block}attention.qkv.weight": (5, 12, 4), f"{block}attention.qkv.bias": (6, 12),
        f"{block}attention.out.weight": (7, 4, 4), f"{block}attention.out.bias": (8, 4),
        f"{block}gate1.weight": (9, 4, 4), f"{block}gate1.bias": (10, 4), f"{block}norm2.bias": (12, 4),
        f"{block}feed_forward.down.weight": (15, 4, 8),
        f"{block}gate2.weight": (16, 4, 4), f"{block}gate2.bias": (17, 4),
    }  # fmt: skip
    weights = {key: official_weight(*shape) for key, shape in matrices.items()}
    weights[f"{block}norm1.weight"] = official_weight(3, 4, is_norm=True)
    weights[f"{block}norm2.weight"] = official_weight(11, 4, is_norm=True)
    weights[f"{block}feed_forward.up.weight"] = torch.cat(
        [official_weight(13, 8, 4), official_weight(14, 8, 4)]
    )
    set_weights(model, weights)
    return model


def official_batch(model: Recommender[Any]) -> TrainBatch:
    """Negative k of row b at the left-padded place p: 1 + (3 b + 2 p + k) mod 5."""
    batch = training_batch(model, view_of(EVENTS), samples="last-window")
    position = batch.at_slots(batch.position[..., None])[:, 0]
    place = 4 - torch.tensor([3, 4])[batch.user] + position
    number = (3 * batch.user + 2 * place)[:, None] + torch.arange(3)
    return batch.with_drawn(negatives=1 + number % 5)


STATE = [0.4199540771, 0.0058924292, -0.2917709816, -0.8194040568]
SCORES = [
    [-0.0377843257, -0.1761487923, 0.3697269805, -0.5205812496, 0.6112795865],
    [0.0717397302, -0.1151440750, 0.1452429096, -0.1585581534, 0.1535511594],
]


def test_states_and_scores_of_the_official_code() -> None:
    model = official_model().eval()
    batch = history_batch(model, [[2, 5, 2], [1, 2, 3, 4]])
    with torch.no_grad():
        np.testing.assert_allclose(model.query(batch)[0].numpy(), STATE, rtol=0, atol=6e-11)
        np.testing.assert_allclose(model.score(batch).numpy(), SCORES, rtol=0, atol=6e-11)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1.6247318007),
        ({"loss": "gbce", "gbce_t": 0.75}, 4 * 0.7133333564),
        ({"loss": "bce"}, 4 * 0.7509800766),
    ],
)
def test_losses_of_the_official_code(settings: dict[str, Any], expected: float) -> None:
    """Its gBCE and BCE are divided by K + 1 = 4."""
    model = official_model(**settings)
    (value,) = model.loss(official_batch(model)).values()
    assert value.item() == pytest.approx(expected, abs=3e-10)


def states_by_hand(model: Recommender[Any], history: list[int]) -> list[Tensor]:
    """Every state of one history in loops over heads, places and layers."""
    w = {name: p.detach() for name, p in model.named_parameters()}
    dim, heads, inner = 12, 2, 16
    width = dim // heads

    def norm(v: Tensor, name: str) -> Tensor:
        centred = v - v.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gate(v: Tensor, name: str) -> Tensor:
        return 1 / (1 + (-(w[f"{name}.weight"] @ v + w[f"{name}.bias"])).exp())

    x = [w["item_emb.weight"][item] + w["position_emb.weight"][k] for k, item in enumerate(history)]
    for number in range(model.config.n_layers):
        name = f"blocks.{number}"
        qkv, bias = w[f"{name}.attention.qkv.weight"], w[f"{name}.attention.qkv.bias"]
        project = [qkv @ norm(v, f"{name}.norm1") + bias for v in x]
        out = []
        for i, stream in enumerate(x):
            mixed = torch.zeros(dim, dtype=torch.float64)
            for h in range(heads):
                q, k, v = (slice(part * dim + h * width, part * dim + (h + 1) * width) for part in range(3))
                logits = [float(project[i][q] @ project[j][k]) / width**0.5 for j in range(i + 1)]
                total = sum(map(math.exp, logits))
                for j, logit in enumerate(logits):
                    mixed[h * width : (h + 1) * width] += math.exp(logit) / total * project[j][v]
            mixed = w[f"{name}.attention.out.weight"] @ mixed + w[f"{name}.attention.out.bias"]
            y = stream + gate(stream, f"{name}.gate1") * mixed
            normed, up = norm(y, f"{name}.norm2"), w[f"{name}.feed_forward.up.weight"]
            first, third = up[:inner] @ normed, up[inner:] @ normed
            swish = first / (1 + (-first).exp())
            out.append(
                y + gate(y, f"{name}.gate2") * (w[f"{name}.feed_forward.down.weight"] @ (swish * third))
            )
        x = out
    return x


def random_model(**settings: Any) -> Recommender[Any]:
    with in_float64():
        model = toy_model("esasrec", toy_catalog(), **(SMALL | settings)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def test_states_by_hand() -> None:
    model, history = random_model(n_layers=2).eval(), [3, 9, 9, 30, 1]
    with torch.no_grad():
        batch = history_batch(model, [history, [4]])
        ours = model.encode(batch, model.table())[0]
        at_slots = model.query(batch)
    expected = torch.stack(states_by_hand(model, history))
    torch.testing.assert_close(ours[:5], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(at_slots[0], expected[-1], rtol=1e-10, atol=1e-12)


def test_the_gate_reads_the_stream_and_not_its_norm() -> None:
    """Scaling the first LayerNorm changes the attention; the first gate stays as it was."""
    model, batch = random_model().eval(), history_batch(random_model(), [[3, 9, 30]])
    seen: dict[str, list[Tensor]] = {"gate1": [], "attention": []}
    for name, values in seen.items():
        part = getattr(model.blocks[0], name)
        part.register_forward_hook(lambda _, __, out, values=values: values.append(out))
    with torch.no_grad():
        model.query(batch)
        model.blocks[0].norm1.weight.mul_(3)
        model.query(batch)
    assert torch.equal(*seen["gate1"])
    assert not torch.allclose(*seen["attention"])


def test_a_closed_gate_leaves_the_stream() -> None:
    model = random_model(n_layers=2).eval()
    with torch.no_grad():
        for block in model.blocks:
            for gate in (block.gate1, block.gate2):
                gate.weight.zero_()
                gate.bias.fill_(-1e4)
        state = model.query(history_batch(model, [[3, 9]]))[0]
        torch.testing.assert_close(state, model.item_emb.weight[9] + model.position_emb.weight[1])


def test_weights_of_a_block() -> None:
    """18 d^2 + 10 d at four times the width, 9 d^2 + 10 d at once the width."""
    for factor, squares in ((4, 18), (1, 9)):
        model = toy_model("esasrec", toy_catalog(), hidden_dim=12, inner_dim=12 * factor)
        n_weights = sum(p.numel() for p in model.blocks[0].parameters())
        assert n_weights == squares * 144 + 120


def test_initial_weights_are_those_of_the_official_code() -> None:
    """Standard deviation sqrt(2 / (rows + columns)) of its matrices, W_1 and W_3 apart; biases of attention are 0."""
    catalog = toy_catalog(n_items=2_000, n_users=20, max_len=50, features=False)
    model = toy_model("esasrec", catalog, hidden_dim=128, inner_dim=256)
    block = model.blocks[0]
    sizes = {
        "item": (model.item_emb.weight[1:], 2_001, 128), "position": (model.position_emb.weight, 50, 128),
        "qkv": (block.attention.qkv.weight, 384, 128), "out": (block.attention.out.weight, 128, 128),
        "gate": (block.gate1.weight, 128, 128), "up": (block.feed_forward.up.weight, 256, 128),
        "down": (block.feed_forward.down.weight, 128, 256),
    }  # fmt: skip
    for name, (weight, rows, columns) in sizes.items():
        expected = (2 / (rows + columns)) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.03), name
    assert not block.attention.qkv.bias.any()
    assert not block.attention.out.bias.any()
    assert 0.5 / 128**0.5 < block.gate1.bias.abs().max() <= 1 / 128**0.5
    assert not model.item_emb.weight[0].any()


# -- dropout -----------------------------------------------------------------------------------------------------


def test_dropout_at_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table once, the sum with positions, attention weights, attention, inner width, feed-forward."""
    seen: list[tuple[int, ...]] = []
    model = toy_model("esasrec", toy_catalog(), **(SMALL | {"dropout": 0.3, "n_layers": 2}))

    def watch(x: Tensor, p: float, training: bool) -> Tensor:
        assert (p, training) == (0.3, True)
        seen.append((x.dim(), x.shape[-1]) if x.shape[0] != 31 else (31, 12))
        return x

    monkeypatch.setattr("mmbench.nn.layers.dropout", watch)
    monkeypatch.setattr(f"{type(model).__module__}.dropout", watch)
    batch = training_batch(model, toy_view())
    width = batch.item_seq.shape[1]
    model.loss(batch)
    layer, last = [(4, width), (3, 12), (3, 16), (3, 12)], [(4, width), (2, 12), (2, 16), (2, 12)]
    assert seen == [(31, 12), (3, 12), *layer, *last]


def test_inputs_and_scores_see_the_same_dropped_table() -> None:
    """Half of all entries are 0 in training, the same ones for inputs, targets and negatives; none when it ranks."""
    model = toy_model("esasrec", toy_catalog(), **(SMALL | {"dropout": 0.5}))
    seen: list[Tensor] = []
    encode, score = model.encode, model.next_item.forward

    def watch_encode(batch: TrainBatch, table: Tensor, slot: Tensor | None = None) -> Tensor:
        seen.append(table[1:])
        return encode(batch, table, slot)

    def watch_score(query: Tensor, table: Tensor, *rest: Any) -> Tensor:
        seen.append(table)
        return score(query, table, *rest)

    model.encode, model.next_item.forward = watch_encode, watch_score
    model.loss(training_batch(model, toy_view()))
    assert torch.equal(*seen)
    assert (seen[0] == 0).double().mean() == pytest.approx(0.5, abs=0.1)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], 2 * model.item_emb.weight[1:][kept])
    assert torch.equal(model.eval().table(), model.item_emb.weight)
    whole = toy_model("esasrec:whole-table", toy_catalog(), **(SMALL | {"dropout": 0.5}))
    assert torch.equal(whole.train().table(), whole.item_emb.weight)


# -- positions and objective -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "end"), [("esasrec:official", "new"), ("esasrec", "old")])
def test_the_end_from_which_positions_count(name: str, end: str) -> None:
    model = toy_model(name, toy_catalog(), **SMALL).eval()
    seen: list[Tensor] = []
    model.position_emb.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0]))
    with torch.no_grad():
        for history in ([3, 5, 7, 9], [5, 7, 9], [3, 5, 7]):
            model.query(history_batch(model, [history]))
    whole, without_oldest, without_newest = (place.tolist() for place in seen)
    assert (whole[1:4] == without_oldest[:3]) == (end == "new")
    assert (whole[:3] == without_newest[:3]) == (end == "old")
    assert whole[:4] == ([3, 2, 1, 0] if end == "new" else [0, 1, 2, 3])


def test_positions_from_the_newest_are_refused_for_one_pass_over_all_positions() -> None:
    assert set(toy_model("esasrec", toy_catalog(), **SMALL).needs.samples) == {"last-window", "all", "prefix"}
    newest = toy_model("esasrec:official", toy_catalog(), **SMALL).needs.samples
    assert set(newest) == {"last-window", "prefix"}


def test_negatives_are_drawn_of_all_items() -> None:
    needs = toy_model("esasrec", toy_catalog(), **SMALL).needs
    assert needs.get(Negatives) == Negatives(k=256, exclude=nothing)
    batch = training_batch(toy_model("esasrec", toy_catalog(), **SMALL), toy_view())
    assert batch.negatives.shape[1] == 256
    assert (batch.negatives == batch.target[:, None]).any(1).double().mean() > 0.9


@pytest.mark.parametrize("kind", ["ce", "ss"])
def test_sixty_four_sequences_are_learned_by_heart(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    histories = torch.stack([torch.randperm(64, generator=generator)[:5] + 1 for _ in range(64)]).tolist()
    view = view_of(histories)
    model = toy_model(
        "esasrec",
        catalog_of(view, n_items=64, features=False),
        hidden_dim=32,
        inner_dim=64,
        dropout=0.0,
        loss=kind,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    last = torch.tensor([history[-1] for history in histories])
    batch = history_batch(model, [history[:-1] for history in histories])
    for step in range(200):
        optimizer.zero_grad()
        model.loss(training_batch(model, view, samples="last-window", seed=step))[kind].backward()
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                if torch.equal(model.score(batch).argmax(1) + 1, last):
                    return
    raise AssertionError("not learned in 200 steps")


def test_ids_tell_the_kind_of_an_item_that_was_shown_and_of_no_other() -> None:
    """Texts and pictures tell it, too, but are not read: a quarter of the other items is answered right by chance."""
    shown, hidden = teach("esasrec", "text", hidden_dim=32, inner_dim=32, dropout=0.0)
    assert shown == 1
    assert hidden <= 0.5
