"""Pop, repeat-last and user-pop: section "How to check it" of their specification."""

import numpy as np
import pytest
import torch

from mmbench.data.views import TargetView
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import parse_metric
from mmbench.evaluation.ranking import rank
from tests.models.toy import (
    DAY,
    START,
    catalog_of,
    history_batch,
    toy_catalog,
    toy_model,
    toy_view,
    view_of,
)

FLOORS = pytest.mark.parametrize(
    "name", ["pop", "pop:users", "pop:recent", "pop:decay", "repeat-last", "user-pop"]
)


def targets_of(histories: list[list[int]], target: list[int]) -> TargetView:
    view = view_of(histories)
    return TargetView(
        items=view.items, times=view.times, offsets=view.offsets, user=np.arange(len(target)),
        target=np.array(target), train_len=np.diff(view.offsets),
    )  # fmt: skip


def test_counts_are_the_training_events() -> None:
    view = toy_view()
    model = toy_model("pop", toy_catalog(n_items=40))  # items 31..40 never occur
    assert model.weight.sum() == len(view.items)
    bare = toy_model("pop", catalog_of(view, n_items=40, features=False))
    assert not bare.weight[30:].any()
    expected = np.bincount(view.items, minlength=41)[1:]
    assert bare.weight.tolist() == expected.tolist()
    score = bare.score(history_batch(bare, [[1], [2, 3]]))
    assert score.dtype == torch.float64
    assert score.tolist() == [(expected / expected.max()).tolist()] * 2


def test_repeated_items_count_every_time_or_once_per_user() -> None:
    view = view_of([[1, 1, 1, 2], [2], [2, 3]])
    catalog = catalog_of(view, n_items=4, features=False)
    assert toy_model("pop", catalog).weight.tolist() == [3, 3, 1, 0]
    assert toy_model("pop:users", catalog).weight.tolist() == [1, 3, 1, 0]


def test_recent_counts_the_end_of_the_training_time() -> None:
    times = [[START, START + 50 * DAY], [START + 90 * DAY, START + 100 * DAY], [START + 89 * DAY]]
    catalog = catalog_of(view_of([[1, 2], [3, 3], [4]], times), n_items=5, features=False)
    assert toy_model("pop:recent", catalog).weight.tolist() == [0, 0, 2, 0, 0]
    assert toy_model("pop", catalog, window=0.5).weight.tolist() == [0, 1, 2, 1, 0]
    assert toy_model("pop", catalog, window=0.2, count="users").weight.tolist() == [0, 0, 1, 1, 0]


def test_decay_weighs_by_age() -> None:
    times = [[START, START + 50 * DAY], [START + 100 * DAY, START + 100 * DAY]]
    catalog = catalog_of(view_of([[1, 2], [3, 1]], times), n_items=4, features=False)
    weight = toy_model("pop", catalog, decay_days=50.0).weight
    e = np.exp(1)
    torch.testing.assert_close(weight, torch.tensor([1 + e**-2, e**-1, 1.0, 0.0]).double())
    with pytest.raises(UsageError, match="needs count = 'events'"):
        toy_model("pop", catalog, decay_days=50.0, count="users")


@FLOORS
def test_the_order_in_which_users_are_stored_does_not_matter(name: str) -> None:
    view, order = toy_view(), np.random.default_rng(0).permutation(20)
    of_users = [np.split(flat, view.offsets[1:-1]) for flat in (view.items, view.times)]
    other_view = view_of(*([part[user].tolist() for user in order] for part in of_users))
    model, other = (toy_model(name, catalog_of(events, n_items=30)) for events in (view, other_view))
    batch = history_batch(model, [[1, 2, 1], [9]])
    assert torch.equal(model.score(batch), other.score(batch))


def test_pop_is_the_same_for_all_and_finds_everything_in_n() -> None:
    view, model = toy_view(), toy_model("pop", toy_catalog())
    rng = np.random.default_rng(0)
    histories = np.split(view.items, view.offsets[1:-1])
    ranks = rank(model, targets_of([h.tolist() for h in histories], rng.integers(1, 31, 20).tolist()))
    assert parse_metric("HR@30").values(ranks).tolist() == [1.0] * 20
    scores = model.score(history_batch(model, [h.tolist() for h in histories]))
    assert (scores == scores[0]).all()
    top = scores.argsort(dim=1, descending=True, stable=True)[:, :10]
    shown = torch.bincount(top.flatten(), minlength=30)
    assert (shown > 0).sum() / 30 == pytest.approx(10 / 30)  # coverage
    share = shown.double().sort().values / shown.sum()
    gini = (share * (2 * torch.arange(1, 31) - 31)).sum() / 30
    assert gini.item() == pytest.approx(1 - 10 / 30)


def test_ranks_with_many_ties_agree_with_sorting() -> None:
    """Closed-form expectation over ties = mean over all orders of equal scores, here by random tie breaking."""
    view, model = toy_view(), toy_model("pop", toy_catalog())
    target = list(range(1, 21))
    ranks = rank(model, targets_of([[1]] * 20, target))
    assert (ranks.equal > 0).mean() > 0.5, "the toy counts should tie"
    expected = parse_metric("NDCG@5").values(ranks)
    score = model.score(history_batch(model, [[1]]))[0].numpy()
    rng, total = np.random.default_rng(0), np.zeros(20)
    for _ in range(4000):
        order = np.lexsort((rng.random(30), -score))
        place = np.empty(30, dtype=int)
        place[order] = np.arange(1, 31)
        r = place[np.array(target) - 1]
        total += np.where(r <= 5, 1 / np.log2(r + 1), 0)
    assert np.abs(total / 4000 - expected).max() < 0.03
    assert len(view.items) == model.weight.sum()


def test_repeat_last_orders_by_recency_then_popularity() -> None:
    view = view_of([[1, 1, 1], [2, 2], [3, 4]])
    model = toy_model("repeat-last", catalog_of(view, n_items=6, features=False))
    score = model.score(history_batch(model, [[5, 3, 4, 3], []]))
    assert score[0].argsort(descending=True, stable=True).tolist() == [2, 3, 4, 0, 1, 5]
    assert score[0].tolist() == pytest.approx([3 / 4, 2 / 4, 2, 1.5, 1.25, 0])
    assert score[1].tolist() == pytest.approx([3 / 4, 2 / 4, 1 / 4, 1 / 4, 0, 0])
    assert score.dtype == torch.float64


def test_repeat_last_hits_a_repeated_item_at_once() -> None:
    model = toy_model("repeat-last", toy_catalog())
    histories = [[3, 9, 9], [4], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    ranks = rank(model, targets_of(histories, [9, 4, 11]))
    assert parse_metric("HR@1").values(ranks).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["repeat-last", "user-pop"])
def test_with_seen_items_masked_it_is_pop(name: str) -> None:
    model, pop = toy_model(name, toy_catalog()), toy_model("pop", toy_catalog())
    targets = targets_of([[3, 9], [4], [7, 7, 2]], [20, 21, 22])
    mine, theirs = rank(model, targets, mask_seen="input"), rank(pop, targets, mask_seen="input")
    assert mine.greater.tolist() == theirs.greater.tolist()
    assert mine.equal.tolist() == theirs.equal.tolist()
    assert rank(model, targets).greater.tolist() != mine.greater.tolist()


def test_user_pop_counts_the_own_history_first() -> None:
    view = view_of([[1, 1, 1], [2, 2], [3, 4]])
    model = toy_model("user-pop", catalog_of(view, n_items=6, features=False))
    score = model.score(history_batch(model, [[5, 3, 4, 3], [2]]))
    assert score[0].tolist() == pytest.approx([3 / 4, 2 / 4, 2 + 1 / 4, 1 + 1 / 4, 1, 0])
    assert score[1].argmax() == 1


@FLOORS
def test_precision_of_the_run_leaves_the_order(name: str) -> None:
    catalog = toy_catalog()
    model = toy_model(name, catalog)
    batch = history_batch(model, [[5, 3, 4, 3], [2]])
    before = model.score(batch)
    after = model.to(torch.float32).score(batch)
    assert torch.equal(before.argsort(dim=1, stable=True), after.argsort(dim=1, stable=True))
    assert torch.equal(before[:, :, None] == before[:, None], after[:, :, None] == after[:, None])


@FLOORS
def test_closed_forms_have_no_parameters_and_do_not_depend_on_the_seed(name: str) -> None:
    first, second = toy_model(name, toy_catalog(), seed=0), toy_model(name, toy_catalog(), seed=1)
    assert not first.trainable
    assert first.deterministic
    assert not list(first.parameters())
    batch = history_batch(first, [[5, 3]])
    assert torch.equal(first.score(batch), second.score(batch))
