"""GRU4Rec: section "How to check it" of its specification."""

import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batcher import Batcher
from mmbench.data.samples import last_rows
from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.models.registry import find
from mmbench.nn.layers import dropout
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    learns_by_heart,
    random_fives,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

BOTH = pytest.mark.parametrize("name", ["gru4rec", "gru4rec:official"])
SMALL = {"emb_dim": 8, "hidden_dim": 8}


def candidate_loss(scores: Tensor, **settings: Any) -> Tensor:
    entry = find("gru4rec")
    return sys.modules[entry.load().__module__].candidate_loss(scores, **settings)


def states(model: Recommender[Any], history: list[int]) -> Tensor:
    """State after each event of one history, [length, H]."""
    with torch.no_grad():
        return model.encode(history_batch(model, [history]))[0]


@BOTH
@pytest.mark.parametrize("n_layers", [1, 2])
def test_causal(name: str, n_layers: int) -> None:
    model = toy_model(name, toy_catalog(), n_layers=n_layers).double().eval()
    base, changed = states(model, [4, 9, 2, 7, 5]), states(model, [4, 9, 2, 8, 5])
    torch.testing.assert_close(base[:3], changed[:3], rtol=0, atol=1e-14)
    assert (base[3:] - changed[3:]).abs().amax(1).gt(1e-8).all()


@BOTH
def test_padding_and_other_rows_do_not_matter(name: str) -> None:
    histories = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]
    view = view_of(histories)
    model = toy_model(name, toy_catalog(), n_layers=2).double().eval()
    rows = last_rows(view.offsets, torch.arange(4).numpy(), 8)
    alone = torch.cat([model.query(history_batch(model, [history])) for history in histories])
    for layout in ("padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=12).evaluation(rows)
        torch.testing.assert_close(model.query(batch), alone, rtol=0, atol=1e-12)


def test_the_gru_is_the_formula_without_biases() -> None:
    model = toy_model("gru4rec", toy_catalog(), **SMALL).double().eval()
    layer, history = model.gru[0], [4, 9, 2]
    assert [name for name, _ in layer.named_parameters()] == ["weight_ih_l0", "weight_hh_l0"]
    w_r, w_z, w_c = layer.weight_ih_l0.chunk(3)
    u_r, u_z, u_c = layer.weight_hh_l0.chunk(3)
    h = torch.zeros(8, dtype=torch.float64)
    for x in model.item_emb.weight[history]:
        r, z = torch.sigmoid(w_r @ x + u_r @ h), torch.sigmoid(w_z @ x + u_z @ h)
        h = (1 - z) * torch.tanh(w_c @ x + r * (u_c @ h)) + z * h
    expected = model.out.weight @ h + model.out.bias
    torch.testing.assert_close(model.query(history_batch(model, [history]))[0], expected)


@BOTH
def test_streaming_in_two_chunks_is_one_pass(name: str) -> None:
    model = toy_model(name, toy_catalog()).double().eval()
    whole = states(model, [4, 9, 2, 7, 5])
    x = model.item_emb.weight[[4, 9, 2, 7, 5]][None]
    first, carried = model.gru[0](x[:, :2])
    second, _ = model.gru[0](x[:, 2:], carried)
    torch.testing.assert_close(torch.cat([first, second], 1)[0], whole, rtol=0, atol=1e-14)


@BOTH
def test_all_positions_give_the_gradient_of_all_prefixes(name: str) -> None:
    model = toy_model(name, toy_catalog(), dropout=0.0, loss="ce", n_layers=2).double()
    view = toy_view()
    loss_all, of_all = gradients(model, training_batch(model, view, samples="all"))
    loss_prefix, of_prefix = gradients(model, training_batch(model, view, samples="prefix"))
    assert loss_all == pytest.approx(loss_prefix, rel=1e-13)
    assert of_all.keys() == of_prefix.keys() == dict(model.named_parameters()).keys()
    for key, part in of_all.items():
        assert part.any(), key
        torch.testing.assert_close(part, of_prefix[key], rtol=0, atol=1e-14)


def test_nothing_is_computed_for_padding() -> None:
    model = toy_model("gru4rec", toy_catalog()).double().eval()
    histories = [[4, 9, 2], [1], [3, 3, 8, 20]]
    batch = history_batch(model, histories)
    assert batch.item_seq.numel() == 12
    encoded, number = model.encode(batch)
    assert len(encoded) == 8
    for row, history in enumerate(histories):
        places = number.view(3, 4)[row, : len(history)]
        torch.testing.assert_close(encoded[places], states(model, history), rtol=0, atol=1e-14)


def test_dropout_acts_on_embeddings_only() -> None:
    model = toy_model("gru4rec", toy_catalog(), dropout=0.9)
    batch = history_batch(model, [[4]])
    torch.manual_seed(0)
    kept = dropout(model.item_emb(batch.item_seq), 0.9, training=True)
    torch.manual_seed(0)
    expected = model.out(model.gru[0](kept)[0][:, 0])
    torch.testing.assert_close(model.query(batch), expected)


def test_bpr_max_with_one_negative() -> None:
    scores = torch.tensor([[1.0, -0.5], [0.3, 2.0]]).double()
    own, other = scores.diagonal(), torch.stack([scores[0, 1], scores[1, 0]])
    expected = (-torch.sigmoid(own - other).log() + 0.7 * other.square()).mean()
    torch.testing.assert_close(candidate_loss(scores, kind="bpr-max", score_reg=0.7), expected)
    bent = candidate_loss(scores, kind="bpr-max", score_reg=0.7, elu_param=0.5)
    torch.testing.assert_close(
        bent, candidate_loss(F.elu(scores, 0.5), kind="bpr-max", score_reg=0.7), rtol=0, atol=0
    )
    assert bent != expected


def test_losses_against_their_sums() -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 7, dtype=torch.float64)
    actual = dict.fromkeys(("top1", "top1-max", "bpr-mean", "bpr-max", "sampled-ce"), 0.0)

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for i in range(3):
        own, others = scores[i, i].item(), [scores[i, j].item() for j in range(7) if j != i]
        norm = sum(map(math.exp, others))  # the softmax leaves the positive out
        share = [math.exp(r) / norm for r in others]
        actual["top1"] += sum(sigma(r - own) + sigma(r * r) for r in others) / 6 / 3
        actual["top1-max"] += (
            sum(s * (sigma(r - own) + sigma(r * r)) for s, r in zip(share, others, strict=True)) / 3
        )
        actual["bpr-mean"] -= sum(math.log(sigma(own - r)) for r in others) / 6 / 3
        likely = sum(s * sigma(own - r) for s, r in zip(share, others, strict=True))
        penalty = sum(s * r * r for s, r in zip(share, others, strict=True))
        actual["bpr-max"] += (-math.log(likely) + 0.3 * penalty) / 3
        actual["sampled-ce"] -= (own - math.log(norm + math.exp(own))) / 3
    for kind, expected in actual.items():
        assert candidate_loss(scores, kind=kind, score_reg=0.3).item() == pytest.approx(expected), kind


@pytest.mark.parametrize("kind", ["sampled-ce", "top1", "top1-max", "bpr-mean", "bpr-max"])
def test_gradients_of_the_losses_by_finite_differences(kind: str) -> None:
    """The weights of negatives, a softmax of their scores, have a gradient too."""
    scores = torch.randn(
        3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: candidate_loss(x, kind=kind, score_reg=0.3, elu_param=0.5), scores
    )


@pytest.mark.parametrize("kind", ["sampled-ce", "top1", "top1-max", "bpr-mean"])
def test_elu_belongs_to_bpr_max(kind: str) -> None:
    scores = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(candidate_loss(scores, kind=kind, elu_param=0.5), candidate_loss(scores, kind=kind))


@pytest.mark.parametrize("loss", ["top1", "top1-max", "bpr-mean", "bpr-max"])
def test_logq_belongs_to_the_sampled_cross_entropy(loss: str) -> None:
    values = []
    for use_logq in (False, True):
        model = toy_model("gru4rec:official", toy_catalog(), **SMALL, loss=loss, use_logq=use_logq)
        batch = training_batch(model, toy_view())
        torch.manual_seed(0)
        values.append(model.loss(batch)[loss])
    assert torch.equal(*values)


def test_bpr_max_has_the_regulariser_and_the_elu_of_the_settings() -> None:
    settings = {"loss": "bpr-max", "score_reg": 0.3, "elu_param": 0.7, "n_samples": 15}
    model = toy_model("gru4rec:official", toy_catalog(), **SMALL, **settings).double().eval()
    batch = training_batch(model, toy_view())
    torch.manual_seed(5)
    loss = model.loss(batch)["bpr-max"]
    torch.manual_seed(5)
    drawn = torch.multinomial(model.sample_prob, 15, replacement=True)
    scores = model.score(batch)[:, torch.cat([batch.target - 1, drawn])]
    expected = candidate_loss(scores, kind="bpr-max", score_reg=0.3, elu_param=0.7)
    torch.testing.assert_close(loss, expected)


def test_top1_max_of_equal_scores() -> None:
    expected = 0.5 + torch.sigmoid(torch.tensor(1.7**2)).item()
    assert candidate_loss(torch.full((4, 9), 1.7), kind="top1-max").item() == pytest.approx(expected)


def test_cross_entropy_with_all_items_as_candidates_is_the_full_softmax() -> None:
    """Each item drawn exactly once, seen by a single target: the batch's own column stands for its copy."""
    model = toy_model("gru4rec:official", toy_catalog(), **SMALL, dropout=0.0).double()
    query = model.query(history_batch(model, [[4, 9]]))
    target = torch.tensor([5])
    scores = query @ model.item_table().T
    others = torch.cat([scores[:, [4]], scores[:, :4], scores[:, 5:]], 1)
    full = toy_model("gru4rec:official", toy_catalog(), **SMALL, dropout=0.0, loss="ce").double()
    view = view_of([[4, 9, 5]])
    batch = training_batch(full, view, samples="prefix")
    last = type(batch)(**{**vars(batch), "slot": batch.slot[1:], "target": target, "user": batch.user[1:]})
    torch.testing.assert_close(candidate_loss(others, kind="sampled-ce"), full.loss(last)["ce"])


def test_candidates_are_drawn_by_popularity() -> None:
    histories = [[1, 2, 2, 2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 3]]  # counts 4, 9, 1 of 5 items
    catalog = catalog_of(view_of(histories), n_items=5, features=False)
    model = toy_model("gru4rec:official", catalog, **SMALL)
    torch.testing.assert_close(model.sample_prob, torch.tensor([2, 3, 1, 0, 0]).double() / 6)
    torch.testing.assert_close(model.target_prob, torch.tensor([4, 9, 1, 0, 0]).double() / 14)
    uniform = toy_model("gru4rec:official", catalog, **SMALL, sample_alpha=0.0)
    torch.testing.assert_close(uniform.sample_prob, torch.tensor([1, 1, 1, 0, 0]).double() / 3)


@pytest.mark.parametrize("use_logq", [False, True])
def test_sampled_loss_by_hand(use_logq: bool) -> None:
    view = toy_view()
    model = toy_model("gru4rec:official", toy_catalog(), **SMALL, n_samples=40, use_logq=use_logq).double()
    batch = training_batch(model, view)
    torch.manual_seed(5)
    loss = model.loss(batch)["sampled-ce"]
    torch.manual_seed(5)
    drawn = torch.multinomial(model.sample_prob, 40, replacement=True)
    candidates = torch.cat([batch.target - 1, drawn])
    scores = model.query(batch) @ model.item_table().T[:, candidates]
    if use_logq:
        probability = torch.cat([model.target_prob[batch.target - 1], model.sample_prob[drawn]])
        scores = scores - probability.log()
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.arange(len(scores))))


@pytest.mark.parametrize("loss", ["sampled-ce", "top1", "top1-max", "bpr-mean", "bpr-max"])
def test_official_losses_reach_every_parameter(loss: str) -> None:
    model = toy_model("gru4rec:official", toy_catalog(), **SMALL, loss=loss, elu_param=0.5)
    torch.manual_seed(0)
    value, actual = gradients(model, training_batch(model, toy_view()))
    assert math.isfinite(value)
    for key, parameter in model.named_parameters():
        assert actual[key].any(), key
        assert torch.isfinite(actual[key]).all()
        assert actual[key].shape == parameter.shape


def test_without_recurrence_only_the_last_item_counts() -> None:
    model = toy_model("gru4rec", toy_catalog(), **SMALL).double().eval()
    with torch.no_grad():
        model.item_emb.weight[1:].abs_()
        model.gru[0].weight_hh_l0.zero_()
        model.gru[0].weight_ih_l0[8:16].fill_(-1e6)  # z = 0: always take the candidate
    first, second = model.query(history_batch(model, [[4, 9, 2], [7, 7, 30, 1, 2]]))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-14)


@BOTH
def test_overfits_64_sequences(name: str) -> None:
    histories = random_fives()
    catalog = catalog_of(view_of(histories), n_items=64, features=False)
    model = toy_model(name, catalog, dropout=0.0, emb_dim=48, hidden_dim=48, loss="ce")
    assert learns_by_heart(model, histories, lr=1e-2, n_steps=400)


def test_first_item_of_ten_gets_a_gradient_smaller_than_the_last() -> None:
    model = toy_model("gru4rec", toy_catalog(max_len=10), dropout=0.0).double()
    query = model.query(history_batch(model, [list(range(1, 11))]))
    grad = torch.autograd.grad(query.sum(), model.item_emb.weight)[0].norm(dim=1)
    assert 0 < grad[1] < grad[10]
    assert not grad[11:].any()


def test_initialisation() -> None:
    model = toy_model("gru4rec", toy_catalog(n_items=2000))
    table = model.item_emb.weight
    assert not table[0].any()
    assert table[1:].std().item() == pytest.approx((2 / (2001 + 64)) ** 0.5, rel=0.02)
    for weight, columns in ((model.gru[0].weight_ih_l0, 64), (model.gru[0].weight_hh_l0, 128)):
        assert weight.abs().max().item() == pytest.approx((6 / (3 * 128 + columns)) ** 0.5, rel=0.01)
    official = toy_model("gru4rec:official", toy_catalog())
    for gate in official.gru[0].weight_hh_l0.chunk(3):
        assert gate.abs().max().item() == pytest.approx((6 / 200) ** 0.5, rel=0.02)
    assert not official.gru[0].bias_ih_l0.any()
    assert not official.item_bias.any()


def test_official_table_is_input_and_output() -> None:
    model = toy_model("gru4rec:official", toy_catalog()).eval()
    assert torch.equal(model.item_table()[:, :-1], model.item_emb.weight[1:])
    with torch.no_grad():
        before = model.score(history_batch(model, [[4]]))
        model.item_bias[6] += 2.5
        after = model.score(history_batch(model, [[4]]))
    expected = torch.zeros(1, 30).index_fill(1, torch.tensor([6]), 2.5)
    torch.testing.assert_close(after - before, expected)


def test_official_network_has_one_width() -> None:
    with pytest.raises(UsageError, match="emb_dim 64 must equal hidden_dim 100"):
        toy_model("gru4rec:official", toy_catalog(), emb_dim=64)
