"""Metrics from ranks: formulas by hand, ties against brute force, identities, closed forms, bad input.

Run: python -m pytest tests/evaluation/test_metrics.py
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.choices import RULES
from mmbench.errors import DataError, UsageError
from mmbench.evaluation.evidence import Ranking, Ranks, TopLists
from mmbench.evaluation.metrics import Metric, RankCounts, parse_metric

ALL = ["HR@10", "Recall@10", "Precision@10", "F1@10", "NDCG@10", "MRR@10", "MAP@10", "MRR", "NDCG", "AUC"]


def ranks(greater: list[int], equal: list[int] | None = None, n: int = 100) -> Ranks:
    equal = equal or [0] * len(greater)
    return Ranks(np.arange(len(greater)), np.array(greater), np.array(equal), n)


def values(metric: str, *args: object, ties: str = "expected", **kwargs: object) -> np.ndarray:
    return parse_metric(metric).values(ranks(*args, **kwargs), ties)  # type: ignore[arg-type]


def test_values_by_hand_at_the_cutoff_and_one_behind_it() -> None:
    """@K means K places: rank 10 counts at K = 10 and rank 11 does not (a known slip reports @K+1 as @K)."""
    at = [0, 1, 4, 9, 10]  # ranks 1, 2, 5, 10, 11
    assert values("HR@10", at).tolist() == [1, 1, 1, 1, 0]
    np.testing.assert_allclose(values("NDCG@10", at), [1, 0.63093, 0.38685, 0.28906, 0], atol=5e-6)
    np.testing.assert_allclose(values("MRR@10", at), [1, 1 / 2, 1 / 5, 1 / 10, 0])
    np.testing.assert_allclose(values("MRR", at), [1, 1 / 2, 1 / 5, 1 / 10, 1 / 11])
    np.testing.assert_allclose(values("Precision@10", at), [0.1, 0.1, 0.1, 0.1, 0])
    np.testing.assert_allclose(values("F1@10", at), [2 / 11, 2 / 11, 2 / 11, 2 / 11, 0])
    np.testing.assert_allclose(values("AUC", at), 1 - np.array(at) / 99)


def test_tie_rules_by_hand() -> None:
    """One better item and two tied ones: ranks 2, 3, 4 are equally likely."""
    assert values("HR@2", [1], [2])[0] == pytest.approx(1 / 3)
    assert values("MRR@3", [1], [2])[0] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert values("HR@2", [1], [2], ties="optimistic")[0] == 1
    assert values("HR@2", [1], [2], ties="pessimistic")[0] == 0
    assert values("MRR@3", [1], [2], ties="optimistic")[0] == 1 / 2
    assert values("MRR@10", [1], [2], ties="pessimistic")[0] == 1 / 4
    assert values("AUC", [1], [2])[0] == pytest.approx((99 - 1 - 2 / 2) / 99)  # a tie counts one half


def brute_force(scores: np.ndarray, name: str, k: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """Gain of item 0 after sorting with random tie breaking, one value per repeat."""
    gain = {"HR": lambda r: 1.0, "NDCG": lambda r: 1 / np.log2(r + 1), "MRR": lambda r: 1 / r}[name]
    actual = np.empty(repeats)
    for at in range(repeats):
        order = np.lexsort((rng.random(len(scores)), -scores))
        rank = int(np.flatnonzero(order == 0)[0]) + 1
        actual[at] = gain(rank) if rank <= k else 0.0
    return actual


@pytest.mark.parametrize("name", ["HR", "NDCG", "MRR"])
def test_expected_ties_agree_with_random_tie_breaking(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        scores = rng.integers(0, 4, size=30).astype(float)
        greater, equal = int((scores > scores[0]).sum()), int((scores == scores[0]).sum()) - 1
        drawn = brute_force(scores, name, 8, rng, 3000)
        error = drawn.std() / np.sqrt(len(drawn)) + 1e-12
        assert abs(values(f"{name}@8", [greater], [equal], n=30)[0] - drawn.mean()) < 4 * error


cases = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.just(n), st.integers(0, n - 1).flatmap(lambda g: st.tuples(st.just(g), st.integers(0, n - 1 - g)))
    )
)


@given(cases, st.integers(1, 60))
def test_identities_hold_for_every_rank_and_tie(case: tuple[int, tuple[int, int]], k: int) -> None:
    n, (greater, equal) = case
    k = min(k, n)
    measured = {
        name: Metric(name, k).values(ranks([greater], [equal], n))[0]
        for name in ("HR", "Recall", "Precision", "F1", "NDCG", "MRR", "MAP")
    }
    assert measured["HR"] == measured["Recall"] == pytest.approx(k * measured["Precision"])
    assert measured["MAP"] == measured["MRR"] <= measured["NDCG"] + 1e-12
    assert measured["NDCG"] <= measured["HR"] + 1e-12
    assert measured["F1"] == pytest.approx(2 * measured["HR"] / (k + 1))
    assert measured["HR"] <= Metric("HR", n).values(ranks([greater], [equal], n))[0]
    bounds = [
        values(f"NDCG@{k}", [greater], [equal], n=n, ties=rule)[0] for rule in ("pessimistic", "optimistic")
    ]
    assert bounds[0] - 1e-12 <= measured["NDCG"] <= bounds[1] + 1e-12


@given(cases)
def test_all_metrics_agree_at_one(case: tuple[int, tuple[int, int]]) -> None:
    n, (greater, equal) = case
    hr, ndcg, mrr = (
        Metric(name, 1).values(ranks([greater], [equal], n))[0] for name in ("HR", "NDCG", "MRR")
    )
    assert hr == ndcg == mrr


def test_hit_rate_never_falls_with_k() -> None:
    rng = np.random.default_rng(1)
    some = ranks(rng.integers(0, 50, 200).tolist(), rng.integers(0, 50, 200).tolist())
    means = [Metric("HR", k).values(some).mean() for k in range(1, 101)]
    assert (np.diff(means) >= -1e-12).all()
    assert means[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ALL)
def test_a_random_scorer_meets_its_closed_form(name: str) -> None:
    metric, n, users = parse_metric(name), 50, 20_000
    greater = np.random.default_rng(2).integers(0, n, users)
    actual = metric.values(Ranks(np.arange(users), greater, np.zeros(users, dtype=np.int64), n))
    assert abs(actual.mean() - metric.random_mean(n)) < 3 * metric.random_std(n) / np.sqrt(users) + 1e-12
    assert actual.std() == pytest.approx(metric.random_std(n), rel=0.05, abs=1e-9)


def test_constant_scores_earn_what_random_scores_earn() -> None:
    for name in ALL:
        metric = parse_metric(name)
        assert metric.values(ranks([0], [99]))[0] == pytest.approx(metric.random_mean(100))
    assert parse_metric("HR@10").random_mean(100) == pytest.approx(0.1)


def test_one_more_user_changes_hr_by_one_over_the_users() -> None:
    before, after = [5] * 3 + [50] * 270, [5] * 4 + [50] * 269
    gain = values("HR@10", after).mean() - values("HR@10", before).mean()
    assert gain == pytest.approx(1 / 273, abs=1e-15)


def test_parse_and_write() -> None:
    assert str(parse_metric("ndcg@10")) == "NDCG@10"
    assert parse_metric(" Hit@5 ") == Metric("HR", 5)
    assert str(parse_metric("mrr")) == "MRR"
    assert [str(parse_metric(name)) for name in ALL] == ALL


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NDGC@10", "did you mean 'NDCG'"),
        ("HR", "needs a cutoff, for example HR@10"),
        ("HR@0", "whole number >= 1"),
        ("HR@-3", "whole number >= 1"),
        ("HR@2.5", "whole number >= 1"),
        ("HR@", "whole number >= 1"),
        ("AUC@5", "AUC has no cutoff"),
        ("@10", "no name"),
        ("", "no name"),
        ("quality@5", "known: AUC, Coverage, Entropy, F1, Gini, HR"),
    ],
)
def test_what_is_no_metric_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_metric(text)


def test_a_cutoff_beyond_the_items_is_refused() -> None:
    with pytest.raises(UsageError, match=r"HR@101: K must be in 1..100"):
        values("HR@101", [0])
    assert values("HR@100", [99])[0] == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Ranks(np.arange(1), np.array([100]), np.array([0]), 100), "outside 1..100"),
        (Ranks(np.arange(1), np.array([60]), np.array([40]), 100), "outside 1..100"),
        (Ranks(np.arange(1), np.array([-1]), np.array([0]), 100), "outside 1..100"),
        (
            SimpleNamespace(greater=np.array([1, 2]), equal=np.array([0]), n_candidates=100, limit=None),
            "shapes",
        ),
        (Ranks(np.arange(1), np.array([1.5]), np.array([0]), 100), "type float64"),
        (Ranks(np.arange(0), np.array([], dtype=int), np.array([], dtype=int), 100), "no user"),
    ],
)
def test_damaged_ranks_are_refused(bad: RankCounts, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Metric("HR", 10).values(bad)


def test_unknown_tie_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'optimistic'"):
        values("HR@10", [0], ties="optimist")


def test_every_metric_says_its_formula() -> None:
    assert Metric("NDCG", 10).formula() == "1/log2(r+1) if r <= 10"
    assert Metric("F1", 2).formula("K") == "2/(K+1) if r <= K"
    assert Metric("MRR").formula() == "1/r"


def ranking_with(lists: np.ndarray, n_items: int) -> Ranking:
    """A ranking of as many users, with these lists under "none" and one item for all under "input"."""
    n, lists = len(lists), lists.astype(np.int32)
    counts = np.zeros(n, dtype=np.int64)
    scores = np.zeros(lists.shape, dtype=np.float16)
    return Ranking(
        name="test", user=np.arange(n), target=np.ones(n, dtype=np.int64), n_items=n_items,
        counts=dict.fromkeys(RULES, (counts, counts)),
        lists={"none": TopLists(lists, scores), "input": TopLists(0 * lists + 1, scores)},
    )  # fmt: skip


def coverage(lists: np.ndarray, k: int, n_items: int) -> float:
    return parse_metric(f"coverage@{k}").value(ranking_with(lists, n_items), "none")


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 30))
def test_coverage_of_one_list_for_all_is_k_of_n(n_users: int, k: int, more: int) -> None:
    n_items = k + more
    lists = np.tile(np.random.default_rng(n_users).permutation(n_items)[:k] + 1, (n_users, 1))
    assert coverage(lists, k, n_items) == k / n_items


def test_coverage_of_round_robin_lists_is_one() -> None:
    """User u gets items uK+1 .. uK+K, modulo N."""
    lists = (np.arange(60).reshape(20, 3) % 30) + 1
    assert coverage(lists, 3, 30) == 1.0
    assert coverage(lists[:5], 3, 30) == 0.5
    assert coverage(lists, 1, 30) == pytest.approx(1 / 3)


def test_coverage_of_random_lists_meets_its_expectation() -> None:
    """Each of N items is missed by all of U independent lists of K with probability (1 - K/N)^U."""
    rng, n_items, k, n_users = np.random.default_rng(0), 400, 5, 60
    actual = [
        coverage(np.stack([rng.permutation(n_items)[:k] for _ in range(n_users)]) + 1, k, n_items)
        for _ in range(30)
    ]
    expected = 1 - (1 - k / n_items) ** n_users
    assert np.mean(actual) == pytest.approx(expected, abs=4 * np.std(actual) / np.sqrt(30))
    assert 0.45 < expected < 0.6


def test_coverage_by_hand() -> None:
    """8 items, lists (1 2 3), (1 4 2), (5 1 6): six of them stand in a list; empty slots are not items."""
    lists = np.array([[1, 2, 3], [1, 4, 2], [5, 1, 6]])
    assert coverage(lists, 3, 8) == 0.75
    assert coverage(lists, 1, 8) == 0.25
    assert coverage(np.array([[1, 0, 0], [2, 0, 0]]), 3, 8) == 0.25
    assert parse_metric("Coverage@3").value(ranking_with(lists, 8), "input") == 1 / 8


def test_a_metric_of_the_catalogue_has_no_value_per_user() -> None:
    metric = parse_metric("COVERAGE@10")
    assert (str(metric), metric.needs, metric.per) == ("Coverage@10", "lists", "catalogue")
    assert {(parse_metric(name).needs, parse_metric(name).per) for name in ALL} == {("ranks", "user")}
    for ask in (lambda: metric.values(ranks([0], [0])), lambda: metric.random_mean(100)):
        with pytest.raises(UsageError, match=r"Coverage@10 has a value for the catalogue and none per user"):
            ask()
    with pytest.raises(UsageError, match=r"Coverage@9: K must be in 1..8"):
        coverage(np.ones((2, 8)), 9, 8)
    with pytest.raises(UsageError, match="metric Coverage needs a cutoff"):
        parse_metric("coverage")


def _listed(lists: list[list[int]], n_items: int) -> Ranking:
    items = np.array(lists, dtype=np.int32)
    zeros = np.zeros(len(items), dtype=np.int64)
    return Ranking(
        name="test", user=np.arange(len(items)), target=zeros + 1, n_items=n_items,
        counts=dict.fromkeys(RULES, (zeros, zeros)), lists={"none": TopLists(items, items.astype(np.float16))},
    )  # fmt: skip


def test_gini_and_entropy_of_lists_by_closed_forms() -> None:
    """Constant lists: 1 - K/N and ln K / ln N; round robin: 0 and 1; the numbers of a worked example."""
    gini, entropy, coverage = (parse_metric(f"{name}@3") for name in ("gini", "entropy", "coverage"))
    constant = _listed([[2, 5, 7]] * 11, 12)
    assert gini.value(constant, "none") == pytest.approx(1 - 3 / 12, abs=1e-12)
    assert entropy.value(constant, "none") == pytest.approx(np.log(3) / np.log(12), abs=1e-12)
    around = _listed([[3 * u % 12 + k for k in (1, 2, 3)] for u in range(8)], 12)
    assert gini.value(around, "none") == pytest.approx(0, abs=1e-12)
    assert entropy.value(around, "none") == pytest.approx(1, abs=1e-12)
    example = _listed([[1, 2, 3], [1, 4, 2], [5, 1, 6]], 8)
    assert coverage.value(example, "none") == 0.75
    assert gini.value(example, "none") == pytest.approx(0.4305555556, abs=1e-10)
    assert entropy.value(example, "none") == pytest.approx(0.8064606485, abs=1e-10)
