"""Rows that no users can give: no false alarm, no planted one missed.

Run: python -m pytest tests/audit/test_bands.py
"""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.audit.bands import check_row, rules
from mmbench.audit.finding import Finding
from mmbench.audit.ranks import Box, conflict, gains, reach
from mmbench.evaluation.metrics import Metric, parse_metric
from tests.audit.making import mean, printed, row, row_of_runs

ALL = [Metric(name, k) for name in ("HR", "NDCG", "MRR") for k in (1, 5, 10, 20)]
TABLE1 = [parse_metric(name) for name in ("NDCG@5", "NDCG@10", "MRR@5", "MRR@10")]
RANKS = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 40)), min_size=1, max_size=50)
RUNS = st.lists(RANKS, min_size=1, max_size=4)
METRICS = st.lists(st.sampled_from(ALL), min_size=1, max_size=6, unique=True)
SASREC_TOYS = {"NDCG@5": "0.0348", "NDCG@10": "0.0411", "MRR@5": "0.0257", "MRR@10": "0.0295"}


@settings(max_examples=100, deadline=None)
@given(RUNS, METRICS, st.integers(2, 6))
def test_rounded_metrics_of_ranks_are_never_reported(
    runs: list[list[int]], metrics: list[Metric], digits: int
) -> None:
    assert check_row(row_of_runs(runs, metrics, digits)) == []


@settings(max_examples=60, deadline=None)
@given(RUNS, METRICS, st.integers(2, 5))
def test_metrics_whose_digits_were_cut_are_at_most_a_remark(
    runs: list[list[int]], metrics: list[Metric], digits: int
) -> None:
    actual = check_row(row_of_runs(runs, metrics, digits, cut=True))
    assert all(finding.weight == "remark" and "cut off" in finding.hints[-1] for finding in actual)


@settings(max_examples=15, deadline=None)
@given(RUNS.filter(lambda runs: any(6 <= rank <= 10 for ranks in runs for rank in ranks)))
def test_a_gain_of_mrr_that_ndcg_cannot_follow_is_reported(runs: list[list[int]]) -> None:
    gain = mean(TABLE1[1], runs) - mean(TABLE1[0], runs)
    lied = mean(TABLE1[2], runs) + gain / (6 / math.log2(7)) + 0.0005
    honest = row_of_runs(runs, TABLE1, 4)
    actual = check_row(replace(honest, scores={**honest.scores, TABLE1[3]: printed(lied, 4)}))
    assert any("MRR@10" in " ".join(finding.numbers) for finding in actual)


@pytest.mark.parametrize(
    ("scores", "rule"),
    [
        ({"HR@5": "0.2001", "HR@10": "0.1999"}, "HR@10 >= HR@5"),
        ({"NDCG@5": "0.2001", "NDCG@10": "0.1999"}, "NDCG@10 >= NDCG@5"),
        ({"HR@10": "0.1999", "NDCG@10": "0.2001"}, "HR@10 >= NDCG@10"),
        ({"NDCG@10": "0.1999", "MRR@10": "0.2001"}, "NDCG@10 >= MRR@10"),
        ({"HR@10": "0.3000", "NDCG@10": "0.0866"}, "NDCG@10 >= 0.2890 x HR@10"),
        ({"HR@10": "0.3000", "MRR@10": "0.0299"}, "MRR@10 >= 0.1000 x HR@10"),
        ({"NDCG@10": "0.0300", "MRR@10": "0.0103"}, "MRR@10 >= 0.3459 x NDCG@10"),
        ({"HR@1": "0.1003", "MRR@10": "0.1001"}, "MRR@10 >= HR@1"),
    ],
)
def test_each_known_bound_just_beyond_its_border_is_reported_and_on_it_is_not(
    scores: dict[str, str], rule: str
) -> None:
    (actual,) = check_row(row(scores))
    assert actual.weight == "impossible" or "cut off" in actual.hints[-1]
    assert actual.rule.startswith(rule)
    assert set(actual.numbers) == {f"{name} {text[1:]}" for name, text in scores.items()}
    small, large = sorted(scores, key=lambda name: name != rule.split(" ")[0], reverse=True)
    raised = f"{float(scores[large]) + 0.0001:.4f}"
    assert check_row(row({small: scores[small], large: raised})) == []


def test_the_band_of_differences_is_tight() -> None:
    # 2.1372 x (.0100 - .0001) = .02116: a gain of NDCG of .0211 + .0001 is enough, .0210 + .0001 is not
    scores = {"NDCG@5": "0.0150", "MRR@5": "0.0100", "MRR@10": "0.0200"}
    assert check_row(row({**scores, "NDCG@10": "0.0361"})) == []
    (actual,) = check_row(row({**scores, "NDCG@10": "0.0360"}))
    assert len(actual.numbers) == 4
    # and from the other side: 10/log2(11) = 2.8906, times (.0100 + .0001) = .029195
    assert check_row(row({**scores, "NDCG@10": "0.0442"})) == []
    assert len(check_row(row({**scores, "NDCG@10": "0.0443"}))) == 1


def test_three_metrics_of_which_no_two_disagree() -> None:
    # with HR .1 and MRR .05 the largest NDCG is .0631 (every hit at rank 2)
    scores = {"HR@10": "0.1000", "MRR@10": "0.0500", "NDCG@10": "0.0700"}
    (actual,) = check_row(row(scores))
    assert len(actual.numbers) == 3
    for name in scores:
        assert check_row(row({metric: text for metric, text in scores.items() if metric != name})) == []
    assert check_row(row({**scores, "NDCG@10": "0.0631"})) == []
    assert check_row(row({**scores, "NDCG@10": "0.0605"})) == []  # ranks 1 and 10 only
    assert check_row(row({**scores, "NDCG@10": "0.0602"})) != []


@pytest.mark.parametrize("ndcg", ["0.0700", "0.0602"])
def test_a_proof_can_be_checked_by_hand(ndcg: str) -> None:
    scores = {"HR@10": "0.1000", "MRR@10": "0.0500", "NDCG@10": ndcg}
    (actual,) = check_row(row(scores))
    left, bound = re.fullmatch(r"(.+) <= (\S+): users .*", actual.rule).groups()
    terms = re.findall(r"(-|\+|^) ?(?:(\S+) x )?([A-Z]+@\d+)", left)
    weights = {name: (-1 if sign == "-" else 1) * float(weight or 1) for sign, weight, name in terms}
    assert set(weights) == set(scores)
    for rank in range(1, 11):
        gains = {"HR@10": 1, "MRR@10": 1 / rank, "NDCG@10": 1 / math.log2(rank + 1)}
        assert sum(weight * gains[name] for name, weight in weights.items()) <= float(bound) + 5e-5
    ends = {name: float(text) - math.copysign(0.00005, weights[name]) for name, text in scores.items()}
    least = sum(weight * ends[name] for name, weight in weights.items())
    assert least > float(bound)
    assert f"= {least:.5f}".replace("= 0.", "= .").replace("= -0.", "= -.") in actual.arithmetic


def test_only_the_smallest_conflicts_are_named() -> None:
    (actual,) = check_row(row({"HR@5": "0.0500", "HR@10": "0.0400", "NDCG@10": "0.0300"}))
    assert actual.numbers == ("HR@5 .0500", "HR@10 .0400")
    actual = check_row(row({"HR@5": "0.05", "HR@10": "0.02", "NDCG@10": "0.10", "MRR@10": "0.30"}))
    pairs = {finding.numbers for finding in actual}
    assert ("HR@5 .05", "HR@10 .02") in pairs
    assert ("NDCG@10 .10", "MRR@10 .30") in pairs
    assert all(len(pair) == 2 for pair in pairs)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 2000))
def test_ndcg_and_mrr_agree_with_their_wedge(ndcg: int, mrr: int) -> None:
    actual = check_row(row({"NDCG@10": f"{ndcg / 10_000:.4f}", "MRR@10": f"{mrr / 10_000:.4f}"}))
    widest = 10 / math.log2(11)
    possible = ndcg + 0.5 >= mrr - 0.5 and max(ndcg - 0.5, 0) <= widest * (mrr + 0.5)
    assert (actual == []) == possible


@given(st.lists(st.sampled_from(ALL), min_size=2, max_size=6, unique=True))
@settings(max_examples=50, deadline=None)
def test_rules_hold_at_every_rank_and_are_tight_at_theirs(metrics: list[Metric]) -> None:
    for rule in rules(metrics):
        large, small = rule.large.gains(25), rule.small.gains(25)
        assert (large >= rule.factor * small - 1e-12).all(), rule
        at = rule.rank - 1
        assert large[at] == pytest.approx(rule.factor * small[at], abs=1.1e-4 * small[at] + 1e-12)


def repairs(finding: Finding) -> dict[str, tuple[int, int]]:
    """`NDCG@5 .0298 to .0332` -> {"NDCG@5": (298, 332)}."""
    actual = re.findall(r"(\w+@\d+) (\.\d+) to (\.\d+)", finding.hints[0])
    return {name: (round(float(low) * 10_000), round(float(high) * 10_000)) for name, low, high in actual}


def test_the_named_repairs_are_exactly_those_that_help() -> None:
    (actual,) = check_row(row(SASREC_TOYS))
    named = repairs(actual)
    assert set(named) == set(SASREC_TOYS)
    for name, (low, high) in named.items():
        for value, helps in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            tried = check_row(row({**SASREC_TOYS, name: f"{value / 10_000:.4f}"}))
            assert (tried == []) == helps, (name, value)


def test_reach_is_what_brute_force_reaches() -> None:
    rng = np.random.default_rng(0)
    box = Box.of(row({"HR@10": "0.5", "MRR@10": "0.2"}).scores)
    low, high = reach(Metric("NDCG", 10), box)
    shares = rng.dirichlet(np.full(11, 0.3), 200_000)[:, :10]
    inside = np.ones(len(shares), dtype=bool)
    for metric, least, most in zip(box.metrics, box.low, box.high, strict=True):
        inside &= (shares @ gains(metric, 10) >= least) & (shares @ gains(metric, 10) <= most)
    reached = (shares @ gains(Metric("NDCG", 10), 10))[inside]
    assert low <= reached.min() < low + 0.01
    assert high - 0.02 < reached.max() <= high


def test_more_than_everybody_is_impossible() -> None:
    (actual,) = check_row(row({"HR@10": "1.01"}))
    assert actual.weight == "impossible"
    assert check_row(row({"HR@10": "1.00", "NDCG@10": "1.00"})) == []
    assert len(check_row(row({"HR@1": "0.60", "MRR@1": "0.55"}))) == 1


def test_metrics_without_a_cutoff_are_left_alone() -> None:
    assert check_row(row({"AUC": "0.9", "MRR": "0.5"})) == []


def test_the_solver_is_believed_only_with_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box.of(row({"HR@10": "0.3000", "NDCG@10": "0.2000"}).scores)
    monkeypatch.setattr("mmbench.audit.ranks._dual", lambda box: np.array([1.0, -1.0]))
    assert conflict(box) is None
