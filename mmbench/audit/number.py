"""A printed number: its exact value, its last digit, and the interval in which the unprinted number lay.

`.0411` may have been anything in [.04105, .04115] if it was rounded, in [.0411, .0412] if its further digits were
cut off. Both intervals are closed, so that a number exactly on a border is inside, whichever way it was rounded.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Span = tuple[Fraction, Fraction]
Reading = Literal["rounded", "cut"]
READINGS: tuple[Reading, ...] = ("rounded", "cut")

_FORM = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?")


@dataclass(frozen=True)
class Printed:
    """A printed `text`, its `value`, and the `unit` of its last digit (both exact)."""

    text: str
    value: Fraction
    unit: Fraction

    @classmethod
    def parse(cls, text: str) -> "Printed":
        """Parse `0.0411`, `+20.9`, `19,412`; ValueError for anything else. A percent sign is not part of it."""
        plain = text.strip()
        if not _FORM.fullmatch(plain) or not any(sign.isdigit() for sign in plain):
            raise ValueError(f"{text!r} is not a printed number")
        plain = plain.replace(",", "")
        return cls(text.strip(), Fraction(plain), Fraction(1, 10 ** len(plain.partition(".")[2])))

    @property
    def digits(self) -> int:
        """The number of digits after the point."""
        return len(str(self.unit.denominator)) - 1

    def span(self, reading: Reading = "rounded") -> Span:
        if reading == "cut":
            return self.value, self.value + self.unit
        return self.value - self.unit / 2, self.value + self.unit / 2

    def __str__(self) -> str:
        return decimal_text(self.value, self.digits)


def overlap(a: Span, b: Span) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def decimal_text(value: Fraction | float, digits: int, *, sign: bool = False) -> str:
    """Return `.0411`: `digits` digits, no zero before the point; `+.0411` with `sign`."""
    text = f"{float(value):{'+' if sign else ''}.{digits}f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", text)
