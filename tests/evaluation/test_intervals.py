"""Intervals of means over users, against statements of their definitions and scipy.

Run: python -m pytest tests/evaluation/test_intervals.py
"""

import numpy as np
import pytest
from scipy import stats

from mmbench.evaluation.intervals import bootstrap, interval_of, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 40), (40, 40), (999, 22_363)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_by_counts_is_that_of_resampled_users() -> None:
    values = np.random.default_rng(1).choice([0, 0.2, 0.5, 1], size=150, p=[0.7, 0.1, 0.1, 0.1])
    rng = np.random.default_rng(2)
    means = [rng.choice(values, 150).mean() for _ in range(10_000)]
    assert bootstrap(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.004)


def test_hits_have_wilsons_interval_and_few_users_none() -> None:
    assert interval_of(np.array([0.0, 1.0] * 20)) == wilson(20, 40)
    assert interval_of(np.linspace(0, 1, 99)) is None
    low, high = interval_of(np.linspace(0, 1, 200))
    assert low < 0.5 < high
