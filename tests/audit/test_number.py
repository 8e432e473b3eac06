"""Printed numbers and the intervals they stand for. Run: python -m pytest tests/audit/test_number.py"""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.audit.number import Printed, decimal_text, overlap


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("0.0411", Fraction(411, 10_000), Fraction(1, 10_000)),
        ("+20.9", Fraction(209, 10), Fraction(1, 10)),
        ("6.10", Fraction(61, 10), Fraction(1, 100)),
        ("167,597", Fraction(167_597), Fraction(1)),
        (".5", Fraction(1, 2), Fraction(1, 10)),
        ("-0.7", Fraction(-7, 10), Fraction(1, 10)),
    ],
)
def test_value_and_last_digit_are_exact(text: str, value: Fraction, unit: Fraction) -> None:
    parsed = Printed.parse(text)
    assert (parsed.value, parsed.unit) == (value, unit)
    assert parsed.span() == (value - unit / 2, value + unit / 2)
    assert parsed.span("cut") == (value, value + unit)


@pytest.mark.parametrize("text", ["", "-", ".", "12,34", "1e-3", "20.9%", "nan", "1.", "1 2"])
def test_what_is_no_printed_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a printed number"):
        Printed.parse(text)


@given(st.floats(0, 1), st.integers(1, 8))
def test_a_rounded_number_stands_for_what_it_was(value: float, digits: int) -> None:
    low, high = Printed.parse(f"{value:.{digits}f}").span()
    assert low <= Fraction(value) <= high


def test_borders_belong_to_both_neighbours() -> None:
    assert overlap(Printed.parse("0.12").span(), Printed.parse("0.13").span())
    assert not overlap(Printed.parse("0.12").span(), Printed.parse("0.14").span())


def test_text_has_no_zero_before_the_point() -> None:
    assert decimal_text(0.0411, 4) == ".0411"
    assert decimal_text(-0.72, 2) == "-.72"
    assert decimal_text(2.5, 2, sign=True) == "+2.50"
    assert str(Printed.parse("0.3700")) == ".3700"
