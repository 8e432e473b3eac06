"""FREEDOM: properties of its graphs, its limits, its training; numbers and loops are in test_freedom.py."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.nn.neighbours import nearest_by_cosine
from mmbench.settings.config import TrainConfig
from mmbench.training.stack import fit_together
from mmbench.training.trainer import Trainer
from tests.models.make_freedom import WHOLE, exact_model, official_model, with_double_features
from tests.models.planted import finds_taste, planted_shop, trained
from tests.models.toy import (
    MAX_LEN,
    all_scores,
    catalog_of,
    gradients,
    set_weights,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.scorers import state_of
from tests.toy_training import KillAt, KilledError, same


def item_matrix(model: Recommender[Any]) -> Tensor:
    """Return S, [N, N]."""
    graph = model.item_graph
    matrix = torch.zeros(model.n_items, model.n_items, dtype=graph.weight.dtype)
    return matrix.index_put((graph.target, graph.source), graph.weight, accumulate=True)


def user_matrix(graph: Any) -> Tensor:
    """Return an adjacency, [U + N, U + N]."""
    matrix = torch.zeros(graph.n_targets, graph.n_sources, dtype=graph.weight.dtype)
    return matrix.index_put((graph.target, graph.source), graph.weight, accumulate=True)


# -- the item graph ------------------------------------------------------------------------------------------------


def test_rows_of_the_item_graph() -> None:
    """Every weight is a share of 1/k, every row sums to 1, and the item itself is among its neighbours."""
    catalog = with_double_features(toy_catalog())
    for modality, missing in (("text", {3, 7}), ("image", {3, 11, 12})):
        model = exact_model(catalog, modalities=[modality], n_neighbours=4)
        matrix = item_matrix(model)
        torch.testing.assert_close(matrix.sum(1), torch.ones(30, dtype=torch.float64), rtol=1e-6, atol=0)
        for item in range(1, 31):
            row = matrix[item - 1]
            values = row[row > 0]
            expected = [1.0] if item in missing else [0.25] * 4
            torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
            assert row[item - 1] > 0
            assert item in missing or not row[[other - 1 for other in missing]].any()
    both = item_matrix(exact_model(catalog, n_neighbours=4, image_share=0.3))
    torch.testing.assert_close(both.sum(1), torch.ones(30, dtype=torch.float64), rtol=1e-6, atol=0)
    assert both[2, 2] == 1.0  # item 3 has neither
    assert both[6, 6].item() == pytest.approx(0.25, rel=1e-6)  # item 7 has a picture only


def test_a_missing_feature_changes_no_other_items_neighbours() -> None:
    catalog = with_double_features(toy_catalog())
    feat, has = catalog.image_feat.clone(), catalog.has_image.clone()
    before = item_matrix(exact_model(catalog, modalities=["image"], n_neighbours=30))
    feat[20], has[20] = 0.0, False
    after = item_matrix(
        exact_model(replace(catalog, image_feat=feat, has_image=has), modalities=["image"], n_neighbours=30)
    )
    others = [k for k in range(30) if k != 19]
    assert torch.equal(before[others][:, others] > 0, after[others][:, others] > 0)
    assert not after[others, 19].any()
    # More neighbours than items that have pictures: all of them.
    assert (after[0] > 0).sum() == has.sum()


def test_the_share_of_pictures() -> None:
    catalog = with_double_features(toy_catalog())
    image, text = (item_matrix(exact_model(catalog, modalities=[name])) for name in ("image", "text"))
    mixed = item_matrix(exact_model(catalog, image_share=0.3))
    everywhere = (catalog.has_image & catalog.has_text)[1:]
    torch.testing.assert_close(mixed[everywhere], (0.3 * image + 0.7 * text)[everywhere])
    texts_only = item_matrix(exact_model(catalog, image_share=0.0))
    torch.testing.assert_close(texts_only[catalog.has_text[1:]], text[catalog.has_text[1:]])
    torch.testing.assert_close(texts_only[6], image[6])  # item 7 has no text: its pictures count in full


def test_nearest_items_come_in_blocks_with_ties_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    feat = torch.randint(0, 2, (40, 4), generator=generator).double()  # many equal rows
    feat[0] = 0.0
    present = feat.any(1)
    expected = {}
    for item in present.nonzero()[:, 0].tolist():
        cosine = torch.cosine_similarity(feat[item], feat, dim=1).round(decimals=9)
        others = [j for j in present.nonzero()[:, 0].tolist() if j != item]
        others.sort(key=lambda j: (-cosine[j].item(), j))
        expected[item] = {item, *others[:4]}
    for block in (1, 7, 256):
        monkeypatch.setattr("mmbench.nn.neighbours.NEAREST_BLOCK", block)
        items, near = nearest_by_cosine(feat, present, 5)
        sizes = [len(set(row.tolist())) for row in near]
        assert sizes == [5] * len(items)
        for item, row in zip(items.tolist(), near.tolist(), strict=True):
            cosine = torch.cosine_similarity(feat[item], feat, dim=1)
            lowest = min(cosine[j].item() for j in row)
            assert item in row
            left_out = [j for j in expected[item] if j not in row]
            assert all(abs(cosine[j].item() - lowest) < 1e-9 for j in left_out)  # equal but for a last bit


# -- the user-item graph -------------------------------------------------------------------------------------------


def test_the_whole_graph_is_normalised_and_symmetric() -> None:
    view = toy_view()
    model = exact_model(with_double_features(toy_catalog()))
    matrix = user_matrix(model.full)
    assert torch.equal(matrix, matrix.T)
    pairs = set(zip(view.users.tolist(), view.items.tolist(), strict=True))
    assert (matrix > 0).sum() == 2 * len(pairs)
    degree = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
    for user, item in pairs:
        expected = (degree[0][user] * degree[1][item]) ** -0.5
        assert matrix[user, 20 + item - 1].item() == pytest.approx(expected, rel=1e-6)
    largest = torch.linalg.eigvalsh(matrix).abs().max().item()
    assert largest == pytest.approx(1.0, abs=1e-6)


def test_repeated_events_are_one_edge() -> None:
    once, thrice = (catalog_of(view_of([h, [2]]), n_items=3) for h in ([1, 2], [1, 2, 1, 1, 2]))
    first, second = (user_matrix(toy_model("freedom", catalog, **WHOLE).full) for catalog in (once, thrice))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("n_pairs", "rho", "n_kept"), [(10, 0.8, 1), (1000, 0.9, 99), (160, 0.5, 80)])
def test_how_many_edges_are_kept(n_pairs: int, rho: float, n_kept: int) -> None:
    """int() of the float64 product, as the official code: 10 and .8 keep 1, not 2."""
    histories = np.arange(n_pairs).reshape(10, -1) + 1
    catalog = catalog_of(view_of(histories.tolist()), n_items=n_pairs)
    model = toy_model("freedom", catalog, edge_dropout=rho, use_item_graph=False)
    for epoch in range(3):
        edges = model.pruned
        assert len(edges.source) == 2 * n_kept
        pairs = {
            (min(s, t), max(s, t)) for s, t in zip(edges.source.tolist(), edges.target.tolist(), strict=True)
        }
        assert len(pairs) == n_kept
        assert all(histories[user, (item - 10) % histories.shape[1]] == item - 9 for user, item in pairs)
        degree = edges.degree[edges.target]
        weight = (degree * edges.degree[edges.source]).double().rsqrt()
        torch.testing.assert_close(edges.weight.double(), weight, rtol=1e-5, atol=0)  # degrees of kept edges
        model.start_epoch(epoch)


def test_edges_of_rare_nodes_are_kept_more_often() -> None:
    """Of two drawn from six, how often each pair is kept, against the sum over all orders of drawing."""
    model = official_model(edge_dropout=0.6)
    p = (model.log_odds.exp() / model.log_odds.exp().sum()).tolist()
    expected = [p[k] + sum(p[j] * p[k] / (1 - p[j]) for j in range(6) if j != k) for k in range(6)]
    torch.manual_seed(0)
    count = torch.zeros(6)
    for _ in range(4000):
        count[model._prune()] += 1
    deviation = (4000 * torch.tensor(expected) * (1 - torch.tensor(expected))) ** 0.5
    assert ((count - 4000 * torch.tensor(expected)).abs() < 4.5 * deviation).all()
    assert count[0] > 1.3 * count[2]


def test_each_epoch_draws_anew_and_ranks_on_the_whole_graph() -> None:
    model = toy_model("freedom", toy_catalog())
    before, scores = set(model._prune().tolist()), all_scores(model, 20)
    drawn = set()
    for epoch in range(1, 6):
        model.start_epoch(epoch)
        drawn.add(tuple(model.pruned.source.tolist()))
    assert len(drawn) == 5
    assert before
    assert torch.equal(all_scores(model, 20), scores)


def test_without_pruning_training_sees_the_whole_graph() -> None:
    whole = exact_model(with_double_features(toy_catalog()), **WHOLE)
    pruned = exact_model(with_double_features(toy_catalog()), edge_dropout=0.8)
    batch = training_batch(whole, toy_view())
    loss = whole.loss(batch)["bpr"]
    assert pruned.loss(batch)["bpr"] != loss
    whole.start_epoch(1)
    assert whole.loss(batch)["bpr"] == loss
    user, items = whole.query(batch), whole.item_table()
    scores = user @ items.T
    own, other = scores.gather(1, batch.target[:, None] - 1), scores.gather(1, batch.negatives - 1)
    torch.testing.assert_close(loss, -(own - other).sigmoid().log().mean())


# -- limits of the model -------------------------------------------------------------------------------------------


def test_without_graphs_it_is_bpr_mf() -> None:
    settings = {"hidden_dim": 6, "auxiliary_weight": 0.0, **WHOLE}
    model = exact_model(with_double_features(toy_catalog()), n_layers=0, use_item_graph=False, **settings)
    plain = toy_model("bpr-mf", toy_catalog(), hidden_dim=6, use_bias=False).double()
    set_weights(plain, {"user_emb.weight": model.user_emb.weight})
    with torch.no_grad():
        plain.item_emb.weight[1:] = model.item_emb.weight
    torch.testing.assert_close(all_scores(model, 20), all_scores(plain, 20))
    batch = training_batch(model, toy_view())
    (loss, grads), (expected, plain_grads) = gradients(model, batch), gradients(plain, batch)
    assert loss == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(grads["user_emb.weight"], plain_grads["user_emb.weight"])
    torch.testing.assert_close(grads["item_emb.weight"], plain_grads["item_emb.weight"][1:])


def test_without_the_item_graph_it_is_light_gcn() -> None:
    model = exact_model(with_double_features(toy_catalog()), use_item_graph=False, n_layers=3, **WHOLE)
    matrix = user_matrix(model.full)
    x = torch.cat([model.user_emb.weight, model.item_emb.weight]).detach()
    mean = sum(torch.linalg.matrix_power(matrix, k) @ x for k in range(4)) / 4
    torch.testing.assert_close(all_scores(model, 20), mean[:20] @ mean[20:].T)


def test_the_auxiliary_loss_moves_no_score_by_itself() -> None:
    model = exact_model(with_double_features(toy_catalog()))
    before = all_scores(model, 20)
    with torch.no_grad():
        for linear in model.maps.values():
            linear.weight.mul_(-3)
    assert torch.equal(all_scores(model, 20), before)
    _, grads = gradients(model, training_batch(model, toy_view()))
    assert all(grads[f"maps.{name}.weight"].any() for name in ("text", "image"))
    assert not hasattr(exact_model(with_double_features(toy_catalog()), auxiliary_weight=0.0), "maps")


@pytest.mark.parametrize("modality", ["text", "image"])
def test_the_auxiliary_loss_teaches_users_and_through_the_graph_items(modality: str) -> None:
    """One step along a term's gradient in the users' or the items' vectors alone makes that term smaller."""
    model = exact_model(with_double_features(toy_catalog()), edge_dropout=0.4)
    batch = training_batch(model, toy_view())
    term = model.loss(batch)[modality]
    tables = (model.user_emb.weight, model.item_emb.weight)
    for table, grad in zip(tables, torch.autograd.grad(term, tables), strict=True):
        step = 1e-4 / grad.norm().item()
        with torch.no_grad():
            table -= step * grad
            fall = (term - model.loss(batch)[modality]).item()
            table += step * grad
        assert fall == pytest.approx(step * grad.square().sum().item(), rel=1e-2)


def test_trained_features_are_a_copy_that_the_graph_does_not_follow() -> None:
    catalog = toy_catalog()
    model = toy_model("freedom", catalog, train_features=True)
    frozen = toy_model("freedom", catalog)
    assert {"text_feat", "image_feat"} < {name for name, _ in model.named_parameters()}
    _, grads = gradients(model, training_batch(model, toy_view()))
    assert grads["image_feat"].any()
    raw, graph = catalog.image_feat.clone(), item_matrix(model)
    with torch.no_grad():
        model.image_feat.add_(1.0)
    assert torch.equal(catalog.image_feat, raw)
    assert torch.equal(item_matrix(model), graph)
    assert "image_feat" not in frozen.state_dict()


def test_nothing_is_dropped_but_edges() -> None:
    model = exact_model(with_double_features(toy_catalog()), **WHOLE)
    batch = training_batch(model, toy_view())
    for term, value in model.train().loss(batch).items():
        torch.testing.assert_close(model.eval().loss(batch)[term], value)


def test_initial_weights_and_users_without_events() -> None:
    model = toy_model("freedom", toy_catalog(n_items=300, n_users=200), hidden_dim=64)
    for table, rows in ((model.user_emb, 200), (model.item_emb, 300)):
        bound = (6 / (rows + 64)) ** 0.5
        assert table.weight.shape == (rows, 64)
        assert table.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    for name, width in (("text", 12), ("image", 8)):  # torch's maps
        largest = model.maps[name].weight.abs().max().item()
        assert 0.95 * width**-0.5 < largest <= width**-0.5
    absent = toy_model("freedom", catalog_of(view_of([[1, 2], [], [3]]), n_items=5))
    assert absent.user_emb.weight.any(1).tolist() == [True, False, True]


def test_settings_and_data_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="must name text, image, or both"):
        toy_model("freedom", toy_catalog(), modalities=[])
    with pytest.raises(ValueError, match="reads text and image features, and the data set has none"):
        toy_model("freedom", toy_catalog(features=False))
    only_texts = replace(toy_catalog(), image_feat=None, has_image=None)
    model = exact_model(only_texts)
    alone = exact_model(toy_catalog(), modalities=["text"])
    assert torch.equal(item_matrix(model), item_matrix(alone))
    assert list(model.maps) == ["text"]


# -- in the engine -------------------------------------------------------------------------------------------------


CONFIG = TrainConfig(
    max_len=MAX_LEN, batch_size=16, max_epochs=4, patience=50, lr=0.01, precision="float64", adam_eps=1e-4
)


def trainer_of(folder: Path, *, seed: int = 1) -> Trainer:
    folder.mkdir(parents=True)
    model = toy_model("freedom", toy_catalog(), seed=seed, hidden_dim=8, edge_dropout=0.5).double()
    return Trainer(model, toy_view(), lambda _: 0.0, CONFIG, seed=seed, folder=folder)


def test_a_killed_run_draws_the_graphs_of_a_whole_one(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path / "whole")
    whole.fit()
    killed = trainer_of(tmp_path / "killed")
    KillAt(killed, "_save", 3)
    with pytest.raises(KilledError):
        killed.fit()
    last = Trainer(
        trainer_of(tmp_path / "fresh").model,
        toy_view(),
        lambda _: 0.0,
        CONFIG,
        seed=1,
        folder=tmp_path / "killed",
    )
    torch.manual_seed(99)
    last.fit()
    assert same(state_of(last.model), state_of(whole.model))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_each_seed_of_a_stack_has_its_own_pruned_graphs(tmp_path: Path) -> None:
    alone = [trainer_of(tmp_path / "alone" / str(seed), seed=seed) for seed in (1, 2, 3)]
    for trainer in alone:
        trainer.fit()
    stacked = [trainer_of(tmp_path / "stack" / str(seed), seed=seed) for seed in (1, 2, 3)]
    assert dict(fit_together(stacked, size=3)) == dict.fromkeys(range(3))
    assert not any(trainer.progress.notes for trainer in stacked)
    for scores, other in zip(alone, stacked, strict=True):
        assert not torch.equal(
            scores.model.pruned.source, alone[(alone.index(scores) + 1) % 3].model.pruned.source
        )
        for name, value in state_of(scores.model).items():
            torch.testing.assert_close(state_of(other.model)[name], value, rtol=1e-6, atol=1e-9)


def test_finds_brands_of_never_bought_items() -> None:
    """Measured: style .70 at a share of .1, .95 at one half; brand 1.0; features of other items: .55 and .34."""
    shop = planted_shop()
    model = trained("freedom", shop, hidden_dim=16)
    assert finds_taste(model, shop, "brand") > 0.9
    assert finds_taste(model, shop, "style") > 0.6
    half = trained("freedom", shop, hidden_dim=16, image_share=0.5)
    assert finds_taste(half, shop, "style") > 0.85
    blind = trained("freedom", shop, hidden_dim=16, use_item_graph=False, auxiliary_weight=0.0)
    assert finds_taste(blind, shop, "brand") < 0.65
