"""Improvements, ranges, marks, statistics, repeated rows. Run: python -m pytest tests/audit/test_claims.py"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.audit.counted import check_statistics
from mmbench.audit.finding import Finding
from mmbench.audit.improved import check_improved, check_ranges, check_underlined
from mmbench.audit.repeats import check_repeats
from mmbench.audit.sources import PaperClaims, Row, TableClaims
from tests.audit.making import row

Check = Callable[[Sequence[Row], dict[str, Any]], list[Finding]]


def paper(**tables: dict[str, Any]) -> PaperClaims:
    return PaperClaims.model_validate(
        {
            "title": "P",
            "one_target": "yes",
            "statistics": "s",
            "tables": tables,
            "same": tables.pop("same", []),
        }
    )


def improved(rows: Sequence[Row], percent: str) -> list[Finding]:
    claims = paper(t={"improved": {"ours": "a", "percent": {"d": {"HR@10": percent}}}})
    return list(check_improved(rows, "t", claims.tables["t"], claims))


def rows_of(*values: str) -> list[Row]:
    return [row({"HR@10": value}, method=name) for name, value in zip("abcdefgh", values, strict=False)]


@settings(max_examples=300)
@given(st.lists(st.floats(0.001, 0.6), min_size=2, max_size=6), st.integers(3, 5), st.integers(0, 3))
def test_true_improvements_are_never_reported(values: list[float], digits: int, places: int) -> None:
    rows = rows_of(*(f"{value:.{digits}f}" for value in values))
    ours, second = values[0], max(values[1:])
    exact = improved(rows, f"{100 * (ours - second) / second:.{places}f}")
    assert exact == []
    a, b = (float(f"{value:.{digits}f}") for value in (ours, second))
    if b > 0:
        assert improved(rows, f"{100 * (a - b) / b:.{places}f}") == []


def test_improvements_beyond_the_border_are_reported() -> None:
    rows = rows_of("0.2757", "0.2746", "0.2000")
    # (.27575 - .27455) / .27455 = .437 %, (.27565 - .27465) / .27465 = .364 %
    for percent, wrong in (("0.40", False), ("0.44", False), ("0.45", True), ("0.36", False), ("0.35", True)):
        assert bool(improved(rows, percent)) == wrong, percent
    (actual,) = improved(rows, "37.85")
    assert actual.weight == "contradiction"
    assert (
        actual.arithmetic == "(.2757 - .2746) / .2746 = +.40 % (with rounding +.36 to +.44), printed 37.85 %"
    )
    assert actual.hints == ("it would be right against c",)


def test_improvements_right_only_with_digits_cut_off_are_remarks() -> None:
    # 1.69 % before rounding, or 1.68 to 1.70
    (actual,) = improved(rows_of("1.0169", "1.0000"), "1.6")
    assert actual.weight == "remark"
    assert improved(rows_of("1.0169", "1.0000"), "1.7") == []


def test_a_percentage_that_stands_in_another_table_is_named() -> None:
    claims = paper(
        t={"improved": {"ours": "a", "percent": {"d": {"HR@10": "11.86"}}}},
        u={"improved": {"ours": "a", "percent": {"e": {"HR@5": "11.86"}}}},
    )
    (actual,) = check_improved(rows_of("0.3000", "0.2000"), "t", claims.tables["t"], claims)
    assert actual.hints == ("11.86 % is also printed in u under e HR@5",)


def test_a_second_that_may_be_nothing_proves_nothing() -> None:
    assert improved(rows_of("0.3", "0.0"), "5.0") == []


def ranges(rows: Sequence[Row], **claim: Any) -> list[Finding]:
    return list(
        check_ranges(rows, TableClaims.model_validate({"ranges": [{"source": "s", "ours": "a", **claim}]}))
    )


def test_ranges_of_improvements() -> None:
    rows = [
        *rows_of("0.30", "0.20", "0.25"),
        *(row({"NDCG@10": v}, method=m) for m, v in (("a", ".22"), ("b", ".20"))),
    ]
    # over all others: HR 20 % (15.7 to 24.5 with rounding), NDCG 10 % (4.9 to 15.4)
    assert ranges(rows, low="10.0", high="20.0") == []
    assert ranges(rows, low="4.9", high="23.4") == []
    (low,) = ranges(rows, low="16.0")
    (high,) = ranges(rows, high="15.0")
    assert low.numbers == ("smallest improvement 16.0 %",)
    assert "d NDCG@10: (.22 - .20) / .20 = 10.00 % against b" in low.arithmetic
    assert "d HR@10: (.30 - .25) / .25 = 20.00 % against c" in high.arithmetic
    assert ranges(rows, against=["b"], high="50.0") == []
    assert len(ranges(rows, against=["b"], high="20.0")) == 1


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        (("0.3", "0.2", "0.1"), [0, 2]),
        (("0.3", "0.2", "0.2"), []),  # both are second; the first is the best alone
        (("0.3", "0.3", "0.1"), [2]),  # equal bests share the places
        (("0.3", "0.3", "0.3"), []),
    ],
)
def test_underlined_numbers_are_the_second_of_their_column(values: tuple[str, ...], wrong: list[int]) -> None:
    marks = TableClaims.model_validate({"underlined": [["abc"[at], "d", "HR@10"] for at in range(3)]})
    actual = {finding.method for finding in check_underlined(rows_of(*values), marks)}
    assert actual - {"a"} == {"abc"[at] for at in wrong} - {"a"}
    assert ("a" in actual) == (values[0] > values[1])


def statistics(**changed: str) -> list[Finding]:
    counts = {"users": "100", "items": "40", "interactions": "870", **changed}
    return list(check_statistics(TableClaims.model_validate({"statistics": {"d": counts}})))


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 10**7), st.integers(0, 4))
def test_true_statistics_are_never_reported(users: int, items: int, events: int, places: int) -> None:
    events = min(events, users * items)
    texts = {
        "users": f"{users:,}",
        "items": f"{items}",
        "interactions": f"{events:,}",
        "per_user": f"{events / users:.{places}f}",
        "per_item": f"{events / items:.{places}f}",
        "sparsity": f"{100 * (1 - events / (users * items)):.{places}f}",
    }
    assert statistics(**texts) == []


@pytest.mark.parametrize(
    ("key", "text", "weight"),
    [
        ("per_user", "8.71", "contradiction"),
        ("per_user", "8.68", "contradiction"),
        ("per_item", "21.8", None),
        ("per_item", "21.7", None),  # 21.75, on the border of both
        ("per_item", "21.73", "contradiction"),
        ("sparsity", "78.2", None),  # 78.25
        ("sparsity", "78.3", None),
        ("sparsity", "78.1", "contradiction"),
    ],
)
def test_statistics_beyond_the_border_are_reported(key: str, text: str, weight: str | None) -> None:
    actual = statistics(**{key: text})
    assert [finding.weight for finding in actual] == ([weight] if weight else [])


def test_cut_digits_of_a_statistic_are_a_remark() -> None:
    (actual,) = statistics(interactions="877", per_user="8.7")
    assert actual.weight == "remark"
    assert actual.arithmetic == "877 / 100 = 8.77, printed 8.7"


def test_too_few_events_for_the_shortest_history() -> None:
    counts = {"users": "100", "items": "10", "interactions": "499"}
    claims = {"statistics": {"d": counts}, "fewest_per_user": 5, "fewest_per_item": 50}
    users, items = check_statistics(TableClaims.model_validate(claims))
    assert users.arithmetic == "5 x 100 = 500 > 499"
    assert items.arithmetic == "50 x 10 = 500 > 499"
    counts["interactions"] = "500"
    assert list(check_statistics(TableClaims.model_validate(claims))) == []


def test_a_row_in_two_tables_has_one_set_of_numbers() -> None:
    same = [{"methods": ["x", "y"], "why": "w"}]
    rows = [
        row({"HR@10": "0.30", "NDCG@10": "0.20"}, method="x", table="t"),
        row({"HR@10": "0.30", "NDCG@10": "0.21"}, method="x", table="u"),
        row({"HR@10": "0.30", "NDCG@10": "0.20"}, method="y", table="u"),
        row({"HR@10": "0.30", "NDCG@10": "0.20"}, method="z", table="u"),
        row({"HR@10": "0.30", "NDCG@10": "0.20"}, method="x", table="u", dataset="e"),
    ]
    actual = list(check_repeats(rows, "t", paper(same=same)))
    assert [(finding.check, finding.weight) for finding in actual] == [
        ("repeat", "contradiction"),
        ("twins", "remark"),
    ]
    assert "in t; HR@10 .30, NDCG@10 .21 in u" in actual[0].arithmetic
    assert "z (u)" in actual[1].rule
    assert list(check_repeats(rows, "v", paper(same=same))) == []
    assert [repeat.check for repeat in check_repeats(rows[:3], "u", paper(same=same))] == ["repeat", "repeat"]


def test_one_equal_number_is_no_twin() -> None:
    rows = [row({"HR@10": "0.30"}, method=name) for name in "xy"]
    assert list(check_repeats(rows, "t", paper())) == []
