"""Weights of targets, so that few popular items do not decide a metric: sum w v / sum w, v the value of a user.

m_y targets of item y, c_y its training events, N items:

    debiased  w = min(1, border / m_y), border = int(Q3 + 1.5 (Q3 - Q1)) over the m_y of all items with targets. This is
              the expectation of RecTools' `DebiasConfig` (41a5a63), which draws `border` targets of each item above it
    macro     w = 1 / m_y: each item with targets counts once
    ips       w = min(10, sqrt(mean q / q_y)), q_y = (c_y + 1) / (sum c + N), the mean over targets
"""

from collections.abc import Callable

import numpy as np

COEFFICIENT = 1.5  # of the distance of the quartiles
LARGEST = 10.0


def border_of(targets: np.ndarray) -> int:
    """Return how many targets of an item count in full, quartiles by linear interpolation."""
    numbers = np.unique(targets, return_counts=True)[1]
    low, high = np.percentile(numbers, (25, 75))
    return int(high + COEFFICIENT * (high - low))


def _targets_of_item(targets: np.ndarray) -> np.ndarray:
    """Return how many targets are the same item as each target, int64 [n]."""
    _, which, numbers = np.unique(targets, return_inverse=True, return_counts=True)
    return np.asarray(numbers[which])


def _debiased(targets: np.ndarray, events: np.ndarray) -> np.ndarray:
    return np.minimum(1, border_of(targets) / _targets_of_item(targets))


def _macro(targets: np.ndarray, events: np.ndarray) -> np.ndarray:
    return 1 / _targets_of_item(targets)


def _ips(targets: np.ndarray, events: np.ndarray) -> np.ndarray:
    q = ((events + 1) / (events[1:].sum() + len(events) - 1))[targets]
    return np.minimum(LARGEST, np.sqrt(q.mean() / q))


# targets int64 [n], training events of each item [N + 1] -> weights float64 [n]
WEIGHTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "debiased": _debiased,
    "macro": _macro,
    "ips": _ips,
}
FORMULAS = {
    "debiased": "targets of an item beyond the outlier border of the test targets weighted down to it",
    "macro": "each item with targets counted once",
    "ips": "each target weighted by the root of its item's inverse popularity, at most 10",
}


def relative_weights(name: str, targets: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Return weights whose mean is 1, float64 [n], so that the weighted mean is a mean over users like any other."""
    weights = WEIGHTS[name](targets, events)
    return np.asarray(weights * (len(weights) / weights.sum()))


def effective_size(weights: np.ndarray) -> float:
    """Return how many equally weighted targets say as much, (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())
