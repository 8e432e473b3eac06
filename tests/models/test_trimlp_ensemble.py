"""TriMLP ensemble: section "How to check it" of its specification.

What both ensembles keep stands in test_sasrec_ensemble.py.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmbench.models.base import Catalog, Recommender
from mmbench.nn.mlp import shift
from tests.models.toy import history_batch, loss_by_hand, toy_catalog, toy_model, toy_view, training_batch

HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]


def make(name: str = "trimlp-ensemble", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """float64 in evaluation mode, kernels and heads moved off their starts."""
    model = toy_model(name, catalog or toy_catalog(), **{"hidden_dim": 6, **settings}).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "entries" in key or "head" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def test_one_linear_id_member_is_trimlp_to_the_last_bit() -> None:
    settings = {"hidden_dim": 24}
    single = toy_model("trimlp", toy_catalog(), **settings)
    ensemble = toy_model("trimlp-ensemble:linear", toy_catalog(), **settings, modalities=["id"])
    batch = training_batch(single, toy_view())
    losses = []
    for model in (ensemble, single):
        torch.manual_seed(5)  # dropout is on
        losses.append(model.loss(batch)["ce"])
    assert torch.equal(*losses)
    ensemble.eval()
    single.eval()
    histories = history_batch(single, HISTORIES)
    assert torch.equal(ensemble.query(histories), single.query(histories))
    assert torch.equal(ensemble.item_table(), single.item_table())


@pytest.mark.parametrize(("activation", "centre"), [("sigmoid", 0.5), ("relu", 0.0), ("identity", 0.0)])
def test_tied_score_by_hand(activation: str, centre: float) -> None:
    model = make(activation=activation)
    batch = history_batch(model, HISTORIES)
    for name, scores in model.member_scores(batch).items():
        member = model.members[name]
        table = member.items(torch.arange(31))
        state = member.mixer(table[batch.item_seq], batch.mask).flatten(0, 1)[batch.slot]
        turned = (state - centre) @ member.head.weight.T + member.head.bias
        torch.testing.assert_close(scores, turned @ table[1:].T)


def test_a_tied_head_starts_as_the_centred_state_and_small_ids() -> None:
    model = toy_model("trimlp-ensemble", toy_catalog(n_items=400), hidden_dim=24)
    for member in model.members.values():
        assert torch.equal(member.head.weight, torch.eye(24))
        assert not member.head.bias.any()
    ids = model.members["id"].items.weight
    assert ids[1:].std().item() == pytest.approx(0.02, rel=0.05)
    assert not ids[0].any()
    large = toy_model("trimlp-ensemble", toy_catalog(n_items=400), hidden_dim=24, id_std=1.0)
    assert large.members["id"].items.weight[1:].std().item() == pytest.approx(1.0, rel=0.05)
    before = ids.detach().clone()
    model.members["id"].restart()
    assert not torch.equal(ids, before)
    assert model.members["id"].items.weight[1:].std().item() == pytest.approx(0.02, rel=0.05)


def test_kernels_belong_to_one_member_each() -> None:
    kernels = [member.mixer.whole.entries for member in make().members.values()]
    assert len({kernel.data_ptr() for kernel in kernels}) == 3


def test_rolling_to_the_left_and_back() -> None:
    model = make("trimlp-ensemble:left-pad")
    batch = history_batch(model, HISTORIES)
    n_empty = (~batch.mask).sum(1)
    rolled = shift(batch.item_seq, n_empty)
    assert rolled[:, -1].tolist() == [2, 1, 2, 12]
    assert torch.equal(shift(rolled, -n_empty), batch.item_seq)
    assert torch.equal(shift(shift(batch.mask, n_empty), -n_empty).sum(1), batch.mask.sum(1))


def test_left_padding_by_hand() -> None:
    """A history laid at the end of a row by hand, zeroed before each kernel, has the model's states."""
    model = make("trimlp-ensemble:left-pad")
    member = model.members["text"]
    x = torch.zeros(8, 6, dtype=torch.float64)
    x[5:] = member.items(torch.tensor([4, 9, 2]))
    y = (member.mixer.whole.weights().T @ x).sigmoid()
    y[:5] = 0
    state = (member.mixer.local.weights().T @ y).sigmoid()[-1]
    model.members.alone = "text"
    expected = (state - 0.5) @ member.head.weight.T + member.head.bias
    torch.testing.assert_close(model.query(history_batch(model, [[4, 9, 2]]))[0, :-1], expected)


def test_silent_features_leave_the_ranking_to_the_ids() -> None:
    catalog = toy_catalog()
    assert catalog.text_feat is not None
    assert catalog.image_feat is not None
    silent = replace(
        catalog, text_feat=torch.zeros_like(catalog.text_feat), image_feat=torch.zeros_like(catalog.image_feat),
        has_text=torch.arange(31) > 0, has_image=torch.arange(31) > 0,
    )  # fmt: skip
    model = make(catalog=silent)  # the maps' biases are not zero
    batch = history_batch(model, HISTORIES)
    scores = model.member_scores(batch)
    for name in ("text", "image"):
        torch.testing.assert_close(scores[name], scores[name][:, :1].expand(-1, 30))
    assert torch.equal(model.score(batch).argsort(1), scores["id"].argsort(1))


@pytest.mark.parametrize("head", ["tied", "linear"])
def test_items_with_one_text(head: str) -> None:
    catalog = toy_catalog()
    assert catalog.text_feat is not None
    feat = catalog.text_feat.clone()
    feat[8] = feat[5]
    model = make(catalog=replace(catalog, text_feat=feat), head=head)
    scores = model.member_scores(history_batch(model, HISTORIES))["text"]
    assert torch.allclose(scores[:, 4], scores[:, 7], rtol=0, atol=1e-12) is (head == "tied")


@pytest.mark.parametrize("head", ["tied", "linear"])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_losses_are_of_the_sum_or_of_each(loss: str, head: str) -> None:
    model, apart = make(loss=loss, head=head), make(loss=loss, head=head, training="separate")
    batch = training_batch(model, toy_view())
    assert ("negatives" in batch.drawn) is (loss == "bce")
    members = model.member_scores(batch)
    torch.testing.assert_close(model.loss(batch)[loss], loss_by_hand(loss, sum(members.values()), batch))
    terms = apart.loss(batch)
    assert list(terms) == [f"{loss}_id", f"{loss}_text", f"{loss}_image"]
    for name, scores in members.items():
        torch.testing.assert_close(terms[f"{loss}_{name}"], loss_by_hand(loss, scores, batch))


def test_a_dead_output_bias_is_no_part_of_tied_scores() -> None:
    model = make()
    assert not model.item_table()[:, -1].any()
    linear = make("trimlp-ensemble:linear")
    biases = sum(member.head.bias for member in linear.members.values())
    torch.testing.assert_close(linear.item_table()[:, -1], biases)
