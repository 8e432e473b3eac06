"""mmbench.data.negatives: uniform over the items that a user does not have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmbench.data.negatives import Distribution, NegativeSampler
from mmbench.errors import DataError
from tests.models.toy import view_of


def test_negatives_are_uniform_over_the_complement() -> None:
    users, items = np.array([0, 0, 0, 0, 1]), np.array([2, 3, 3, 9, 10])
    sampler = NegativeSampler(users, items, n_users=3, n_items=10, device="cpu")
    generator = torch.Generator().manual_seed(0)
    others = {0: [1, 4, 5, 6, 7, 8, 10], 1: list(range(1, 10)), 2: list(range(1, 11))}
    for user, expected in others.items():
        drawn = sampler.draw(torch.full((200,), user), 50, generator)
        assert drawn.shape == (200, 50)
        count = np.bincount(drawn.flatten().numpy(), minlength=11)
        assert np.flatnonzero(count).tolist() == expected
        assert chisquare(count[expected]).pvalue > 1e-3


@given(
    histories=st.lists(st.lists(st.integers(1, 7), max_size=6, unique=True), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_negatives_are_never_in_the_history(histories: list[list[int]], seed: int) -> None:
    view = view_of(histories)
    sampler = NegativeSampler(view.users, view.items, n_users=len(histories), n_items=7, device="cpu")
    user = torch.arange(len(histories))
    drawn = sampler.draw(user, 40, torch.Generator().manual_seed(seed))
    assert drawn.min() >= 1
    assert drawn.max() <= 7
    for own, row in zip(histories, drawn.tolist(), strict=True):
        assert not set(own) & set(row)


def test_a_user_with_every_item_is_an_error() -> None:
    with pytest.raises(DataError, match="user number 1 has all 3 items"):
        NegativeSampler(np.array([1, 1, 1]), np.array([1, 2, 3]), n_users=2, n_items=3, device="cpu")


HISTORIES = [[1, 1, 1, 1, 2], [2, 3, 2], [4], [1, 4, 6]]
Q = Distribution(power=0.5, share=0.6)


def weighted_sampler(users: list[int], items: list[int]) -> tuple[NegativeSampler, np.ndarray]:
    q = Q.of(view_of(HISTORIES).items, 6)
    return NegativeSampler(
        np.array(users, np.int64), np.array(items, np.int64), n_users=4, n_items=6, device="cpu", q=q
    ), q


def test_a_distribution_is_the_mixture_of_counts_and_uniform() -> None:
    counts = [5, 3, 1, 2, 0, 1]
    weights = [(count + 1) ** 0.5 for count in counts]
    expected = [0.6 * weight / sum(weights) + 0.4 / 6 for weight in weights]
    np.testing.assert_allclose(Q.of(view_of(HISTORIES).items, 6), expected, rtol=1e-12)
    np.testing.assert_allclose(Distribution().of(view_of(HISTORIES).items, 6), np.full(6, 1 / 6))


def fits(drawn: torch.Tensor, q: np.ndarray) -> bool:
    """Whether the items 1..6 have these probabilities, and those of probability 0 never occur."""
    count = np.bincount(drawn.flatten().numpy(), minlength=7)[1:]
    some = q > 0
    expected = q[some] / q.sum() * count.sum()
    return len(count) == 6 and not count[~some].any() and chisquare(count[some], expected).pvalue > 1e-3


def test_weighted_negatives_keep_their_odds_outside_the_excluded_items() -> None:
    sampler, q = weighted_sampler([0, 0, 2, 2, 2, 2], [1, 4, 2, 3, 6, 2])
    generator = torch.Generator().manual_seed(0)
    for user, owned in {0: [1, 4], 1: [], 2: [2, 3, 6], 3: []}.items():
        rest = q.copy()
        rest[[item - 1 for item in owned]] = 0
        assert fits(sampler.draw(torch.full((400,), user), 50, generator), rest)
        wrong = rest[::-1].copy() if not owned else q
        assert not fits(sampler.draw(torch.full((400,), user), 50, generator), wrong)


def test_negatives_beside_an_item_and_of_all_items() -> None:
    sampler, q = weighted_sampler([], [])
    generator = torch.Generator().manual_seed(0)
    for item in range(1, 7):
        rest = q.copy()
        rest[item - 1] = 0
        assert fits(sampler.draw_others(torch.full((400,), item), 50, generator), rest)
    assert fits(sampler.draw_any(300, 100, generator), q)
    assert sampler.draw_any(300, 100, generator).shape == (300, 100)
    first, again = (sampler.draw_any(3, 5, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, again)


def test_uniform_negatives_beside_an_item_are_all_others() -> None:
    none = np.zeros(0, np.int64)
    sampler = NegativeSampler(none, none, n_users=1, n_items=6, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for item in range(1, 7):
        others = np.ones(6)
        others[item - 1] = 0
        assert fits(sampler.draw_others(torch.full((400,), item), 50, generator), others)
    assert fits(sampler.draw_any(300, 100, generator), np.ones(6))


def test_equal_weights_draw_as_uniform_ones_do() -> None:
    users, items = np.array([0, 0, 1]), np.array([2, 5, 6])
    pair = [
        NegativeSampler(users, items, n_users=2, n_items=6, device="cpu", q=q)
        for q in (None, np.full(6, 1 / 6))
    ]
    user = torch.tensor([0, 1, 0, 1])
    plain, weighted = (sampler.draw(user, 200, torch.Generator().manual_seed(1)) for sampler in pair)
    assert (plain == weighted).double().mean() > 0.999  # but for a number on an edge
