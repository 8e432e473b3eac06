"""Intervals of a mean over users, 95 %."""

import math

import numpy as np

from mmbench.evaluation.significance import is_binary

DRAWS = 10_000
LEAST_USERS = 100  # below, a percentile bootstrap covers too little
_Z = 1.959963984540054  # the 97.5 % point of the normal law
_CELLS = 4_000_000  # counts drawn at once


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    share, square = hits / n, _Z**2 / n
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def bootstrap(values: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Return the percentile interval of the mean over resampled users.

    Only how often each distinct value is drawn matters, so a draw is a vector of multinomial counts.
    """
    distinct, counts = np.unique(values, return_counts=True)
    rng, share = np.random.default_rng(seed), counts / len(values)
    step = max(1, _CELLS // len(distinct))
    means = [
        rng.multinomial(len(values), share, size=min(step, draws - start)) @ distinct / len(values)
        for start in range(0, draws, step)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def interval_of(values: np.ndarray) -> tuple[float, float] | None:
    """Return the interval of a mean over users: Wilson's for hits, else a bootstrap; None for too few users."""
    if len(values) and is_binary(values):
        return wilson(int(values.sum()), len(values))
    return bootstrap(values) if len(values) >= LEAST_USERS else None
