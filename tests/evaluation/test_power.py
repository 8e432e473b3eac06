"""Power of paired t tests: against numbers of textbooks and tables, and against simulated experiments."""

import numpy as np
import pytest

from mmbench.evaluation.power import pairs_needed, power_of, smallest_effect
from mmbench.evaluation.significance import Verdict, paired_t


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_for_small_medium_and_large_effects(effect: float, n: int) -> None:
    """Cohen's effects at level .05 with power .8, as G*Power has them."""
    assert pairs_needed(effect) == n
    assert power_of(effect, n) >= 0.8 > power_of(effect, n - 1)


@pytest.mark.parametrize(("effect", "n", "alpha"), [(1.5, 5, 0.05), (0.6, 20, 0.05), (0.6, 20, 0.01)])
def test_power_is_the_share_of_experiments_that_find_the_effect(effect: float, n: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    outcomes = [paired_t(rng.normal(effect, 1, n), np.zeros(n)) for _ in range(4_000)]
    share = np.mean([isinstance(outcome, Verdict) and outcome.p <= alpha for outcome in outcomes])
    assert share == pytest.approx(power_of(effect, n, alpha=alpha), abs=0.025)  # 3 standard errors


@pytest.mark.parametrize("n", [2, 3, 10, 22_363])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 20])
def test_the_smallest_effect_has_power_point_eight(n: int, alpha: float) -> None:
    effect = smallest_effect(n, alpha=alpha)
    assert effect is not None
    assert power_of(effect, n, alpha=alpha) == pytest.approx(0.8, abs=1e-6)


def test_no_effect_is_found_at_the_level_and_many_users_find_the_normal_approximation() -> None:
    assert power_of(0, 10, alpha=0.03) == pytest.approx(0.03, abs=1e-6)
    effect = smallest_effect(40_000)
    assert effect is not None
    assert effect * 200 == pytest.approx(1.959964 + 0.841621, rel=1e-3)


def test_where_there_is_no_answer_there_is_none() -> None:
    assert smallest_effect(1) is None
    assert pairs_needed(1e-6) is None
    assert power_of(100, 10_000) == 1
