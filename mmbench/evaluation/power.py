"""How large a difference a paired t test can show, and how many pairs it needs, by the noncentral t distribution.

The unit is the caller's, training runs or users, as in `mmbench.evaluation.significance`.
"""

import math
from functools import cache

import numpy as np

POWER = 0.8
ALPHA = 0.05
MOST_PAIRS = 10**9  # ends the search for a number of pairs
N_NODES = 400


def power_of(effect: float, n: int, *, alpha: float = ALPHA) -> float:
    """Return the power of a two-sided paired t test with n >= 2 pairs.

    effect  |mean| / standard deviation of the differences
    """
    from scipy.special import gammaincinv, ndtr, stdtrit

    df, shift = n - 1, abs(effect) * math.sqrt(n)
    critical = float(stdtrit(df, 1 - alpha / 2))
    # Given r = s / sigma the mean decides by a normal law; we integrate over the quantiles of r: nctdtr of scipy is
    # NaN for a large shift.
    nodes, weights = _quadrature()
    r = np.sqrt(2 * gammaincinv(df / 2, nodes) / df)
    return float((weights * (ndtr(shift - critical * r) + ndtr(-shift - critical * r))).sum())


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of Gauss and Legendre on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    return (nodes + 1) / 2, weights / 2


def smallest_effect(n: int, *, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest |mean| / standard deviation that n pairs show with this power; None below 2 pairs."""
    if n < 2:
        return None
    low, high = 0.0, 1.0
    while power_of(high, n, alpha=alpha) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle, n, alpha=alpha) >= power else (middle, high)
    return high


def pairs_needed(effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return the smallest number of pairs that shows an effect with this power; None for more than MOST_PAIRS."""
    low, high = 1, 2
    while power_of(effect, high, alpha=alpha) < power:
        low, high = high, 2 * high
        if high > MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, middle, alpha=alpha) >= power else (middle, high)
    return high
