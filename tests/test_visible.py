"""Text from outside is shown, never obeyed: by terminals, spreadsheets, LaTeX, pages."""

import csv
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mmbench.console import SafeConsole
from mmbench.reporting import latex, plain
from mmbench.visible import one_line, visible
from tests.prepared import cli

HOSTILE = (
    "\x1b]0;owned\x07",  # sets the window's title
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]52;c;b3duZWQ=\x07",  # fills the clipboard
    "\x9b2J",  # the same in one byte
    "abc\rdef",  # writes over what stands there
    "\x08\x08\x08gone",
    "user\u202egnp.exe",  # reads as another name
    "\u2066left\u2069",
    "\ud800",  # no character at all
    "\x7f\x00",
)


def is_harmless(text: str) -> bool:
    kinds = {unicodedata.category(letter) for letter in text if letter not in "\t\n"}
    return not kinds & {"Cc", "Cs", "Zl", "Zp"} and not set(text) & set(
        "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_left_to_obey(text: str) -> None:
    assert not is_harmless(text)
    assert is_harmless(visible(text))


@given(st.text())
def test_letters_stay_and_what_is_safe_stays_so(text: str) -> None:
    actual = visible(text)
    assert is_harmless(actual)
    assert visible(actual) == actual
    assert len(actual) == len(text)
    if is_harmless(text) and not set(text) & set("\u061c\u200e\u200f"):
        assert actual == text
    assert "\n" not in one_line(text)


@pytest.mark.parametrize("text", [*HOSTILE, "[cls] and [/x]", "[bold]no[/bold]", ":smile:"])
@pytest.mark.parametrize("kind", ["plain", "text", "table", "panel", "progress"])
def test_a_console_prints_what_it_is_given(text: str, kind: str) -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, width=200)
    if kind == "plain":
        console.print(text)
    elif kind == "text":
        console.print(Text(text))
    elif kind == "panel":
        console.print(Panel(Text(text)))
    elif kind == "progress":
        with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
            bars.add_task(text, total=1)
    else:
        table = Table()
        table.add_column(Text(text))
        table.add_row(Text(text))
        console.print(table)
    printed = out.getvalue()
    assert is_harmless(printed)
    if is_harmless(text):
        assert text in printed


def test_a_console_s_own_colours_stay() -> None:
    out = io.StringIO()
    SafeConsole(file=out, force_terminal=True, color_system="standard").print("red \x1b[2J", style="red")
    assert out.getvalue() == "\x1b[31mred ␛[2J\x1b[0m\n"


def test_cells_of_a_spreadsheet_are_no_formulas() -> None:
    rows = [["=1+1", "+A1", "-cmd", "@sum", "\t=1", "-0.5", "+3e-2", -0.25, None, "plain", "\x1b[2J"]]
    (actual,) = csv.reader(io.StringIO(plain.csv_text(list("abcdefghijk"), rows).partition("\n")[2]))
    assert actual == [
        "'=1+1",
        "'+A1",
        "'-cmd",
        "'@sum",
        "'\t=1",
        "-0.5",
        "+3e-2",
        "-0.25",
        "",
        "plain",
        "␛[2J",
    ]


@pytest.mark.parametrize("escape", [plain.escape, latex.escape])
def test_other_formats_show_control_characters(escape: object) -> None:
    assert callable(escape)
    assert all(is_harmless(escape(text)) for text in HOSTILE)


def test_errors_and_warnings_of_the_command_line(tmp_path: Path) -> None:
    done = cli("show", "\x1b[2Jmodel", data=tmp_path)
    assert done.returncode == 2
    assert is_harmless(done.stderr)
    assert "␛[2Jmodel" in done.stderr or "\\x1b[2Jmodel" in done.stderr
