"""Where DIF-SR drops values, with layers that let numbers through unchanged."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.test_dropout import (
    DIM,
    FIRST_OF_ROWS,
    FIVES,
    MASK,
    ROWS,
    UNIT,
    WIDTH,
    answer_one,
    assert_dropped,
    bare,
    let_through,
)
from tests.models.toy import toy_catalog, toy_model, toy_view, training_batch

NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}


def block(**rates: float) -> Any:
    sizes = {
        "hidden_dim": DIM,
        "attribute_dim": DIM,
        "inner_dim": DIM,
        "n_heads": 1,
        "n_layers": 1,
        "fusion": "sum",
    }
    return bare(toy_model("dif-sr", toy_catalog(), **sizes | NO_DROPOUT | rates).blocks[0])


def streams(model_block: Any, item: Tensor) -> Any:
    """Return side information without any effect beside ids `item`."""
    kind = model_block.attention.forward.__annotations__["asked"]
    return kind(torch.zeros_like(item), item, torch.zeros_like(item[:1]))


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_attention_drops_weights(rate: float) -> None:
    torch.manual_seed(0)
    attention = block(attn_dropout=rate).attention
    let_through(attention.value)
    let_through(attention.out)
    p, read = round(rate * 256) / 256, streams(block(), UNIT)
    assert_dropped(attention(read, read, MASK), p, kept=1 / WIDTH / (1 - p))


@pytest.mark.parametrize("layer", ["attention.out", "down"])
@pytest.mark.parametrize("slot", [None, FIRST_OF_ROWS], ids=["all-places", "one-of-each-row"])
def test_what_a_layer_adds_is_dropped_and_the_residual_is_not(layer: str, slot: Tensor | None) -> None:
    torch.manual_seed(0)
    whole = block(dropout=0.5)
    answer_one(whole.get_submodule(layer))
    added = whole(streams(whole, FIVES), MASK, slot) - 5
    assert len(added) == ROWS
    assert_dropped(added, 0.5, kept=2)


def test_ids_are_dropped_and_side_information_is_not_in_any_layer() -> None:
    torch.manual_seed(0)
    model = toy_model("dif-sr:sum", toy_catalog(), hidden_dim=64, dropout=0.5, attn_dropout=0.0)
    seen: list[Any] = []
    for layer in model.blocks:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = training_batch(model, toy_view())
    model.loss(batch)
    ids = seen[0].item[batch.mask]
    assert ids.eq(0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert len(seen) == 2
    for read in seen:
        assert torch.equal(read.attribute, model.attribute_table(batch.item_seq))
        assert torch.equal(read.position, model.position_emb(batch.position))
