"""mmbench.nn.sampled: scores of chosen items, sampled softmax, gBCE's weight, SCE."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmbench.nn import sampled
from mmbench.nn.losses import bce, bpr, cross_entropy
from mmbench.nn.sampled import bucket_cross_entropy, chosen_scores, gbce_weight, sampled_softmax


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dense", [0, 10**9])
@pytest.mark.parametrize("is_stacked", [False, True])
def test_scores_of_chosen_items_some_targets_at_a_time(
    dense: int, is_stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain lookup, with gradients, also for several models at once; items repeat within a row."""
    query, table = drawn(7, 3), drawn(9, 3, seed=1)
    items = torch.tensor([[1, 9, 9, 9], [2, 2, 3, 4]]).repeat(4, 1)[:7]
    weight = drawn(7, 4, seed=2)

    def total(query: Tensor, table: Tensor) -> Tensor:
        return (chosen_scores(query, table, items).sin() * weight).sum()

    def plain(query: Tensor, table: Tensor) -> Tensor:
        return (torch.einsum("td,tkd->tk", query, table[items - 1]).sin() * weight).sum()

    expected = torch.func.grad_and_value(plain, (0, 1))(query, table)
    monkeypatch.setattr(sampled, "MOST_FLOATS", 24)  # two targets
    monkeypatch.setattr(sampled, "DENSE", dense)
    monkeypatch.setattr(sampled, "rows_of_logits", lambda: 3)
    compute = torch.func.grad_and_value(total, (0, 1))
    if is_stacked:
        two = torch.func.vmap(compute)(torch.stack([drawn(7, 3, seed=5), query]), torch.stack([table, table]))
        (by_query, by_table), value = (two[0][0][1], two[0][1][1]), two[1][1]
    else:
        (by_query, by_table), value = compute(query, table)
    torch.testing.assert_close(value, expected[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_query, expected[0][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_table, expected[0][1], rtol=1e-12, atol=1e-12)


def test_no_more_vectors_than_a_part_of_the_targets_need_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    embedding = torch.nn.functional.embedding

    def watch(index: Tensor, table: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, index.numel() * table.shape[1])
        return embedding(index, table)

    monkeypatch.setattr(sampled, "MOST_FLOATS", 100)
    monkeypatch.setattr(sampled, "DENSE", 0)
    monkeypatch.setattr(torch.nn.functional, "embedding", watch)
    query = drawn(50, 3).requires_grad_()
    chosen_scores(query, drawn(9, 3), torch.ones(50, 4, dtype=torch.int64)).sum().backward()
    assert 0 < largest <= 100


def test_values_by_hand() -> None:
    """s_i = 2 sin(i); target 2, negatives 5, 1, 5: numbers of the formulas, to ten digits."""
    exact = [2 * math.sin(i) for i in (2, 5, 1, 5)]
    positive, negative = (torch.tensor(x, dtype=torch.float64) for x in (exact[:1], [exact[1:]]))
    values = {
        "bce": (bce(positive, negative), 2.2779077301),
        "gbce": (bce(positive, negative, weight=gbce_weight(3, 6, 0.75)), 2.2327994714),
        "bpr": (bpr(positive, negative), 0.2249124175),
        "ss": (sampled_softmax(positive, negative), 0.6527538115),
    }
    for name, (value, expected) in values.items():
        assert value.item() == pytest.approx(expected, abs=6e-11), name


@pytest.mark.parametrize("loss", [bce, bpr, sampled_softmax])
def test_a_hidden_negative_counts_for_nothing(loss: Callable[..., Tensor]) -> None:
    positive, negative = drawn(5), drawn(5, 4, seed=1)
    shown = torch.tensor([True, False, True, True]).expand(5, 4)
    first, other = negative.clone(), negative.clone()
    first[:, 1], other[:, 1] = 3.0, -30.0
    assert torch.equal(loss(positive, first, shown), loss(positive, other, shown))
    rest = loss(positive, negative[:, [0, 2, 3]])
    expected = rest * 3 / 4 if loss is bpr else rest  # bpr divides by all that were drawn
    torch.testing.assert_close(loss(positive, first, shown), expected)


def test_a_target_that_hides_all_negatives_has_no_loss_and_a_finite_gradient() -> None:
    positive, negative = drawn(2).requires_grad_(), drawn(2, 3).requires_grad_()
    value = sampled_softmax(positive, negative, torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert positive.grad is not None
    assert negative.grad is not None
    assert not positive.grad.any()
    assert not negative.grad.any()


def test_the_weight_of_gbce() -> None:
    """Both printed formulas; between alpha and 1; linear in t; exact ends."""
    for k, n in ((3, 6), (256, 12_101), (1, 2)):
        alpha = k / (n - 1)
        for t in (0.0, 0.25, 0.75, 1.0):
            printed = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
            assert gbce_weight(k, n, t) == pytest.approx(printed, abs=1e-12)
            assert alpha - 1e-12 <= gbce_weight(k, n, t) <= 1
    assert gbce_weight(256, 12_101, 0.0) == 1
    assert gbce_weight(12_100, 12_101, 0.6) == 1
    assert gbce_weight(50_000, 12_101, 0.6) == 1
    assert gbce_weight(256, 12_101, 0.75) == pytest.approx(0.266, abs=5e-4)


def test_sce_with_all_items_in_all_buckets_is_the_cross_entropy() -> None:
    query, table = drawn(4, 3), drawn(9, 3, seed=1)  # 4 targets: 4 buckets of 4 states
    target = torch.tensor([1, 9, 4, 4])
    ours = torch.func.grad_and_value(
        lambda q, t: bucket_cross_entropy(q, t, target, n_bucket_items=9), (0, 1)
    )(query, table)
    theirs = torch.func.grad_and_value(lambda q, t: cross_entropy(q, t, target), (0, 1))(query, table)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def sce_by_hand(
    query: Tensor, table: Tensor, target: Tensor, directions: Tensor, n_states: int, n_items: int
) -> float:
    """The page of the paper in loops: the largest loss of each state over the buckets that it is in."""
    worst: dict[int, float] = {}
    for direction in directions:
        states = sorted(range(len(query)), key=lambda t: -float(query[t] @ direction))[:n_states]
        items = sorted(range(len(table)), key=lambda i: -float(table[i] @ direction))[:n_items]
        for t in states:
            own = int(target[t]) - 1
            logits = [float(query[t] @ table[i]) for i in [own, *(i for i in items if i != own)]]
            value = math.log(sum(map(math.exp, logits))) - logits[0]
            worst[t] = max(worst.get(t, 0.0), value)
    return sum(worst.values()) / len(worst)


def test_sce_takes_the_largest_loss_of_a_state_and_none_of_one_in_no_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, table = drawn(30, 3), drawn(40, 3, seed=1)
    target = torch.arange(30) % 40 + 1
    directions = drawn(10, 3, seed=2)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: directions)
    ours = bucket_cross_entropy(query, table, target, n_bucket_items=7)
    assert ours.item() == pytest.approx(
        sce_by_hand(query, table, target, directions, int(2 * 30**0.5), 7), abs=1e-12
    )
