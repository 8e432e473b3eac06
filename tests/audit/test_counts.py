"""Hit rates as whole numbers of users. Run: python -m pytest tests/audit/test_counts.py"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.audit.counts import chance, check_columns, count_hits, hit_columns, mean_chance, tail
from mmbench.audit.number import READINGS, Printed
from mmbench.audit.sources import Row
from tests.audit.making import row


@given(
    st.integers(1, 20_000).flatmap(lambda users: st.tuples(st.just(users), st.integers(0, users))),
    st.integers(2, 6),
)
def test_every_single_run_has_its_count(case: tuple[int, int], digits: int) -> None:
    users, hits = case
    actual = count_hits("m", Printed.parse(f"{hits / users:.{digits}f}"), users)
    assert actual.reading == "rounded"
    if users < 10**digits:
        assert actual.hits == hits
    exact = Fraction(hits * 10**digits, users)
    cut = count_hits("m", Printed.parse(f"{exact.__floor__() / 10**digits:.{digits}f}"), users)
    assert cut.hits is not None


def test_both_sides_of_a_border() -> None:
    # 67/273 = .24542, 68/273 = .24908
    for text, hits in (("0.2453", None), ("0.2454", 67), ("0.2455", None), ("0.2490", 68), ("0.2491", 68)):
        assert count_hits("m", Printed.parse(text), 273).hits == hits
    assert count_hits("m", Printed.parse("0.2490"), 273).reading == "cut"
    assert (
        count_hits("m", Printed.parse("0.1831"), 273).reading == "cut"
    )  # 50/273 = .18315018 rounds to .1832
    assert count_hits("m", Printed.parse("1.0000"), 273).hits == 273
    assert count_hits("m", Printed.parse("1.0010"), 273).hits is None


@pytest.mark.parametrize("users", [7, 30, 99, 150])
def test_chances_agree_with_plain_counting(users: int) -> None:
    for readings in (("rounded",), READINGS):
        decimals = [Printed(f"{n}", Fraction(n, 100), Fraction(1, 100)) for n in range(101)]
        good = [
            any(decimal.span(reading)[0] <= Fraction(k, users) <= decimal.span(reading)[1]
                for k in range(users + 1) for reading in readings)
            for decimal in decimals
        ]  # fmt: skip
        assert chance(users, 2, readings) == pytest.approx(np.mean(good))
        means = [good[int(Fraction(100 * k, 3 * users) + Fraction(1, 2))] for k in range(3 * users + 1)]
        assert mean_chance(users, 2, readings, 3) == pytest.approx(np.mean(means))


def test_tail_is_that_of_the_binomial() -> None:
    from scipy.stats import binom

    for k in range(13):
        assert tail(k, 12, 0.1) == pytest.approx(binom.sf(k - 1, 12, 0.1))
    assert tail(12, 12, 1.0) == 1.0


def columns_of(rates: np.ndarray) -> list[Row]:
    return [row({"HR@10": f"{rate:.4f}"}, method=f"m{at}") for at, rate in enumerate(rates)]


def test_single_runs_are_told_from_means_over_runs() -> None:
    rng = np.random.default_rng(0)
    told = np.zeros((2, 200), dtype=bool)
    for at in range(200):
        rate = rng.uniform(0.05, 0.5, (12, 1))
        runs = rng.binomial(273, rate, (12, 10)) / 273
        for kind, rates in enumerate((runs[:, 0], runs.mean(1))):
            (column,) = hit_columns(columns_of(rates), {"d": 273}, 10)
            told[kind, at] = column.single
            actual = check_columns([column])
            assert [finding.check for finding in actual] == (["runs"] if column.single else [])
    assert told[0].mean() > 0.99
    assert not told[1].any()


def test_one_stranger_among_single_runs_is_named() -> None:
    rates = np.append(np.array([97, 92, 72, 49, 36, 68, 93, 53]) / 273, 0.2472)
    (column,) = hit_columns(columns_of(rates), {"d": 273}, 10)
    runs, stranger = check_columns([column])
    assert runs.check == "runs"
    assert "8 of 9 different values are k/273" in runs.arithmetic
    assert (stranger.check, stranger.method) == ("count", "m8")
    assert stranger.arithmetic == ".2472 x 273 = 67.49; 67/273 = .24542, 68/273 = .24908"
    assert stranger.hints[0] == "67 of 271 users would give it"
    assert stranger.hints[1] == "135 hits in 2 runs, 135/546, would give it with digits cut off"


def test_equal_values_are_one_witness() -> None:
    (column,) = hit_columns(columns_of(np.full(12, 104 / 273)), {"d": 273}, 10)
    assert (column.strict.fitting, column.strict.total) == (1, 1)
    assert not column.single


def test_many_users_say_nothing() -> None:
    (column,) = hit_columns(columns_of(np.array([0.1234, 0.4321])), {"d": 14_893}, 10)
    assert column.says_nothing
    assert not column.single
    assert check_columns([column]) == []


def test_single_runs_are_no_finding_where_nobody_spoke_of_several() -> None:
    rates = np.arange(20, 40) / 273
    (column,) = hit_columns(columns_of(rates), {"d": 273}, 1)
    assert column.single
    assert check_columns([column]) == []
    assert hit_columns(columns_of(rates), {"other": 273}, 1) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 400), st.lists(st.integers(0, 400), min_size=1, max_size=12), st.integers(3, 5))
def test_no_single_run_is_ever_a_stranger(users: int, hits: list[int], digits: int) -> None:
    rows = [
        row({"HR@10": f"{min(k, users) / users:.{digits}f}"}, method=f"m{at}") for at, k in enumerate(hits)
    ]
    (column,) = hit_columns(rows, {"d": users}, 10)
    assert all(finding.check == "runs" for finding in check_columns([column]))
