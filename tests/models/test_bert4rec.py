"""BERT4Rec: section "How to check it" of its specification."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import last_rows, plan_rows
from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.models.registry import find
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    learns_by_heart,
    random_fives,
    toy_batcher,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)


def draw_mask(batch: Batch, **settings: float) -> Tensor:
    entry = find("bert4rec")
    return sys.modules[entry.load().__module__].draw_mask(batch, **settings)


def masked_logits(model: Recommender[Any], history: list[int], hidden: list[int]) -> Tensor:
    """Logits at the hidden places of one training history, [len(hidden), N]."""
    view = view_of([history])
    batch = toy_batcher(model, view).training(plan_rows(view.offsets, "sequence", model.max_len))
    masked = torch.zeros_like(batch.mask)
    masked[0, hidden] = True
    with torch.no_grad():
        state = model.head(model.encode(batch, masked)[masked])
        return state @ model.item_emb.weight[1:-1].T + model.item_bias


def test_a_hidden_item_is_not_seen() -> None:
    model = toy_model("bert4rec", toy_catalog()).double().eval()
    first = masked_logits(model, [4, 9, 2, 7, 5], [1, 3])
    second = masked_logits(model, [4, 30, 2, 1, 5], [1, 3])
    assert torch.equal(first, second)


def test_a_later_item_is_seen() -> None:
    model = toy_model("bert4rec", toy_catalog()).double().eval()
    first, second = masked_logits(model, [4, 9, 2, 7, 5], [1]), masked_logits(model, [4, 9, 2, 7, 6], [1])
    assert (first - second).abs().max() > 1e-6


def test_padding_and_neighbours_do_not_matter() -> None:
    histories = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7], [11, 12]]
    model = toy_model("bert4rec", toy_catalog()).double().eval()
    alone = torch.cat([model.query(history_batch(model, [history])) for history in histories])
    torch.testing.assert_close(model.query(history_batch(model, histories)), alone, rtol=0, atol=1e-12)
    view = view_of(histories)
    rows = last_rows(view.offsets, torch.arange(4).numpy(), 7)
    for layout in ("padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=8).evaluation(rows, slots_after=1)
        torch.testing.assert_close(model.query(batch), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", [0.2, 0.6])
def test_mask_statistics(rho: float) -> None:
    view = view_of([list(range(1, 31))] * 40 + [[1], [2, 3]] * 20)
    rows = plan_rows(view.offsets, "sequence", 30)
    batch = Batcher(view.items, view.times, layout="packed", max_len=30).training(rows)
    place = batch.mask.nonzero()
    history = (batch.position[batch.mask] == 0).cumsum(0) - 1
    length = torch.bincount(history)
    total, rounds = torch.zeros(80), 200
    torch.manual_seed(0)
    for _ in range(rounds):
        mask = draw_mask(batch, mask_ratio=rho, last_only=0.0)
        assert not (mask & (batch.item_seq == 0)).any()
        count = torch.bincount(history, weights=mask[batch.mask].float())
        assert count.min() >= 1
        total += count
    assert len(place) == int(length.sum())
    rate = total / rounds / length
    n = 40 * 30 * rounds
    long = rate[length == 30].mean().item()
    forced = (1 - rho) ** 30 / 30  # one of 30 in a history that would have got none
    assert long == pytest.approx(rho + forced, abs=4 * (rho * (1 - rho) / n) ** 0.5)
    assert rate[length == 1].eq(1).all()
    two = rho + (1 - rho) ** 2 / 2  # short histories: the forced one is either place
    assert rate[length == 2].mean().item() == pytest.approx(two, abs=4 * (0.25 / (20 * rounds)) ** 0.5)


def test_last_only_share() -> None:
    view = view_of([list(range(1, 21))] * 500)
    rows = plan_rows(view.offsets, "sequence", 20)
    batch = Batcher(view.items, view.times, layout="packed", max_len=20).training(rows)
    torch.manual_seed(0)
    everything = draw_mask(batch, mask_ratio=0.5, last_only=1.0)
    assert torch.equal(everything, batch.mask & (batch.position == 19))
    some = draw_mask(batch, mask_ratio=0.9, last_only=0.3)[batch.mask].view(500, 20)
    only_last = some[:, -1] & (some.sum(1) == 1)
    assert only_last.float().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 500) ** 0.5)


def test_last_only_finds_the_end_in_every_layout() -> None:
    view = toy_view()
    rows = plan_rows(view.offsets, "sequence", 8)
    for layout in ("packed", "padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=8).training(rows)
        mask = draw_mask(batch, mask_ratio=0.0, last_only=1.0)
        actual = sorted(batch.item_seq[mask].tolist())
        assert actual == sorted(view.items[view.offsets[1:] - 1].tolist())


def test_forced_place_is_uniform() -> None:
    view = view_of([[1, 2, 3, 4]] * 4000)
    rows = plan_rows(view.offsets, "sequence", 4)
    batch = Batcher(view.items, view.times, layout="packed", max_len=4).training(rows)
    torch.manual_seed(0)
    mask = draw_mask(batch, mask_ratio=0.0, last_only=0.0)
    share = torch.bincount(batch.position[mask], minlength=4) / 4000
    assert share.sum() == 1
    assert share.sub(0.25).abs().max() < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_loss_is_the_mean_over_masked_places_and_labels_are_items() -> None:
    model = toy_model("bert4rec", toy_catalog(), dropout=0.0, attn_dropout=0.0).double()
    batch = training_batch(model, toy_view())
    torch.manual_seed(3)
    loss = model.loss(batch)["ce"]
    torch.manual_seed(3)
    mask = draw_mask(batch, mask_ratio=model.config.mask_ratio, last_only=model.config.last_only)
    label = batch.item_seq[mask]
    assert label.min() >= 1
    assert label.max() <= 30
    logits = model.head(model.encode(batch, mask)[mask]) @ model.item_emb.weight[1:-1].T + model.item_bias
    torch.testing.assert_close(loss, F.cross_entropy(logits, label - 1))
    torch.manual_seed(4)
    assert model.loss(batch)["ce"] != loss


@pytest.mark.parametrize("length", [1, 2, 5, 7])
def test_every_item_of_the_history_counts(length: int) -> None:
    model = toy_model("bert4rec", toy_catalog()).double().eval()
    history = list(range(2, 2 + length))
    batch = history_batch(model, [history])
    assert batch.position.flatten()[batch.slot].item() == length
    grad = torch.autograd.grad(model.query(batch)[:, :-1].pow(3).sum(), model.item_emb.weight)[0].norm(dim=1)
    assert grad[history].gt(1e-8).all()
    assert grad[31] > 1e-8, "the [MASK] vector"
    assert not grad[0]
    assert not grad[2 + length : 31].any()


def test_a_full_window_loses_its_oldest_item() -> None:
    model = toy_model("bert4rec", toy_catalog()).double().eval()
    long, cut = history_batch(model, [list(range(1, 9))]), history_batch(model, [list(range(2, 9))])
    assert torch.equal(model.query(long), model.query(cut))
    assert long.position.max() == 7


def test_scores_are_dot_products_with_the_bias_of_items_only() -> None:
    model = toy_model("bert4rec", toy_catalog()).double().eval()
    with torch.no_grad():
        model.item_bias.normal_()
        batch = history_batch(model, [[4, 9], [2]])
        hidden = model.head(batch.at_slots(model.encode(batch, batch.mask & (batch.item_seq == 0))))
        expected = hidden @ model.item_emb.weight[1:31].T + model.item_bias
        torch.testing.assert_close(model.score(batch), expected)
    assert model.score(batch).shape == (2, 30)


def test_input_and_head_written_out() -> None:
    """LN(E[s] + P) before the layers, LN(GELU(h W_p + b_p)) after them."""
    model = toy_model("bert4rec", toy_catalog(), hidden_dim=12, inner_dim=20).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)

    def norm(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * layer.weight + layer.bias

    with torch.no_grad():
        items = torch.tensor([4, 9, 2, 31])  # 31 = [MASK]
        x = norm(model.item_emb.weight[items] + model.position_emb.weight[:4], model.norm)
        hidden = model.encoder(x[None], torch.ones(1, 4, 4, dtype=torch.bool))[0, 3]
        mapped = model.head_map.weight @ hidden + model.head_map.bias
        gelu = mapped * (1 + torch.erf(mapped / 2**0.5)) / 2
        state = model.query(history_batch(model, [[4, 9, 2]]))[0, :-1]
        torch.testing.assert_close(state, norm(gelu, model.head_norm), rtol=0, atol=1e-12)


def test_every_parameter_gets_a_gradient_and_the_padding_row_none() -> None:
    model = toy_model("bert4rec", toy_catalog(), dropout=0.0, attn_dropout=0.0)
    torch.manual_seed(0)
    _, actual = gradients(model, training_batch(model, toy_view()))
    assert actual.keys() == dict(model.named_parameters()).keys()
    for key, grad in actual.items():
        assert grad.any(), key
    assert not actual["item_emb.weight"][0].any()
    assert actual["item_emb.weight"][31].any()
    assert actual["item_bias"].all()


def test_overfits_64_users_by_their_last_item() -> None:
    histories = random_fives()
    catalog = catalog_of(view_of(histories), n_items=64, features=False)
    model = toy_model(
        "bert4rec", catalog, dropout=0.0, attn_dropout=0.0, last_only=1.0, hidden_dim=32, inner_dim=64
    )
    assert learns_by_heart(model, histories, lr=3e-3, n_steps=600)


def test_initialisation() -> None:
    model = toy_model("bert4rec", toy_catalog(n_items=400))
    weight = model.item_emb.weight
    assert not weight[0].any()
    assert weight.abs().max() <= 0.04
    assert weight[1:].std().item() == pytest.approx(
        0.02 * 0.7737**0.5, rel=0.03
    )  # variance cut at 2 deviations
    assert not model.item_bias.any()


def test_needs_room_for_the_mask() -> None:
    with pytest.raises(ValueError, match="max_len 1 leaves no room"):
        toy_model("bert4rec", toy_catalog(max_len=1))
    with pytest.raises(UsageError, match="not divisible by n_heads 5"):
        toy_model("bert4rec", toy_catalog(), n_heads=5)
