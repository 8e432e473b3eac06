"""Timestamps of raw files -> ticks, and whether a file's times can be meant as its table declares them.

A tick is a microsecond since 1970. All arithmetic is that of whole numbers: floating point would merge neighbouring
seconds (float32 steps are 128 s at 1.4e9).
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.errors import DataError

TICKS = 1_000_000  # ticks of a second
LATEST = 100_000_000_000  # unix seconds; later "seconds" (year 5138) are milliseconds
ORDER = "order"  # the unit of positions: they say which event comes first, and nothing else
# No shop or platform has events outside of these years, so a whole file of them is declared in a wrong unit.
FIRST_YEAR, LAST_YEAR = 1980, 2100
SHOWN_LETTERS = 60
_TICKS_OF = {"s": TICKS, "ms": TICKS // 1000}
_MOST = 10**17  # of a position
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZONE = re.compile(r"\s*(?:UTC|GMT|Z)$", re.IGNORECASE)


def shown(value: Any) -> str:
    """Return a value of a raw file for a message, cut to what fits on a line."""
    is_huge = (
        isinstance(value, int) and abs(value) >= 10**SHOWN_LETTERS
    )  # Python refuses to print 5,000 digits
    text = "of too many digits" if is_huge else repr(value)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."


def parse_ticks(value: Any, unit: str) -> int:
    """Return a timestamp in ticks, or a position as it is; ValueError says what is wrong with it.

    unit  "s" or "ms" since 1970 (fractions are kept to the microsecond), "iso" dates, or "order"
    """
    if unit == "iso":
        return _parse_iso(value)
    if unit == ORDER:
        return _parse_position(value)
    ticks = value * _TICKS_OF[unit] if type(value) is int else int(_parse_number(value) * _TICKS_OF[unit])
    if ticks < 0:
        raise ValueError(f"timestamp {shown(value)} is before 1970")
    if ticks > LATEST * TICKS:
        raise ValueError(f"timestamp {shown(value)} is too large{_hint(ticks // _TICKS_OF[unit], unit)}")
    return ticks


def _parse_position(value: Any) -> int:
    number = value if type(value) is int else _parse_number(value)
    if number != int(number) or not 0 <= number <= _MOST:
        raise ValueError(f"position {shown(value)} is not a whole number from 0 to {_MOST:,}")
    return int(number)


def _parse_number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | float):
        raise ValueError(f"timestamp {shown(value)} is not a number")
    try:
        number = Decimal(value.strip() if isinstance(value, str) else repr(value))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ValueError(f"timestamp {shown(value)} is not a number")
    if number.adjusted() >= 30:  # int() of 1e999999999 would never finish
        raise ValueError(f"timestamp {shown(value)} is too large")
    return number


def _parse_iso(value: Any) -> int:
    text = str(value) if type(value) is int and 0 < value < 10**8 else value  # 20140514 of a Parquet file
    try:
        moment = datetime.fromisoformat(_ZONE.sub("+00:00", text.strip()))
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f"timestamp {shown(value)} is not an ISO date such as 2014-07-23 or 2014-07-23T12:00:00Z"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    ticks = (moment - _EPOCH) // timedelta(microseconds=1)
    if ticks < 0:
        raise ValueError(f"timestamp {shown(value)} is before 1970")
    return ticks


def iso_text(ticks: int) -> str:
    """Return a time as an ISO date; a time after the year 9999, which has none, as words that no unit accepts."""
    try:
        return (_EPOCH + timedelta(microseconds=ticks)).isoformat()
    except OverflowError:
        return f"{ticks} microseconds from 1970"


def check_period(file: Path, ticks: np.ndarray, unit: str) -> None:
    """Raise DataError when the newest event of a file (ticks int64 [E]) is in a year that only a wrong unit gives."""
    newest = int(ticks.max())
    if _is_plausible(newest):
        return
    first, last = (iso_text(int(tick))[:10] for tick in (ticks.min(), newest))
    raw = newest // _TICKS_OF.get(unit, 1)
    raise DataError(
        f"{file}: read as unit = {unit!r}, all {len(ticks):,} events are from {first} to {last}, which cannot be"
        f"{_hint(raw, unit)}"
    )


def guess_unit(values: Sequence[Any]) -> str | None:
    """Return the unit in which all of some values are plausible times, or ORDER for positions; None for neither."""
    for unit in ("iso", "s", "ms"):
        with suppress(ValueError):
            if values and all(_is_plausible(parse_ticks(value, unit)) for value in values):
                return unit
    with suppress(ValueError):
        if values and max(_parse_position(value) for value in values) < 10**7:
            return ORDER
    return None


def _is_plausible(ticks: int) -> bool:
    first, last = (
        (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
        for year in (FIRST_YEAR, LAST_YEAR)
    )
    return first <= ticks < last


def _hint(value: int, unit: str) -> str:
    """Return what a time (as the file has it) looks like, and what to declare: "" when it looks like nothing."""
    if unit == "iso":
        return "; check the dates"
    if _looks_like_date(value):
        return f"; {value} looks like a date: declare unit = 'iso'"
    for other, ticks in (("s", TICKS), ("ms", TICKS // 1000)):
        if other != unit and _is_plausible(value * ticks):
            name = "seconds" if other == "s" else "milliseconds"
            return f"; {value} looks like {name}: declare unit = {other!r}"
    for name, per_tick in (("microseconds", 1), ("nanoseconds", 1000)):
        if _is_plausible(value // per_tick):
            return f"; {value} looks like {name}: divide by {per_tick * 1000:,} and declare unit = 'ms'"
    if value < 10**7:
        return f"; {value} looks like a position in a history: declare unit = 'order'"
    return "; declare the unit in which the file has its times (s, ms, iso, or order for positions)"


def _looks_like_date(value: int) -> bool:
    """Return whether a number is written like 20140514."""
    try:
        year = datetime.strptime(str(value), "%Y%m%d").year if len(str(value)) == 8 else 0
    except ValueError:
        return False
    return FIRST_YEAR <= year < LAST_YEAR
