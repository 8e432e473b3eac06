"""Dates of unix seconds on the device, in integer arithmetic: UTC, Gregorian, negative times too.

Years are counted from 1 March, so that the leap day is the last day of its year, in eras of 400 years.
"""

import torch
from torch import Tensor

DAY = 86_400  # seconds


def _since_march(day: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split days since 1970-01-01 into era, year of the era and day of that year (0 = 1 March); all int64."""
    days = day + 719_468  # since 0000-03-01
    era = days.div(146_097, rounding_mode="floor")
    rest = days - era * 146_097
    year = (rest - rest // 1_460 + rest // 36_524 - rest // 146_096) // 365
    return era, year, rest - (365 * year + year // 4 - year // 100)


def civil_date(seconds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return year, month 1-12 and day 1-31 of int64 unix seconds [...], each int64 [...]."""
    era, year, day_of_year = _since_march(seconds.div(DAY, rounding_mode="floor"))
    month = (5 * day_of_year + 2) // 153  # 0 = March
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = torch.where(month < 10, month + 3, month - 9)
    return year + 400 * era + (month <= 2), month, day


def day_of_year(day: Tensor) -> Tensor:
    """Return the day of the calendar year, 0..365, of days since 1970-01-01, int64 [...]."""
    _, year, since_march = _since_march(day)
    civil = year + (since_march >= 306).long()  # January and February belong to the next year
    leap = (civil % 4 == 0) & ((civil % 100 != 0) | (civil % 400 == 0))
    return torch.where(since_march >= 306, since_march - 306, since_march + 59 + leap.long())
