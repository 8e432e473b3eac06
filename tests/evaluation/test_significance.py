"""Tests and corrections: scipy and hand examples as oracles, simulated nulls, direction, words instead of p.

Run: python -m pytest tests/evaluation/test_significance.py
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mmbench.evaluation import corrections, significance
from mmbench.evaluation.significance import NoVerdict, Outcome, Verdict


def verdict(outcome: Outcome) -> Verdict:
    assert isinstance(outcome, Verdict), outcome
    return outcome


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0.042, 0.001, 10), rng.normal(0.0412, 0.001, 10)


def test_mean_and_sample_deviation() -> None:
    assert significance.mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert significance.mean_std([5.0]) == (5.0, None)


def test_paired_t_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    ours, theirs = verdict(significance.paired_t(a, b)), scipy_stats.ttest_rel(a, b)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.statistic == pytest.approx(theirs.statistic)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval()))
    assert ours.df == 9


def test_welch_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair[0], pair[1][:6]
    ours, theirs = verdict(significance.welch_t(a, b)), scipy_stats.ttest_ind(a, b, equal_var=False)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.df == pytest.approx(theirs.df)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval()))


def test_one_sample_t_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = (
        verdict(significance.one_sample_t(pair[0], 0.0412)),
        scipy_stats.ttest_1samp(pair[0], 0.0412),
    )
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.direction == "better"


@pytest.mark.parametrize("zeros", ["wilcox", "pratt", "zsplit"])
def test_wilcoxon_is_scipys_and_names_its_zero_method(zeros: significance.ZeroMethod) -> None:
    d = np.array([0.0, 0.0, 1.0, -2.0, 3.0, 4.0, 5.5, 6.0, 7.0, 8.0, 9.0, -1.5])
    ours = verdict(significance.wilcoxon(d, np.zeros_like(d), zero_method=zeros))
    assert ours.p == pytest.approx(scipy_stats.wilcoxon(d, zero_method=zeros).pvalue)
    assert "zeros" in ours.test
    assert (ours.won, ours.lost) == (8, 2)


def test_exact_sign_flip_counts_all_patterns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    d = pair[0] - pair[1]
    flipped = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=10)]
    by_hand = np.mean(np.array(flipped) >= abs(d.sum()) - 1e-15)
    ours = verdict(significance.sign_flip(*pair))
    assert ours.p == pytest.approx(by_hand)
    oracle = scipy_stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )  # fmt: skip
    assert ours.p == pytest.approx(oracle.pvalue)


def test_monte_carlo_sign_flip_agrees_with_t_and_is_repeatable() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.15, 1, 300), rng.normal(0.0, 1, 300)
    ours = verdict(significance.sign_flip(a, b))
    assert "10,000 draws" in ours.test
    assert ours.p == pytest.approx(verdict(significance.paired_t(a, b)).p, abs=0.01)
    assert ours.p == verdict(significance.sign_flip(a, b)).p
    far = verdict(significance.sign_flip(a + 5, b))
    assert far.p == pytest.approx(1 / 10_001)  # never 0


def test_randomisation_of_many_columns_is_that_of_each() -> None:
    d = np.random.default_rng(4).normal(0.1, 1, (40, 3))
    d[:, 1] = 0
    together = significance.randomisation(d)
    assert isinstance(together[1], NoVerdict)
    for h in (0, 2):
        assert verdict(together[h]).p == verdict(significance.randomisation(d[:, [h]])[0]).p


@pytest.mark.parametrize(("n", "smallest"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125), (10, 0.001953125)])
def test_smallest_attainable_p(n: int, smallest: float) -> None:
    a = np.arange(1.0, n + 1)
    assert significance.smallest_sign_p(n) == smallest
    assert verdict(significance.sign_flip(a, np.zeros(n))).p == smallest
    assert verdict(significance.wilcoxon(a, np.zeros(n))).p == smallest


def test_mcnemar_known_answers() -> None:
    """113 against 101 hits of 273 users: the p depends on who was hit (22 vs 10, 32 vs 20, or nested)."""
    for won, lost, p in ((12, 0, 0.0005), (22, 10, 0.05), (32, 20, 0.13)):
        a, b = np.zeros(273), np.zeros(273)
        a[:won], b[won : won + lost] = 1, 1
        a[200:], b[200:] = 1, 1
        ours = verdict(significance.mcnemar(a, b))
        assert ours.p == pytest.approx(p, abs=0.006)
        assert (ours.won, ours.lost) == (won, lost)
        assert ours.difference == pytest.approx(12 / 273)
        assert ours.p == pytest.approx(scipy_stats.binomtest(won, won + lost).pvalue)
    with pytest.raises(ValueError, match="0 or 1"):
        significance.mcnemar(np.array([0.5, 1.0]), np.array([0.0, 1.0]))


TESTS: list[Callable[[np.ndarray, np.ndarray], Outcome]] = [
    significance.paired_t, significance.welch_t, significance.wilcoxon, significance.sign_flip,
]  # fmt: skip


@pytest.mark.parametrize("test", TESTS)
def test_direction_known_answer(test: Callable[[np.ndarray, np.ndarray], Outcome]) -> None:
    """A clearly better method is called better with a small p, a clearly worse one worse with the same p.

    (One toolkit tests "less" on higher-is-better metrics, so that its small p means ours is worse.)
    """
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(0.045, 0.0005, 10), rng.normal(0.040, 0.0005, 10)
    good, bad = verdict(test(ours, theirs)), verdict(test(theirs, ours))
    assert good.direction == good.words == "better"
    assert bad.direction == "worse"
    assert good.p == pytest.approx(bad.p)
    assert good.p < 0.002
    assert good.difference > 0 > bad.difference


def test_pairing_by_user_matters() -> None:
    """20,000 users of whom 400 improve: hopeless unpaired, obvious paired."""
    base = np.random.default_rng(6).random(20_000)
    better = base.copy()
    better[:400] += 0.05
    assert verdict(significance.paired_t(better, base)).p < 1e-30
    assert verdict(significance.sign_flip(better, base)).p < 0.001
    assert verdict(significance.welch_t(better, base)).p > 0.1
    with pytest.raises(ValueError, match="pairs"):
        significance.paired_t(better, base[:-1])


def test_wilcoxon_can_point_away_from_the_mean() -> None:
    """165 users lose .05, 35 win .5 of 1,000: the mean rises, the signed ranks fall; both are said."""
    d = np.zeros(1000)
    d[:165], d[165:200] = -0.05, 0.5
    ours = verdict(significance.wilcoxon(d, np.zeros(1000)))
    assert ours.p < 1e-5
    assert ours.direction == "better"
    assert (significance.rank_biserial(d) or 0) < 0
    assert verdict(significance.paired_t(d, np.zeros(1000))).p == pytest.approx(0.002, abs=0.001)


@pytest.mark.parametrize("n", [10])
def test_simulated_null_is_rejected_at_its_level(n: int) -> None:
    """Two identical methods, 4,000 repeats: t and exact sign flip reject .05 +- .01."""
    d = np.random.default_rng(8).normal(size=(4000, n))
    t = d.mean(1) * np.sqrt(n) / d.std(1, ddof=1)
    p_t = 2 * scipy_stats.t.sf(np.abs(t), n - 1)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    p_flip = np.concatenate(
        [
            (np.abs(part @ signs.T) >= np.abs(part.sum(1))[:, None] - 1e-12).mean(1)
            for part in np.array_split(d, 8)
        ]
    )
    for at in range(0, 4000, 400):  # the vectorised forms are those of the module
        assert verdict(significance.paired_t(d[at], np.zeros(n))).p == pytest.approx(p_t[at])
        assert verdict(significance.sign_flip(d[at], np.zeros(n))).p == pytest.approx(p_flip[at])
    assert (p_t < 0.05).mean() == pytest.approx(0.05, abs=0.01)
    assert (p_flip < 0.05).mean() == pytest.approx(0.05, abs=0.01)


def test_corrections_match_the_hand_example() -> None:
    p = [0.01, 0.02, 0.03, 0.2]
    np.testing.assert_allclose(corrections.holm(p), [0.04, 0.06, 0.06, 0.2])
    np.testing.assert_allclose(corrections.benjamini_hochberg(p), [0.04, 0.04, 0.04, 0.2])
    shuffled = [0.2, 0.03, 0.01, 0.02]
    np.testing.assert_allclose(corrections.holm(shuffled), [0.2, 0.06, 0.04, 0.06])
    random = np.random.default_rng(9).random(50)
    np.testing.assert_allclose(
        corrections.benjamini_hochberg(random), scipy_stats.false_discovery_control(random)
    )
    assert corrections.holm([0.5, 0.6]).tolist() == [1.0, 1.0]
    assert len(corrections.holm([])) == len(corrections.benjamini_hochberg([])) == 0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        corrections.holm([0.5, np.nan])


@pytest.mark.parametrize("test", TESTS)
def test_words_instead_of_p(test: Callable[[np.ndarray, np.ndarray], Outcome]) -> None:
    runs = np.array([0.041, 0.042, 0.043])
    single = test(runs[:1], runs[1:2])
    assert isinstance(single, NoVerdict)
    assert single.words == "one run"
    constant = test(np.full(3, 0.1), np.full(3, 0.2))
    assert isinstance(constant, NoVerdict)
    assert constant.words == "no spread"
    assert constant.direction == "worse"
    if test is not significance.welch_t:
        same, shifted = test(runs, runs.copy()), test(runs + 0.001, runs)
        assert isinstance(same, NoVerdict)
        assert (same.words, same.direction) == ("identical", "equal")
        assert isinstance(shifted, NoVerdict)
        assert shifted.words == "no spread"  # equal up to rounding noise
    hits = np.array([1.0, 0.0, 1.0])
    assert isinstance(significance.mcnemar(hits, hits), NoVerdict)


def test_intervals_and_effects() -> None:
    d = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    low, high = significance.t_interval(d) or (0, 0)
    expected = scipy_stats.t.interval(0.95, 4, loc=3, scale=d.std(ddof=1) / np.sqrt(5))
    assert (low, high) == pytest.approx(expected)
    assert significance.t_interval(d[:1]) is None
    assert significance.effect_dz(d) == pytest.approx(3 / d.std(ddof=1) * (1 - 3 / 15))
    assert significance.effect_dz(d[:2]) is None  # Hedges' factor is 0
    assert significance.effect_dz(np.ones(5)) is None
    assert significance.rank_biserial(np.array([3.0, 2.0, -1.0, 0.0])) == pytest.approx((5 - 1) / 6)
    assert significance.rank_biserial(np.zeros(3)) is None
    many = np.random.default_rng(1).integers(-4, 6, 100).astype(float)  # with many equal sizes
    ranks = scipy_stats.rankdata(np.abs(many[many != 0]))
    assert significance.rank_biserial(many) == pytest.approx(
        (ranks * np.sign(many[many != 0])).sum() / ranks.sum()
    )


def test_ratio_interval_is_where_the_t_test_stops_rejecting(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    low, high = significance.ratio_interval(a, b) or (0, 0)
    assert low < a.mean() / b.mean() < high
    for bound in (low, high):
        assert scipy_stats.ttest_1samp(a - bound * b, 0).pvalue == pytest.approx(0.05)
    assert (
        significance.ratio_interval(a, np.where(np.arange(10) % 2, 1.0, -1.0)) is None
    )  # rival not different from 0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        significance.paired_t(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="non-empty"):
        significance.mean_std([])
    with pytest.raises(ValueError, match="finite"):
        significance.randomisation(np.array([1.0, 2.0]))


def test_equal_means_that_were_added_in_another_order_are_no_difference() -> None:
    """Half of the users have the same values in other seeds, which differ by 1e-17 as means; the others are won."""
    a, b = (0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3
    assert a != b
    x, y = np.repeat([a, a + 0.1, a + 0.2], [60, 40, 20]), np.repeat([b, a], 60)
    for outcome in (significance.sign_flip(x, y), significance.wilcoxon(x, y)):
        assert (verdict(outcome).won, verdict(outcome).lost) == (60, 0)
    (of_columns,) = significance.randomisation((x - y)[:, None])
    assert (verdict(of_columns).won, verdict(of_columns).lost) == (60, 0)
    assert verdict(significance.wilcoxon(x, y)).p == verdict(significance.wilcoxon(x[60:], y[60:])).p
    assert significance.rank_biserial(significance.differences(y, x)) == -1
