"""Least squares on labels: closed forms, a true null, planted causes that overlap.

Run: python -m pytest tests/evaluation/test_regression.py
"""

import numpy as np
import pytest
from scipy import stats

from mmbench.evaluation.regression import least_squares


def test_of_a_single_column_it_is_the_difference_of_two_means() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 3, 40), rng.normal(0, 1, 90)
    fit = least_squares(np.concatenate([inside, outside]), np.repeat([1, 0], [40, 90])[:, None])
    assert fit.coefficients == pytest.approx([inside.mean() - outside.mean()], abs=1e-12)
    variance = sum(((part - part.mean()) ** 2).sum() / (len(part) - 1) ** 2 for part in (inside, outside))
    assert fit.covariance[0, 0] == pytest.approx(variance, rel=1e-12)
    t = fit.coefficients[0] / np.sqrt(variance)
    assert fit.p(0) == pytest.approx(2 * stats.t.sf(abs(t), 128), rel=1e-10)
    assert fit.joint_p([0]) == pytest.approx(fit.p(0), rel=1e-9)
    low, high = fit.interval(0)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 128) * np.sqrt(variance), rel=1e-12)


def test_hc3_with_three_columns_is_leaving_each_observation_out() -> None:
    """HC3 is nearly the jackknife: coefficients without an observation move by inverse x e / (1 - h)."""
    rng = np.random.default_rng(1)
    columns, values = rng.integers(0, 2, (60, 3)), rng.normal(size=60)
    fit = least_squares(values, columns)
    moves = np.array(
        [
            least_squares(np.delete(values, i), np.delete(columns, i, axis=0)).coefficients - fit.coefficients
            for i in range(60)
        ]
    )
    assert fit.covariance == pytest.approx(moves.T @ moves, rel=1e-8, abs=1e-12)


def test_without_an_effect_five_percent_are_rejected_although_variances_differ() -> None:
    """Errors that take the variances for equal would reject .31 of these."""
    rng, alone, together = np.random.default_rng(2), [], []
    for _ in range(600):
        columns = np.column_stack([rng.random(600) < 0.15, rng.random(600) < 0.5])
        fit = least_squares(rng.normal(0, 1 + 2 * columns[:, 0]), columns)
        alone.append(fit.p(0) < 0.05)
        together.append(fit.joint_p([0, 1]) < 0.05)
    assert 0.03 < np.mean(alone) < 0.07
    assert 0.03 < np.mean(together) < 0.07


def test_a_cause_is_told_from_what_goes_along_with_it() -> None:
    rng = np.random.default_rng(3)
    cause = rng.random(4000) < 0.3
    companion = np.where(rng.random(4000) < 0.8, cause, rng.random(4000) < 0.3)
    values = 0.5 * cause + rng.normal(size=4000)
    assert least_squares(values, companion[:, None]).p(0) < 1e-10  # alone, it seems a cause
    fit = least_squares(values, np.column_stack([companion, cause]))
    assert fit.p(0) > 0.05
    assert fit.coefficients[1] == pytest.approx(0.5, abs=0.15)


def test_columns_that_follow_from_others_are_left_out() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    values = rng.normal(size=50)
    fit = least_squares(values, np.column_stack([a, 1 - a, b, np.maximum(a, b) + np.minimum(a, b)]))
    assert fit.kept == (0, 2)
    assert fit.coefficients == pytest.approx(least_squares(values, np.column_stack([a, b])).coefficients)
    with pytest.raises(ValueError, match="cannot tell"):
        least_squares(values, np.ones((50, 1)))


def test_observations_that_do_not_vary_have_no_test() -> None:
    columns = np.random.default_rng(5).integers(0, 2, (80, 2))
    for constant in (0.0, 0.3):
        assert least_squares(np.full(80, constant), columns).tested == []


def test_coefficients_that_share_their_error_count_once_in_a_joint_test() -> None:
    """Nothing varies outside the reference, so that both labels differ from it by the same."""
    label = np.repeat([0, 1, 2], [80, 40, 40])
    values = np.where(label == 0, np.arange(160) % 4 == 0, 0).astype(float)
    fit = least_squares(values, np.column_stack([label == 1, label == 2]))
    assert fit.joint_p([0, 1]) == pytest.approx(fit.p(0), rel=1e-6)
