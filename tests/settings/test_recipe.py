"""What a recipe's [search] may say, and which values it means."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from mmbench.settings.recipe import Searched


def searched(**content: Any) -> Searched:
    return Searched(**({"source": "paper"} | content))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, "either values, or low and high"),
        ({"values": [1], "low": 1, "high": 2}, "either values, or low and high"),
        ({"values": [1], "log": True}, "either values, or low and high"),
        ({"log": True}, "needs low and high"),
        ({"low": 1}, "needs low and high"),
        ({"values": []}, "values is empty"),
        ({"values": [1, 2, 1]}, "has 1 twice"),
        ({"values": [0, 0.0]}, "has 0.0 twice"),
        ({"values": [[1, 2], [1, 2]]}, r"has \[1, 2\] twice"),
        ({"low": 2, "high": 2}, "low must be less than high"),
        ({"low": 2, "high": 1}, "low must be less than high"),
        ({"low": 0.0, "high": math.inf}, "both finite"),
        ({"low": math.nan, "high": 1.0}, "both finite"),
        ({"low": 0, "high": 1, "log": True}, "log needs low > 0"),
        ({"low": -1.0, "high": 1, "log": True}, "log needs low > 0"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "log or step, not both"),
        ({"low": 1, "high": 2, "step": 0}, "step must be finite and greater than 0"),
        ({"low": 1, "high": 2, "step": -1}, "step must be finite and greater than 0"),
        ({"low": 1, "high": 2, "step": math.inf}, "step must be finite and greater than 0"),
        ({"low": 0.1, "high": 0.5, "step": 0.15}, "miss 0.5"),
        ({"low": 1, "high": 2, "step": 3}, "miss 2"),
        ({"low": "1", "high": 2}, "valid"),
        ({"low": True, "high": 2}, "valid"),
        ({"values": [1], "source": "us"}, "at least 3"),
        ({"values": [1], "sorce": "paper"}, "sorce"),
    ],
)
def test_a_search_has_one_form(content: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        searched(**content)


def test_a_range_with_steps_means_decimals_as_written() -> None:
    assert searched(low=0.1, high=0.5, step=0.1).points == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert searched(low=0.25, high=1.5, step=0.25).points == (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    whole = searched(low=2, high=8, step=3).points
    assert whole == (2, 5, 8)
    assert all(type(point) is int for point in whole)
    assert searched(values=["a", "b"]).points == ("a", "b")
    assert searched(low=0.0, high=1.0).points is None


def test_a_recipe_s_own_value_joins() -> None:
    listed = searched(values=[0.2, 0.4])
    assert listed.including(0.4) is listed
    assert listed.including(0.5).values == (0.2, 0.4, 0.5)
    assert listed.including(0.5).source == "paper"
    pairs = searched(values=[[1, 2], [1, 4]])
    assert pairs.including((1, 4)) is pairs
    assert pairs.including((1, 8)).values == ([1, 2], [1, 4], (1, 8))
    stepped = searched(low=0.1, high=0.5, step=0.1)
    assert stepped.including(0.3) is stepped
    assert stepped.including(0.25).values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.25)
    ranged = searched(low=1e-4, high=1e-2, log=True)
    assert ranged.including(1e-3) is ranged
    wider = ranged.including(0.1)
    assert (wider.low, wider.high, wider.log, wider.source) == (1e-4, 0.1, True, "paper")
    assert searched(low=1, high=4).including(0).low == 0
    with pytest.raises(ValueError, match="cannot hold"):
        ranged.including(0.0)
