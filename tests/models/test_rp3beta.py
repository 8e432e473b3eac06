"""RP3beta and P3alpha: section "How to check it" of their specification, and an oracle in plain loops."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.nn import neighbours
from tests.models.toy import catalog_of, history_batch, toy_catalog, toy_model, toy_view, view_of

SMALL = [[1, 2, 3], [1, 2], [1, 4], [1, 2, 4, 5], [3, 5], [2], [1]]  # of six items, the last one cold
HISTORY = [1, 3, 1]
Matrix = list[list[float]]  # [source][target], ids from 1; row and column 0 are empty


def walk_by_hand(
    histories: Sequence[Sequence[int]],
    n_items: int,
    *,
    alpha: float,
    beta: float,
    alpha_source: float | None = None,
    values: str = "binary",
) -> Matrix:
    """W with its diagonal, one user after the other, as the specification prints it."""
    counts = [Counter(history) for history in histories]
    n_users = [sum(item in count for count in counts) for item in range(n_items + 1)]
    walk = [[0.0] * (n_items + 1) for _ in range(n_items + 1)]
    for count in counts:
        total = sum(count.values()) if values == "count" else len(count)
        for i in count:
            for j in count:
                step = (count[j] if values == "count" else 1) / total
                start = (1 / n_users[i]) ** (alpha if alpha_source is None else alpha_source)
                walk[i][j] += start * step**alpha / n_users[j] ** beta
    return walk


def prune_by_hand(walk: Matrix, k: int, *, by: str, normalise: bool) -> Matrix:
    """Without the diagonal, the k largest of each row (or column); of equal ones the smaller id."""
    size = len(walk)
    kept = [[0.0] * size for _ in range(size)]
    for number in range(size):
        others = [other for other in range(size) if other != number]
        pairs = [(number, other) if by == "source" else (other, number) for other in others]
        ranked = sorted(pairs, key=lambda pair: (-walk[pair[0]][pair[1]], pair))
        for i, j in ranked[:k]:
            kept[i][j] = walk[i][j]
    if normalise:
        kept = [[value / sum(row) if sum(row) else 0.0 for value in row] for row in kept]
    return kept


def score_by_hand(walk: Matrix, history: Sequence[int], *, decay: float) -> list[float]:
    total = [0.0] * len(walk)
    for age, item in enumerate(reversed(history)):
        for j, value in enumerate(walk[item]):
            total[j] += decay**age * value
    return total[1:]


def weights_of(model: Any) -> Tensor:
    """The pruned weights as a dense matrix [N, N], row = source."""
    table = model.neighbours
    source = torch.repeat_interleave(torch.arange(table.n_items + 1), table.offsets.diff())
    dense = torch.zeros(table.n_items + 1, table.n_items + 1, dtype=torch.float64)
    dense[source, table.targets] = table.values.double()
    return dense[1:, 1:]


def unpruned(model: Any, catalog: Any) -> Tensor:
    """W in float64 with its diagonal, [N, N]; row = source when the model prunes by source."""
    return model.walk(catalog)(torch.arange(1, catalog.n_items + 1))[:, 1:]


def small_model(**settings: Any) -> Any:
    return toy_model("rp3beta", catalog_of(view_of(SMALL), n_items=6, features=False), **settings)


def test_hand_example() -> None:
    catalog = catalog_of(view_of([[1, 2], [1, 2, 3], [3]]), n_items=3, features=False)
    walk = unpruned(toy_model("rp3beta", catalog, alpha=1.0, beta=0.0), catalog)
    assert walk[0, 1].item() == pytest.approx(5 / 12, abs=1e-12)
    assert walk[0, 2].item() == pytest.approx(1 / 6, abs=1e-12)
    assert walk[2, 0].item() == pytest.approx(1 / 6, abs=1e-12)
    reranked = unpruned(toy_model("rp3beta", catalog, alpha=1.0, beta=1.0), catalog)
    assert reranked[0, 1].item() == pytest.approx(5 / 24, abs=1e-12)


def test_numbers_of_the_specification() -> None:
    printed = {
        (1, 2): 0.5265057275, (2, 1): 0.5505352133, (1, 4): 0.4384819181, (4, 1): 0.5266713456,
        (3, 5): 0.4061261982, (5, 3): 0.4061261982,
    }  # fmt: skip
    catalog = catalog_of(view_of(SMALL), n_items=6, features=False)
    walk = unpruned(small_model(alpha=0.5, beta=0.3), catalog)
    for (source, target), value in printed.items():
        assert walk[source - 1, target - 1].item() == pytest.approx(value, abs=6e-11)


@pytest.mark.parametrize(
    ("settings", "printed"),
    [
        ({}, [0.1259515098, 0.7928038716, 0.2621533337, 0.5481023976, 0.4300945457, 0]),
        ({"k": 2}, [0, 0.7928038716, 0, 0.5481023976, 0.2030630991, 0]),
        ({"k": 2, "normalise": True}, [0, 0.8813859043, 0, 0.5679890308, 0.3006250648, 0]),
    ],
    ids=str,
)
def test_scores_of_the_specification(settings: dict[str, Any], printed: list[float]) -> None:
    """The ten digits are those of the formula; the model adds float32 weights."""
    model = small_model(alpha=0.5, beta=0.3, decay=0.5, **settings)
    scores = model.score(history_batch(model, [HISTORY]))[0]
    assert scores.tolist() == pytest.approx(printed, abs=3e-8)
    walk = walk_by_hand(SMALL, 6, alpha=0.5, beta=0.3)
    kept = prune_by_hand(walk, settings.get("k", 5), by="source", normalise=settings.get("normalise", False))
    assert score_by_hand(kept, HISTORY, decay=0.5) == pytest.approx(printed, abs=6e-11)


@pytest.mark.parametrize("prune", ["source", "target"])
@pytest.mark.parametrize(
    "setting",
    [
        {"alpha": 0.0, "beta": 0.0},
        {"alpha": 0.7, "beta": 0.4},
        {"alpha": 0.7, "beta": 0.4, "alpha_source": 0.2},
        {"alpha": 0.7, "beta": 0.4, "values": "count"},
        {"alpha": 1.4, "beta": 0.0, "alpha_source": 0.0, "values": "count"},
    ],
    ids=str,
)
def test_weights_are_those_of_plain_loops(prune: str, setting: dict[str, Any]) -> None:
    view = toy_view(n_items=15)  # with repeated items
    catalog = catalog_of(view, n_items=17, features=False)  # and two that nobody took
    histories = [history.tolist() for history in np.split(view.items, view.offsets[1:-1])]
    expected = walk_by_hand(histories, 17, **setting)
    model = toy_model("rp3beta", catalog, prune=prune, **setting)
    walk = unpruned(model, catalog)
    walk = walk if prune == "source" else walk.T
    torch.testing.assert_close(walk, torch.tensor(expected)[1:, 1:].double(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(walk.numpy(), np.array(expected)[1:, 1:], rtol=1e-12)
    for k in (16, 3):
        for normalise in (False, True):
            model = toy_model("rp3beta", catalog, prune=prune, k=k, normalise=normalise, **setting)
            want = prune_by_hand(rounded(expected), k, by=prune, normalise=normalise)
            np.testing.assert_allclose(weights_of(model).numpy(), np.array(want)[1:, 1:], rtol=1e-6)


def rounded(walk: Matrix) -> Matrix:
    """As float32, in which the model compares weights: sums of the same numbers in another order are equal there."""
    return [[float(np.float32(value)) for value in row] for row in walk]


def test_without_popularity_the_walk_is_a_transition_matrix() -> None:
    catalog = catalog_of(toy_view(), n_items=30, features=False)
    walk = unpruned(toy_model("rp3beta:p3alpha", catalog, alpha=1.0), catalog)
    torch.testing.assert_close(walk.sum(1), torch.ones(30).double(), rtol=0, atol=1e-12)
    tuned = unpruned(toy_model("rp3beta", catalog, alpha=1.0, beta=0.6), catalog)
    assert (tuned.sum(1) < 0.999).all()


def test_simulated_walks_end_where_the_formula_says() -> None:
    catalog = catalog_of(view_of(SMALL), n_items=6, features=False)
    walk = unpruned(small_model(alpha=1.0, beta=0.0), catalog)
    rng, n, start = np.random.default_rng(0), 20_000, 1
    users = [user for user, history in enumerate(SMALL) if start in history]
    ends = [rng.choice(SMALL[rng.choice(users)]) for _ in range(n)]
    share = np.bincount(ends, minlength=7)[1:] / n
    probability = walk[start - 1].numpy()
    error = np.sqrt(probability * (1 - probability) / n)
    assert (np.abs(share - probability) <= 3 * error).all()


def test_powers_of_zero_count_common_users() -> None:
    catalog = catalog_of(view_of(SMALL), n_items=6, features=False)
    walk = unpruned(small_model(alpha=0.0, beta=0.0), catalog)
    taken = torch.zeros(7, 6).double()
    for user, history in enumerate(SMALL):
        taken[user, [item - 1 for item in history]] = 1.0
    assert torch.equal(walk, taken.T @ taken)


def test_equal_square_roots_are_the_cosine() -> None:
    catalog = toy_catalog()
    model = toy_model("rp3beta", catalog, alpha=0.0, alpha_source=0.5, beta=0.5, k=29)
    cosine = toy_model("itemknn", catalog, k=29)
    batch = history_batch(model, [[4, 9, 2], [7], [1, 2, 3, 4]])
    torch.testing.assert_close(model.score(batch), cosine.score(batch), rtol=2e-6, atol=1e-9)


def test_beta_pushes_popular_items_down() -> None:
    """Items 1 to 20 of falling popularity; the mean popularity of the ten best falls with beta."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 21)
    histories = [(rng.choice(20, 6, replace=False, p=share / share.sum()) + 1).tolist() for _ in range(200)]
    catalog = catalog_of(view_of(histories), n_items=20, features=False)
    count = torch.bincount(catalog.train_items, minlength=21)[1:].double()
    means = []
    for beta in (0.0, 0.3, 0.6, 1.0, 2.0, 8.0):
        model = toy_model("rp3beta", catalog, alpha=1.0, beta=beta)
        best = model.score(history_batch(model, [[item] for item in range(1, 21)])).topk(10, dim=1).indices
        means.append(count[best].mean().item())
    assert means == sorted(means, reverse=True)
    assert means[0] > 1.5 * means[-1]
    network = toy_model("rp3beta", catalog, alpha=1.0, beta=30.0)
    scores = network.score(history_batch(network, [[1]]))[0]
    reached = scores > 0
    assert count[scores.argmax()] == count[reached].min()


def test_k_weights_of_each_history_item() -> None:
    catalog = toy_catalog()
    weights = weights_of(toy_model("rp3beta", catalog, k=3))
    assert ((weights != 0).sum(1) <= 3).all()
    assert ((weights != 0).sum(0) > 3).any(), "rows are pruned, not columns"
    assert not weights.diagonal().any()
    repeats = weights_of(toy_model("rp3beta", catalog, k=3, normalise=True, self_sim=1.0))
    without = repeats - torch.eye(30).double()
    torch.testing.assert_close(without.sum(1), torch.ones(30).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("block", [1, 7])
def test_blocks_do_not_matter(normalise: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights_of(toy_model("rp3beta", toy_catalog(), k=4, normalise=normalise))
    monkeypatch.setattr(neighbours, "BLOCK", block)
    assert torch.equal(weights_of(toy_model("rp3beta", toy_catalog(), k=4, normalise=normalise)), whole)


def test_ids_of_items_and_users_mean_nothing() -> None:
    view = toy_view()
    rng = np.random.default_rng(0)
    rename = np.concatenate([[0], rng.permutation(30) + 1])
    histories = [history.tolist() for history in np.split(view.items, view.offsets[1:-1])]
    shuffled = [histories[user] for user in rng.permutation(len(histories))]
    model, other_items, other_users = (
        toy_model("rp3beta", catalog_of(network, n_items=30, features=False), k=29)
        for network in (view, replace(view, items=rename[view.items]), view_of(shuffled))
    )
    history = [4, 9, 2, 9]
    scores = model.score(history_batch(model, [history]))[0]
    renamed = other_items.score(history_batch(other_items, [rename[history].tolist()]))[0]
    torch.testing.assert_close(renamed[rename[1:] - 1], scores, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        other_users.score(history_batch(other_users, [history]))[0], scores, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.2), (1.0, 0.6), (0.0, 1.0)])
def test_two_copies_of_every_user_scale_all_scores_alike(alpha: float, beta: float) -> None:
    view = toy_view()
    histories = [history.tolist() for history in np.split(view.items, view.offsets[1:-1])]
    scores = []
    for users in (histories, histories + histories):
        model = toy_model(
            "rp3beta", catalog_of(view_of(users), n_items=30, features=False), alpha=alpha, beta=beta, k=29
        )
        scores.append(model.score(history_batch(model, [[4, 9, 2, 9]]))[0])
    torch.testing.assert_close(scores[1], scores[0] * 2 ** (1 - alpha - beta), rtol=1e-6, atol=0)


def test_users_with_one_item_add_nothing_but_popularity() -> None:
    """With powers 0 nothing at all; else they make their item more popular."""
    lonely = [*SMALL, [3], [3], [6]]
    for settings, is_same in (({"alpha": 0.0, "beta": 0.0}, True), ({"alpha": 0.3, "beta": 0.2}, False)):
        scores = []
        for histories in (SMALL, lonely):
            model = toy_model(
                "rp3beta", catalog_of(view_of(histories), n_items=6, features=False), **settings
            )
            scores.append(model.score(history_batch(model, [[1, 3]])))
        assert torch.equal(*scores) is is_same
        assert scores[1][0, 5] == 0


def test_the_set_form_is_x_times_w() -> None:
    view = toy_view(longest=8)
    catalog = catalog_of(view, n_items=30, features=False)
    model = toy_model("rp3beta", catalog, distinct=True, k=5)
    histories = [history.tolist() for history in np.split(view.items, view.offsets[1:-1])]
    taken = torch.zeros(len(histories), 30).double()
    for user, history in enumerate(histories):
        taken[user, [item - 1 for item in history]] = 1.0
    scores = model.score(history_batch(model, histories))
    torch.testing.assert_close(scores, taken @ weights_of(model), rtol=1e-12, atol=0)
    assert scores.dtype == torch.float64


def test_recency() -> None:
    catalog = toy_catalog()
    weights = weights_of(toy_model("rp3beta", catalog))
    history = [4, 9, 4, 2]
    last, sequence, plain = (
        toy_model(name, catalog) for name in ("rp3beta:last", "rp3beta:sequence", "rp3beta")
    )
    assert torch.equal(last.score(history_batch(last, [history]))[0], weights[1])
    expected = weights[1] + 0.7 * weights[3] + 0.49 * weights[8] + 0.343 * weights[3]
    torch.testing.assert_close(sequence.score(history_batch(sequence, [history]))[0], expected)
    expected = weights[1] + 2 * weights[3] + weights[8]
    torch.testing.assert_close(plain.score(history_batch(plain, [history]))[0], expected)


def test_popularity_orders_what_no_walk_reaches() -> None:
    catalog = toy_catalog()
    plain, model = (toy_model("rp3beta", catalog, pop_weight=weight) for weight in (0.0, 1e-6))
    batch = history_batch(model, [[4, 9]])
    count = torch.bincount(catalog.train_items, minlength=31)[1:].double()
    expected = plain.score(batch) + 1e-6 * count / count.max()
    torch.testing.assert_close(model.score(batch), expected, rtol=0, atol=1e-15)
    assert (plain.score(batch) == 0).any()


def test_items_that_nobody_took_score_zero() -> None:
    model = small_model(beta=2.0)
    scores = model.score(history_batch(model, [[1, 2, 3, 4, 5, 6], [6], []]))
    assert torch.isfinite(scores).all()
    assert not scores[:, 5].any()
    assert not scores[1:].any()
