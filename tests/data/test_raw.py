"""Timestamps, ids, damaged files and damaged lines."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.data.raw import EventBuilder, Faults, parse_id, read_lines
from mmbench.data.timestamps import LATEST, TICKS, parse_ticks
from mmbench.errors import DataError
from tests.data.raw_files import write_lines


@given(st.integers(0, LATEST - 1))
def test_peer_bug_float32_timestamps(second: int) -> None:
    """RecBole reads 978302109 as 978302080; here every second stays, as number, text or float."""
    ways = [parse_ticks(value, "s") for value in (second, str(second), float(second), f"{second}.0")]
    assert ways == [second * TICKS] * 4
    assert parse_ticks(second * 1000 + 1, "ms") == second * TICKS + 1000


@pytest.mark.parametrize(
    ("value", "unit", "ticks"),
    [
        ("1400000000.5", "s", 1_400_000_000_500_000),
        (1400000000.25, "s", 1_400_000_000_250_000),
        ("1400000000.1234567", "s", 1_400_000_000_123_456),
        ("1400000000123.75", "ms", 1_400_000_000_123_750),
        ("2014-05-13 16:53:20 UTC", "iso", 1_400_000_000_000_000),
        ("2014-05-13 16:53:20.5 GMT", "iso", 1_400_000_000_500_000),
        (20140513, "iso", 1_399_939_200_000_000),
        ("20140513", "iso", 1_399_939_200_000_000),
        ("7", "order", 7),
        (7.0, "order", 7),
    ],
)
def test_fractions_zones_and_positions(value: object, unit: str, ticks: int) -> None:
    assert parse_ticks(value, unit) == ticks


@pytest.mark.parametrize(("value", "ticks"), [("1.4e9", 1_400_000_000), (" 7 ", 7), ("7.0", 7), (0, 0)])
def test_ways_to_write_a_second(value: object, ticks: int) -> None:
    assert parse_ticks(value, "s") == ticks * TICKS


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))
def test_iso_dates_to_the_microsecond(moment: datetime) -> None:
    whole = int(moment.replace(microsecond=0, tzinfo=UTC).timestamp())
    assert parse_ticks(moment.isoformat(), "iso") == whole * 1_000_000 + moment.microsecond


def test_iso_time_zones() -> None:
    assert parse_ticks("2014-07-23", "iso") == 1_406_073_600_000_000
    assert parse_ticks("2014-07-23T02:00:00+02:00", "iso") == parse_ticks("2014-07-23T00:00:00Z", "iso")


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        ("yesterday", "s", "not a number"),
        ("", "s", "not a number"),
        (None, "s", "not a number"),
        (True, "s", "not a number"),
        (float("nan"), "s", "not a number"),
        ("inf", "s", "not a number"),
        ("1.5", "order", "position '1.5' is not a whole number"),
        (-1, "order", "position -1 is not a whole number"),
        ("first", "order", "not a number"),
        ("9" * 5000, "s", r"timestamp '9{59}\.\.\. is too large"),
        (1_400_000_000_000_000_000, "ms", "looks like nanoseconds: divide by 1,000,000"),
        (-1, "s", "before 1970"),
        (1_400_000_000_000, "s", "declare unit = 'ms'"),
        ("9" * 40, "ms", "too large"),
        ("1e999999999", "s", "too large"),
        ("1406073600", "iso", "not an ISO date"),
        (None, "iso", "not an ISO date"),
        ("1969-12-31", "iso", "before 1970"),
    ],
)
def test_bad_timestamp_is_explained(value: object, unit: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_ticks(value, unit)


def test_ids_stay_as_written() -> None:
    assert parse_id("007", "item id") == "007"
    assert parse_id(7, "item id") == "7"
    bad = [("", "empty"), (" ", "empty"), (None, "not text"), (1.0, "not text"), ("a\u2028b", "line break")]
    for value, message in bad:
        with pytest.raises(ValueError, match=message):
            parse_id(value, "item id")


def test_damaged_files(tmp_path: Path) -> None:
    whole = gzip.compress(b"line\n" * 1000, mtime=0)
    file = tmp_path / "a.gz"
    cases = [
        (whole[:-12], "cut off"),
        (whole[:20] + b"\xff" * 30, "damaged"),
        (whole + b"rubbish", "damaged"),
    ]
    for content, message in cases:
        file.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            list(read_lines(file))
        assert str(file) in str(caught.value)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(read_lines(tmp_path / "b"))


def test_gzip_is_known_by_content_and_lines_by_number(tmp_path: Path) -> None:
    lines = [(1, b"a"), (3, b"b")]
    packed, plain = tmp_path / "packed.json", tmp_path / "plain.json.gz"
    packed.write_bytes(gzip.compress(b"a\n\nb"))
    plain.write_bytes(b"a\r\n\r\nb\r\n")
    assert list(read_lines(packed)) == list(read_lines(plain)) == lines


@pytest.mark.parametrize(
    ("n_lines", "n_faults", "tolerated"),
    [
        (10, 1, True),
        (9, 1, False),
        (1000, 10, True),
        (1000, 11, False),
        (20_000, 20, True),
        (20_000, 21, False),
    ],
)
def test_few_faults_are_tolerated_and_shown(n_lines: int, n_faults: int, tolerated: bool) -> None:
    faults = Faults(Path("x.json"))
    faults.n_lines = n_lines
    for number in range(n_faults):
        faults.add(number + 7, "not JSON")
    if tolerated:
        (note,) = faults.finish()
        assert "line 7: not JSON" in note
        assert f"{n_faults} of {n_lines:,}" in note
    else:
        with pytest.raises(DataError, match="line 7: not JSON"):
            faults.finish()


def test_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        Faults(tmp_path / "x").finish()
    with pytest.raises(DataError, match="holds no interaction"):
        EventBuilder().build(unit="s", file=tmp_path / "x")
    assert list(read_lines(write_lines(tmp_path / "blank", ["", " "]))) == []


def test_a_number_of_thousands_of_digits_is_explained() -> None:
    with pytest.raises(ValueError, match="timestamp of too many digits is too large"):
        parse_ticks(10**5000, "s")
