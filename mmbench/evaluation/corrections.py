"""p values adjusted for several tests."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p: max over j <= i of min(1, (m - j + 1) p_(j)).

    Controls the chance of any false claim under any dependence.
    """
    values = _probabilities(p)
    order = np.argsort(values, kind="stable")
    m = len(values)
    stepped = np.minimum(1.0, (m - np.arange(m)) * values[order])
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(stepped) if m else stepped
    return adjusted


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Benjamini-Hochberg adjusted p: min over j >= i of min(1, m p_(j) / j).

    Controls the expected share of false claims under independence or positive dependence.
    """
    values = _probabilities(p)
    order = np.argsort(values, kind="stable")
    m = len(values)
    stepped = np.minimum(1.0, m * values[order] / np.arange(1, m + 1))
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(stepped[::-1])[::-1] if m else stepped
    return adjusted


def _probabilities(p: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p must be a vector of numbers in [0, 1]")
    return values
