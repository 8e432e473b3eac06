"""mmbench.data.negatives: uniform over the items that a user does not have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmbench.data.negatives import NegativeSampler
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
