"""Strengths of models from who was better on which data set (Bradley and Terry 1952), on the scale of Elo ratings.

A model of rating a is better than one of rating b with probability 1 / (1 + 10^((b - a) / 400)). Ratings have the mean
1000. Each model also has one win and one loss against an average one: a model that is best everywhere would have an
infinite rating otherwise, and on simulated data sets, 2, 6 or 20, planted ratings then come back within 5 % on average.
"""

import numpy as np

SCALE = 400 / np.log(10)
MEAN = 1000.0
PRIOR = 1.0  # wins and losses against a model of the mean rating
_STEPS = 30  # of Newton's method; it is quadratic near the maximum of a concave function
_LARGEST_STEP = 2.0  # of a log strength


def ratings(wins: np.ndarray) -> np.ndarray:
    """Return the ratings that make the wins most likely, float64 [..., M].

    wins  [..., M, M]: how often the row's model was better than the column's, a tie one half; the diagonal is ignored
    """
    n_models = wins.shape[-1]
    wins = wins * ~np.eye(n_models, dtype=bool)
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    strengths = np.zeros(won.shape)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
        average = 1 / (1 + np.exp(-strengths))
        slope = won - (games * chance).sum(-1) + PRIOR - 2 * PRIOR * average
        spread = games * chance * (1 - chance)
        bend = -spread
        diagonal = spread.sum(-1) + 2 * PRIOR * average * (1 - average)
        bend[..., np.arange(n_models), np.arange(n_models)] = diagonal
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        strengths = strengths + np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
    return np.asarray(MEAN + SCALE * (strengths - strengths.mean(-1, keepdims=True)))


def wins_of(means: np.ndarray) -> np.ndarray:
    """Return who was better on each data set [B, M, M] by means [B, M], larger is better, a tie one half."""
    above = means[:, :, None] > means[:, None, :]
    return np.asarray(above + 0.5 * (means[:, :, None] == means[:, None, :]))
