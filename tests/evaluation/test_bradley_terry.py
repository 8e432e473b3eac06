"""Ratings from wins: scipy's maximum of the same likelihood, closed forms, planted strengths of simulated boards.

Run: python -m pytest tests/evaluation/test_bradley_terry.py
"""

import numpy as np
import pytest
from scipy.optimize import minimize

from mmbench.evaluation.bradley_terry import MEAN, PRIOR, SCALE, ratings, wins_of


def by_scipy(wins: np.ndarray) -> np.ndarray:
    """The same likelihood, written as a loop over pairs."""

    def loss(strengths: np.ndarray) -> float:
        total = 0.0
        for i, row in enumerate(wins):
            for j, n in enumerate(row):
                total += n * np.logaddexp(0, strengths[j] - strengths[i]) if i != j else 0.0
            total += PRIOR * (np.logaddexp(0, -strengths[i]) + np.logaddexp(0, strengths[i]))
        return total

    actual = minimize(loss, np.zeros(len(wins)), tol=1e-12).x
    return MEAN + SCALE * (actual - actual.mean())


def test_ratings_are_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    for n_models in (2, 3, 6):
        wins = rng.integers(0, 5, (n_models, n_models)).astype(float) + 0.5 * rng.integers(0, 2)
        assert ratings(wins) == pytest.approx(by_scipy(wins), abs=0.05)
    several = rng.integers(0, 4, (7, 4, 4)).astype(float)
    assert ratings(several) == pytest.approx(np.stack([ratings(wins) for wins in several]), abs=1e-9)


def test_closed_forms() -> None:
    """Equal models have 1000; of two, w wins of n: the difference d solves the equation of the likelihood."""
    assert ratings(np.full((4, 4), 3.0)) == pytest.approx([1000] * 4)
    assert ratings(np.zeros((3, 3))) == pytest.approx([1000] * 3)
    assert ratings(np.array([[0, 100_000], [0, 0]])).tolist() == pytest.approx(
        (2000 - ratings(np.array([[0, 100_000], [0, 0]])))[::-1].tolist()
    )
    many = ratings(np.array([[0, 75_000], [25_000, 0]]))
    assert many[0] - many[1] == pytest.approx(400 * np.log10(3), abs=0.1), (
        "the games against an average model no longer matter"
    )
    assert np.isfinite(ratings(np.array([[0.0, 9, 9], [0, 0, 9], [0, 0, 0]]))).all()


def test_who_is_better_where() -> None:
    wins = wins_of(np.array([[0.3, 0.2, 0.3], [0.1, 0.4, 0.0]]))
    assert wins[0].tolist() == [[0.5, 1, 0.5], [0, 0.5, 0], [0.5, 1, 0.5]]
    assert wins[1].tolist() == [[0.5, 0, 1], [1, 0.5, 1], [0, 0, 0.5]]
    assert (wins + wins.transpose(0, 2, 1) == 1).all(), "each pair has one game on each data set"


def simulated(rng: np.random.Generator, planted: np.ndarray, n_boards: int) -> np.ndarray:
    """Boards on which a model's value is its strength and Gumbel noise, so that pairs follow the model exactly."""
    return wins_of(planted / SCALE + rng.gumbel(size=(n_boards, len(planted))))


def test_planted_ratings_of_simulated_boards_come_back() -> None:
    planted = np.array([1200.0, 1080, 1000, 940, 780])
    rng = np.random.default_rng(1)
    assert ratings(simulated(rng, planted, 20_000).sum(0)) == pytest.approx(planted, abs=8)
    for n_boards in (2, 6):
        games = np.stack([simulated(rng, planted, n_boards).sum(0) for _ in range(400)])
        means = ratings(games).mean(0)
        assert (np.diff(means) < 0).all()
        spread = np.abs(means - 1000).sum() / np.abs(planted - 1000).sum()
        assert 0.88 < spread < 1.12, "few boards neither pull towards the mean nor away from it"


def test_bootstrap_intervals_over_boards_cover_the_planted_ratings() -> None:
    planted = np.array([1120.0, 1040, 960, 880])
    rng, inside = np.random.default_rng(2), []
    for _ in range(60):
        games = simulated(rng, planted, 40)
        drawn = rng.integers(40, size=(200, 40))
        low, high = np.quantile(ratings(games[drawn].sum(1)), [0.025, 0.975], axis=0)
        inside.append((low <= planted) & (planted <= high))
    assert 0.88 < np.mean(inside) < 0.99
