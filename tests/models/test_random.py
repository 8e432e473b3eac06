"""Random: it must hit its closed-form expectations."""

import numpy as np
import pytest
import torch

from mmbench.data.views import TargetView
from mmbench.evaluation.metrics import parse_metric
from mmbench.evaluation.ranking import rank
from tests.models.toy import catalog_of, history_batch, toy_catalog, toy_model, view_of

N_ITEMS, N_USERS, N_SEEDS = 100, 200, 30


@pytest.fixture(scope="module")
def ranks() -> list:
    view = view_of([[1 + u % N_ITEMS] for u in range(N_USERS)])
    catalog = catalog_of(view, n_items=N_ITEMS, features=False)
    target = np.random.default_rng(0).integers(1, N_ITEMS + 1, N_USERS)
    targets = TargetView(
        items=view.items, times=view.times, offsets=view.offsets, user=np.arange(N_USERS), target=target,
        train_len=np.ones(N_USERS, dtype=np.int64),
    )  # fmt: skip
    return [rank(toy_model("random", catalog, seed=seed), targets) for seed in range(N_SEEDS)]


def test_means_over_seeds_are_the_expectations(ranks: list) -> None:
    place = np.arange(1, 11)
    expected = {
        "HR@10": 10 / N_ITEMS,
        "NDCG@10": (1 / np.log2(place + 1)).sum() / N_ITEMS,
        "MRR@10": (1 / place).sum() / N_ITEMS,
    }
    for name, value in expected.items():
        users = np.stack([parse_metric(name).values(rank) for rank in ranks])
        error = users.std() / users.size**0.5
        assert users.mean() == pytest.approx(value, abs=3 * error), name
        # Seeds are independent: their means vary as much as so many independent users do.
        ratio = users.mean(1).std(ddof=1) / (users.std() / N_USERS**0.5)
        assert 0.6 < ratio < 1.4, name


def test_ranks_are_uniform_without_ties(ranks: list) -> None:
    from scipy.stats import chisquare

    greater = np.concatenate([rank.greater for rank in ranks])
    assert chisquare(np.bincount(greater, minlength=N_ITEMS)).pvalue > 1e-3
    assert sum(int(rank.equal.sum()) for rank in ranks) == 0


def test_score_is_fixed_by_seed_user_and_item() -> None:
    model = toy_model("random", toy_catalog(), seed=1)
    scores = model.score(history_batch(model, [[1], [2, 3], [4]], users=[0, 5, 0]))
    assert torch.equal(scores[0], scores[2])
    assert torch.equal(scores[1], model.score(history_batch(model, [[7]], users=[5]))[0])
    assert scores.unique().numel() == 60
    assert scores.dtype == torch.float64
    assert scores.min() >= 0
    assert scores.max() < 1
    other = toy_model("random", toy_catalog(), seed=2).score(history_batch(model, [[1]], users=[0]))
    assert not torch.isin(other, scores).any()
    assert not model.deterministic


def test_the_key_is_part_of_the_checkpoint() -> None:
    model, other = (toy_model("random", toy_catalog(), seed=seed) for seed in (1, 2))
    other.load_state_dict(model.state_dict())
    batch = history_batch(model, [[1]])
    assert torch.equal(other.score(batch), model.to(torch.float32).score(batch))


def test_users_and_items_are_independent() -> None:
    """Neighbouring users and items share nothing: correlations of a [100, 30] matrix stay within noise."""
    model = toy_model("random", toy_catalog(), seed=3)
    score = model.score(history_batch(model, [[1]] * 100))
    assert np.abs(np.corrcoef(score.T) - np.eye(30)).max() < 5 / 10
    assert np.abs(np.corrcoef(score) - np.eye(100)).max() < 5.5 / 30**0.5
    assert score.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / 3000) ** 0.5)


def test_mixing_is_splitmix64() -> None:
    """The generator's published first outputs for seed 1234567."""
    import sys

    from mmbench.models.registry import find

    entry = find("random")
    module = sys.modules[entry.load().__module__]
    state = torch.tensor([1234567]) + module.STEP * torch.arange(1, 4)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [value % 2**64 for value in module.mix_(state).tolist()] == expected
