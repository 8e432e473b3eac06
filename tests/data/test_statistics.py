"""Statistics by hand, and their comparison with printed counts."""

from dataclasses import replace

import numpy as np
import pytest

from mmbench.data.protocol import PROTOCOLS
from mmbench.data.spec import Slip
from mmbench.data.statistics import Statistics, compare, coverage, describe

DAY = 86_400
# user 0: 1 2 1 | user 1: 3 1 2 2 (times in days)
ITEMS = np.array([1, 2, 1, 3, 1, 2, 2])
TIMES = np.array([0, 0, 101, 0, 100, 201, 201]) * DAY
OFFSETS = np.array([0, 3, 7])


RECORDS = [{"title": "a", "text": "", "categories": [], "image": None}] * 3


def described() -> Statistics:
    return describe(
        items=ITEMS, times=TIMES, offsets=OFFSETS, n_items=3, protocol=PROTOCOLS["clean"],
        coverage=coverage(RECORDS, None),
    )  # fmt: skip


def test_statistics_by_hand() -> None:
    actual = described()
    assert (actual.users, actual.items, actual.interactions) == (2, 3, 7)
    assert (actual.actions_per_user, actual.actions_per_item) == (3.5, pytest.approx(7 / 3))
    assert actual.sparsity == pytest.approx(1 - 5 / 6)  # 5 of 6 (user, item) pairs occur
    assert actual.tied_neighbours == pytest.approx(2 / 5)
    assert actual.long_intervals == pytest.approx(2 / 5)  # 101 days twice; 100 is not more than 100
    assert (actual.valid_repeats, actual.test_repeats) == (0.0, 1.0)
    assert (actual.first_time, actual.last_time) == (0, 201 * DAY)
    assert actual.history_length["0.5"] == 3.5


PRINTED = {"users": 2.0, "items": 4.0, "interactions": 7.0}
SLIPS = [
    Slip(statistic="items", printed=4.0, correct=3.0, source="a page", why="padding counted"),
    Slip(statistic="actions_per_user", printed=9.0, correct=3.5, source="a page", why="7 / 2"),
]


def remarks(statistics: Statistics, protocol: str = "clean") -> dict[str, str]:
    rows = compare(statistics, PRINTED, SLIPS, protocol=protocol, default_protocol="clean")
    return {row.statistic: row.remark for row in rows}


def test_slips_are_shown_beside_the_computed_numbers() -> None:
    actual = remarks(described())
    assert (actual["users"], actual["interactions"]) == ("as printed", "as printed")
    assert actual["items"] == "slip in a page: padding counted"
    assert actual["actions_per_user"] == "slip in a page: 7 / 2"
    assert actual["sparsity"] == ""
    rows = compare(described(), PRINTED, SLIPS, protocol="clean", default_protocol="clean")
    assert {row.statistic: row.printed for row in rows}["actions_per_user"] == 9.0


def test_a_difference_is_never_hidden() -> None:
    changed = replace(described(), users=5, items=5)
    assert remarks(changed)["users"] == "differs by +3"
    assert remarks(changed)["items"].endswith("the computed value differs from 3, too")
    assert remarks(changed, "hm4sr")["users"] == "differs by +3 (printed under clean)"
