"""S3-Rec: numbers of the released code, a reference in plain loops, what is hidden of histories, and both stages."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import plan_rows
from tests.models.make_s3rec import (
    MASK,
    SMALL,
    WEIGHTS,
    attributes_by_hand,
    make,
    module,
    of_each_history,
    prefixes,
    pretraining,
    shaken,
    unweighted,
)
from tests.models.toy import (
    MAX_LEN,
    N_ITEMS,
    catalog_of,
    history_batch,
    loss_by_hand,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

# -- the released code's numbers (float64, dropout off) --------------------------------------------------------------


def wave(k: int, shape: Sequence[int], kind: str) -> Tensor:
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    values = 0.1 * (i + k).cos() if kind == "bias" else 0.3 * (0.7 * i + k).sin() + (kind == "scale")
    return values.view(*shape)


def put(parameter: Tensor, k: int, kind: str = "weight") -> None:
    with torch.no_grad():
        parameter.copy_(wave(k, parameter.shape, kind))


def put_layer(layer: nn.Module, k: int) -> None:
    put(layer.weight, k, "scale" if isinstance(layer, nn.LayerNorm) else "weight")
    put(layer.bias, k, "bias")


def place_released_weights(model: Any) -> None:
    parts, block = model.pretraining, model.encoder.blocks[0]
    # The released table has a class 0, which no item has.
    parts.attribute_emb = nn.Embedding(5, 4).double()
    parts.labels.ids += 1
    for k, table in enumerate((model.item_emb, parts.attribute_emb, model.position_emb)):
        put(table.weight, k)
    layers = (model.norm, parts.aap, parts.mip, parts.map, parts.sp)
    for k, layer in enumerate(layers, start=3):
        put_layer(layer, k)
    for k, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 12)), start=8):
        put(block.attention.qkv.weight[rows], k)
        put(block.attention.qkv.bias[rows], k, "bias")
    for k, layer in enumerate(
        (block.attention.out, block.norm1, block.up, block.down, block.norm2), start=11
    ):
        put_layer(layer, k)


def released_catalog() -> Any:
    """Six items, of which i has the attributes i mod 4 and i^2 mod 4, five places."""
    owned = [[]] + [sorted({i % 4, i * i % 4}) for i in range(1, 7)]
    counts = torch.tensor([len(labels) for labels in owned])
    return replace(
        catalog_of(view_of([[1, 2, 3, 4], [5], [6]]), n_items=6, max_len=5),
        category_ids=torch.tensor([label for labels in owned for label in labels]),
        category_offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        n_categories=4,
    )


def released_model(name: str = "s3rec", **settings: Any) -> Any:
    sizes = {
        "hidden_dim": 4,
        "inner_dim": 16,
        "n_layers": 1,
        "attribute_min_count": 1,
        "attributes": "category",
    }
    model: Any = toy_model(name, released_catalog(), **(SMALL | sizes | settings)).double()
    place_released_weights(model)
    return model


def released_step(histories: list[list[int]], **hidden: list[list[int]]) -> tuple[TrainBatch, Any]:
    """A batch of the histories, one a row, and what is hidden of them; lists without padding."""
    view = view_of(histories)
    rows = plan_rows(view.offsets, "sequence", 5)
    batch = Batcher(view.items, view.times, layout="padded", max_len=5).training(rows)
    grids = {name: torch.zeros_like(batch.item_seq) for name in hidden}
    for name, lists in hidden.items():
        for row, items in enumerate(lists):
            grids[name][row, : len(items)] = torch.tensor(items)
    return batch, module().Cloze(is_masked=grids["items"] == 7, **grids)


def two_samples() -> tuple[TrainBatch, Any]:
    return released_step(
        [[1, 2, 3, 4], [5]],
        items=[[1, 7, 3, 7], [7]], negatives=[[1, 6, 3, 5], [2]], context=[[1, 7, 7, 4], [5]],
        positive=[[7, 2, 3, 7], [5]], negative=[[7, 6, 1, 7], [5]],
    )  # fmt: skip


def test_pre_training_terms_are_the_released_codes() -> None:
    terms = released_model().pretraining_loss(*two_samples())
    expected = {"aap": 6.8829643112, "mip": 2.0725998333, "map": 10.5136957189, "sp": 1.3859152263}
    assert unweighted(terms) == pytest.approx(expected, abs=6e-11)
    assert sum(terms.values()).item() == pytest.approx(14.6558460276, abs=6e-11)


def test_pairs_without_the_inner_sigmoids_have_the_references_numbers() -> None:
    terms = unweighted(released_model(pair_form="logit").pretraining_loss(*two_samples()))
    assert terms["mip"] == pytest.approx(2.0536790724, abs=6e-11)
    assert terms["sp"] == pytest.approx(1.3845613463, abs=6e-11)


def test_fine_tuning_loss_and_scores_are_the_released_codes() -> None:
    model = released_model()
    batch = training_batch(model, view_of([[1, 2, 3, 4], [4, 5, 6, 1, 2]]), samples="last-window")
    of = {(0, 2): 5, (0, 3): 6, (0, 4): 6, (1, 5): 2, (1, 6): 3, (1, 1): 3, (1, 2): 4}
    pairs = zip(batch.user.tolist(), batch.target.tolist(), strict=True)
    batch = batch.with_drawn(negatives=torch.tensor([[of[pair]] for pair in pairs]))
    assert model.loss(batch)["bce"].item() == pytest.approx(1.7997259739, abs=6e-11)
    expected = [0.2962174012, -0.4443785685, 0.5411894288, -0.5754629722, 0.5432387084, -0.4482403226]
    assert model.score(history_batch(model, [[1, 2, 3]]))[0].tolist() == pytest.approx(expected, abs=6e-11)


# -- a reference in plain loops: one history at a time, without padding ----------------------------------------------


def layer(x: np.ndarray, part: Any) -> np.ndarray:
    return x @ part.weight.detach().numpy().T + part.bias.detach().numpy()


def norm(x: np.ndarray, part: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale, shift = part.weight.detach().numpy(), part.bias.detach().numpy()
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + shift


def states_by_hand(model: Any, items: Sequence[int], *, causal: bool) -> np.ndarray:
    """States of one history [n, D], attention weight by attention weight."""
    n, dim = len(items), model.config.hidden_dim
    positions = model.position_emb.weight.detach().numpy()[model.max_len - n :]
    x = norm(model.item_emb.weight.detach().numpy()[list(items)] + positions, model.norm)
    for block in model.encoder.blocks:
        q, k, v = np.split(layer(x, block.attention.qkv), 3, axis=1)
        mixed, width = np.zeros((n, dim)), dim // model.config.n_heads
        for head in range(model.config.n_heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(n):
                seen = range(i + 1) if causal else range(n)
                weights = np.array([math.exp(q[i, part] @ k[j, part] / math.sqrt(width)) for j in seen])
                for j, weight in zip(seen, weights / weights.sum(), strict=True):
                    mixed[i, part] += weight * v[j, part]
        y = norm(x + layer(mixed, block.attention.out), block.norm1)
        inner = layer(y, block.up)
        gelu = np.array([[u * (1 + math.erf(u / math.sqrt(2))) / 2 for u in row] for row in inner])
        x = norm(y + layer(gelu, block.down), block.norm2)
    return x


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def terms_by_hand(
    model: Any, histories: list[list[int]], hidden: list[dict[str, list[int]]]
) -> dict[str, float]:
    parts, owned = model.pretraining, attributes_by_hand()
    names = sorted(
        {name for labels in owned.values() for name in labels}, key=lambda n: (n[0] == "brand", n[1])
    )
    emb, items = parts.attribute_emb.weight.detach().numpy(), model.item_emb.weight.detach().numpy()
    assert len(emb) == len(names)
    total = dict.fromkeys(WEIGHTS, 0.0)
    for history, hide in zip(histories, hidden, strict=True):
        states = states_by_hand(model, hide["items"], causal=False)
        for t, (item, seen) in enumerate(zip(history, hide["items"], strict=True)):
            is_masked = seen == MASK
            query = layer(states[t], parts.map if is_masked else parts.aap)
            for name, vector in zip(names, emb, strict=True):
                p = sigmoid(float(vector @ query))
                loss = -math.log(p if name in owned[item] else 1 - p)
                total["map" if is_masked else "aap"] += loss
            if is_masked:
                query = layer(states[t], parts.mip)
                pair = [sigmoid(float(query @ items[i])) for i in (item, hide["negatives"][t])]
                total["mip"] -= math.log(sigmoid(pair[0] - pair[1]))
        context, positive, negative = (
            states_by_hand(model, hide[name], causal=False)[-1]
            for name in ("context", "positive", "negative")
        )
        query = layer(context, parts.sp)
        total["sp"] -= math.log(sigmoid(sigmoid(float(query @ positive)) - sigmoid(float(query @ negative))))
    return total


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_pre_training_terms_are_those_of_plain_loops(layout: str) -> None:
    model = shaken(pretraining(make()))
    batch = prefixes(view_of([[4, 9, 9, 2, 30, 7], [5], [1, 2], [3, 8, 1]]), layout)
    torch.manual_seed(3)
    cloze = module().draw_cloze(batch, model.pretraining.events, N_ITEMS, 0.2)
    torch.manual_seed(3)
    terms = unweighted(model.loss(batch))
    histories = of_each_history(batch, batch.item_seq)
    assert len(histories) == 12
    grids = {
        name: of_each_history(batch, getattr(cloze, name)) for name in cloze._fields if name != "is_masked"
    }
    hidden = [{name: lists[k] for name, lists in grids.items()} for k in range(12)]
    assert terms == pytest.approx(terms_by_hand(model, histories, hidden), rel=1e-9)


def test_fine_tuning_states_are_those_of_plain_loops() -> None:
    model = shaken(make())
    histories = [[4, 9, 9, 2, 30, 7], [5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    actual = model.query(history_batch(model, histories))
    for state, history in zip(actual, histories, strict=True):
        expected = states_by_hand(model, history[-MAX_LEN:], causal=True)[-1]
        assert state.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("kind", ["bce", "bpr", "ce"])
def test_fine_tuning_losses_are_of_scores_of_all_items(kind: str) -> None:
    model = shaken(make(loss=kind))
    batch = training_batch(model, toy_view())
    scores = model.query(batch) @ model.item_emb.weight[1:-1].T
    assert model.loss(batch)[kind].item() == pytest.approx(loss_by_hand(kind, scores, batch).item(), rel=1e-9)
