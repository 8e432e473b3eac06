"""Tables of the commands on a terminal: no column and no letter falls over the edge."""

import io
from pathlib import Path

import pytest

from mmbench.cli.state import State
from mmbench.cli.tables import print_table
from mmbench.console import SafeConsole

HEADER = ["run", "data set", "model", "state", "time", "valid NDCG@10", "age", "set"]
ROW = [
    "d8326a2/2",
    "my-long-data-set@clean-time@random:1",
    "sasrec-ensemble",
    "interrupted",
    "1:00:00",
    ".1537",
    "11 min",
    "max_epochs=3, text_features=shuffled:1",
]


def _printed(width: int, rows: list[list[str]]) -> list[str]:
    state, stream = State(Path("data"), Path("results")), io.StringIO()
    state.out = SafeConsole(file=stream, force_terminal=True, color_system=None, width=width)
    print_table(state, HEADER, rows)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [36, 60, 80, 120, 200])
def test_a_terminal_too_narrow_breaks_words_and_loses_none(width: int) -> None:
    lines = _printed(width, [ROW])
    assert max(map(len, lines)) <= width
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join([*HEADER, *ROW]).replace(" ", ""))


def test_words_are_broken_only_where_the_columns_cannot_wrap_between_them() -> None:
    short = [*ROW[:1], "demo", "sasrec", "finished", "0:07", ".1537", "11 min", "max_epochs=3, lr=0.003"]
    text = "\n".join(_printed(80, [short]))
    assert all(word in text for cell in (*HEADER, *short) for word in cell.split())
