"""NextItNet: section "How to check" of its specification (convolutions: tests/nn/test_convolution.py)."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmbench.data.batcher import Batcher
from mmbench.data.samples import last_rows
from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    learns_by_heart,
    loss_by_hand,
    random_fives,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

VARIANTS = ["nextitnet", "nextitnet:bottleneck", "nextitnet:official", "nextitnet:official-softmax"]
EACH = pytest.mark.parametrize("name", VARIANTS)
HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]


def make(name: str = "nextitnet", **settings: Any) -> Recommender[Any]:
    return toy_model(name, toy_catalog(), **{"hidden_dim": 8, **settings}).double().eval()


@EACH
def test_neither_layout_nor_neighbours_move_a_state(name: str) -> None:
    view, model = view_of(HISTORIES), make(name)
    rows = last_rows(view.offsets, torch.arange(4).numpy(), 8)
    alone = torch.cat([model.query(history_batch(model, [history])) for history in HISTORIES])
    for layout in ("packed", "padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=12).evaluation(rows)
        torch.testing.assert_close(model.query(batch), alone, rtol=0, atol=1e-12)


def test_reading_at_the_end_of_the_padding_depends_on_its_length() -> None:
    """What RecBole does, and why it is not done here: the state at place L - 1 belongs to padding when T < L."""
    view, model = view_of([[4, 9, 2]]), make()
    with torch.no_grad():
        model.item_emb.weight[0].normal_()  # RecBole: a random row
    rows = last_rows(view.offsets, torch.arange(1).numpy(), 8)
    actual = []
    for width in (4, 8, 12):
        batch = Batcher(view.items, view.times, layout="fixed", max_len=width).evaluation(rows)
        hidden = model.encoder(model.item_emb(batch.item_seq), torch.arange(width)[None])
        actual.append((hidden[0, -1], hidden[0, 2]))
    assert (actual[0][0] - actual[1][0]).abs().max() > 1e-3
    assert (actual[1][0] - actual[2][0]).abs().max() > 1e-3
    torch.testing.assert_close(actual[0][1], actual[2][1])  # at the last real item it does not


@EACH
def test_without_convolutions_only_the_last_item_counts(name: str) -> None:
    model = make(name)
    with torch.no_grad():
        for part, parameter in model.encoder.named_parameters():
            if "norm" not in part:
                parameter.zero_()
    last = model.item_emb.weight[[2, 1, 2, 12]]
    if name in ("nextitnet", "nextitnet:bottleneck"):
        expected = (last @ model.out.weight.T + model.out.bias) @ model.item_emb.weight[1:].T
    else:
        state = last if name == "nextitnet:official" else last.relu()
        expected = state @ model.out_table.T + model.item_bias
    torch.testing.assert_close(model.score(history_batch(model, HISTORIES)), expected)


@pytest.mark.parametrize(("block", "span"), [("two-convolutions", 3), ("bottleneck", 1)])
def test_a_state_reads_as_far_back_as_the_settings_say(block: str, span: int) -> None:
    """Two taps, dilations 1 and 3, twice: bottlenecks reach 8 events back, pairs of convolutions 24."""
    catalog = toy_catalog(n_items=40, max_len=30)
    settings = {"block": block, "kernel_size": 2, "dilations": [1, 3], "n_blocks": 2, "hidden_dim": 8}
    model = toy_model("nextitnet", catalog, **settings).double().eval()
    state = model.query(history_batch(model, [list(range(1, 31))]))
    learns = torch.autograd.grad(state.square().sum(), model.item_emb.weight)[0].any(1)
    assert learns.nonzero()[:, 0].tolist() == list(range(30 - 8 * span, 31))


def test_all_positions_give_the_gradient_of_all_prefixes() -> None:
    """Also with histories longer than max_len, whose later targets have windows of their own."""
    model, view = make(n_blocks=2), toy_view()
    loss_all, of_all = gradients(model, training_batch(model, view, samples="all"))
    loss_prefix, of_prefix = gradients(model, training_batch(model, view, samples="prefix"))
    assert loss_all == pytest.approx(loss_prefix, rel=1e-13)
    assert of_all.keys() == of_prefix.keys() == dict(model.named_parameters()).keys()
    for key, part in of_all.items():
        assert part.any(), key
        torch.testing.assert_close(part, of_prefix[key], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["nextitnet", "nextitnet:official-softmax"])
def test_cross_entropy_is_torchs_over_items_only(name: str) -> None:
    model = make(name)
    batch = training_batch(model, toy_view())
    expected = F.cross_entropy(model.score(batch), batch.target - 1)
    torch.testing.assert_close(model.loss(batch)["ce"], expected)


@pytest.mark.parametrize("share", [0.2, 0.01, 0.9])
def test_sampled_softmax_by_hand(share: float) -> None:
    model = make("nextitnet:official", sampled_share=share)
    batch = training_batch(model, toy_view())
    torch.manual_seed(3)
    loss = model.loss(batch)["sampled-ce"].item()
    torch.manual_seed(3)
    drawn = set((torch.randperm(30)[: max(int(share * 30), 1)] + 1).tolist())
    total = 0.0
    for scores, target in zip(model.score(batch).tolist(), batch.target.tolist(), strict=True):
        others = [math.exp(scores[item - 1]) for item in drawn - {target}]
        total += math.log(math.exp(scores[target - 1]) + sum(others)) - scores[target - 1]
    assert loss == pytest.approx(total / len(batch.target))


def test_bce_by_hand() -> None:
    model = make("nextitnet:bce")
    batch = training_batch(model, toy_view())
    assert model.loss(batch).keys() == {"bce"}
    torch.testing.assert_close(model.loss(batch)["bce"], loss_by_hand("bce", model.score(batch), batch))


def test_regulariser_is_the_sum_of_plain_norms() -> None:
    model = make(n_blocks=1, dilations=[2], reg_weight=0.5)
    block = model.encoder.blocks[0]
    weights = [model.item_emb.weight, model.out.weight, block.conv1.map.weight, block.conv2.map.weight]
    weights += [block.norm1.weight, block.norm2.weight]
    expected = 0.5 * sum(weight.square().sum().sqrt() for weight in weights)
    torch.testing.assert_close(model.loss(training_batch(model, toy_view()))["reg"], expected)
    assert "reg" not in make(reg_weight=0.0).loss(training_batch(model, toy_view()))


def test_initialisation() -> None:
    catalog = toy_catalog(n_items=2000)
    model = toy_model("nextitnet", catalog)
    assert not model.item_emb.weight[0].any()
    assert model.item_emb.weight.abs().max().item() == pytest.approx(2001**-0.5, rel=0.01)
    assert model.out.weight.std().item() == pytest.approx((1 / 64) ** 0.5, rel=0.05)
    assert (model.out.bias == torch.tensor(0.1)).all()
    assert len(model.encoder.blocks) == 10
    for name, std, bias in (("official", 0.01, 0.1), ("official-softmax", 0.0176, 0.0)):
        official = toy_model(f"nextitnet:{name}", catalog)
        conv = official.encoder.blocks[0].conv2.map
        assert not conv.bias.any()
        for weight in (official.item_emb.weight[1:], conv.weight):  # 0.88: a normal cut at two deviations
            assert weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.03)
            assert weight.abs().max() <= 0.04
        assert official.out_table.std().item() == pytest.approx(std, rel=0.03)
        assert (official.item_bias == torch.tensor(bias)).all()
        assert len(official.encoder.blocks) == 8


@EACH
def test_overfits_64_sequences(name: str) -> None:
    histories = random_fives()
    catalog = catalog_of(view_of(histories), n_items=64, features=False)
    model = toy_model(name, catalog, hidden_dim=32, n_blocks=1, loss="ce")
    assert learns_by_heart(model, histories, lr=1e-2, n_steps=400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dilations": []}, "at least one dilation"),
        ({"dilations": [1, 0]}, "dilations"),
        ({"block": "bottleneck", "hidden_dim": 9}, "halves hidden_dim, which is odd: 9"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toy_model("nextitnet", toy_catalog(), **settings)
