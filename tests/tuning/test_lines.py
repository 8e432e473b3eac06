"""Lines about a study say what is spent of its budget, whether that is trials or hours."""

from pathlib import Path

import pytest

from mmbench.tuning.lines import StudyLines
from mmbench.tuning.records import Trial, two_digits
from mmbench.tuning.study import Budget
from tests.prepared import write_toy
from tests.tuning.making import open_study


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (Budget(trials=3), ["1 of 3 trials: trial 0 ", "2 of 3 trials: trial 1 "]),
        (Budget(seconds=2 * 3600), ["0.5 of 2 h: trial 0 ", "1 of 2 h: trial 1 "]),
    ],
)
def test_each_line_says_what_is_spent(budget: Budget, spent: list[str], tmp_path: Path) -> None:
    told: list[str] = []
    lines = StudyLines(told.append)
    lines.opened(open_study(write_toy(tmp_path / "data"), tmp_path / "results"), budget, jobs=1)
    for number in (0, 1):
        lines.ended(Trial(number=number, status="finished", values={"lr": 0.1}, value=0.2, seconds=1800.0))
    assert [line[: len(start)] for line, start in zip(told[1:], spent, strict=True)] == spent


@pytest.mark.parametrize(
    ("hours", "text"), [(0.2499, "0.25"), (1.52, "1.5"), (2.0, "2"), (10.4, "10"), (120.2, "120")]
)
def test_hours_have_two_digits(hours: float, text: str) -> None:
    assert two_digits(hours) == text
