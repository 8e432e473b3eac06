"""The table for a terminal: colours if available, else signs, in blocks that fit the width."""

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmbench.reporting import rounding
from mmbench.reporting.grid import Line, Lines, draw
from mmbench.reporting.layout import FULL, Layout, laid_out
from mmbench.reporting.table import Cell, Row, Table
from mmbench.reporting.turned import turn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CAPTION_WIDTH = 110  # longer lines are hard to read
_KEY_WIDTH = 13  # the longest keyword of a caption and a gap


def emitter(console: "Console") -> "Callable[[Text | str], None]":
    """Return a function that prints lines unchanged: no wrapping, markup or highlighting."""

    def emit(text: "Text | str") -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)

    return emit


def plain_text(show: "Callable[[Console], None]") -> str:
    """Return what `show` prints, without colour codes and unwrapped."""
    from mmbench.console import SafeConsole

    out = io.StringIO()
    show(SafeConsole(file=out, force_terminal=False))
    return out.getvalue()


def print_terminal(table: Table, console: "Console", layout: Layout = FULL) -> None:
    """Print to a rich console; if it is not a terminal, nothing is wrapped or split.

    On a terminal the table comes last, so that it is what stands on the screen: warnings before it, a line each, and
    notes only if the layout asks for them.
    """
    width = console.width if console.is_terminal else None
    colour = console.is_terminal and not console.no_color
    emit, short = emitter(console), layout.notes is None and console.is_terminal
    table = laid_out(table, layout)
    for text in table.warnings if short else ():
        emit(_one_line(f"warning: {text}", console.width))
    for line in draw(
        _turned_lines(table, colour) if layout.transposed else _lines(table, colour, width), width
    ):
        emit(line)
    if short:
        for line in _footnotes(table, width):
            emit(line)
        pointer = f"{_marks(colour)}; data, metrics, tests: mmbench report --notes"
        for text in textwrap.wrap(pointer, console.width):
            emit(text)
        return
    emit("")
    for line in notes(table, colour, width):
        emit(line)


def _one_line(text: str, width: int) -> "Text":
    """Return a text cut to a line of the terminal."""
    from rich.text import Text

    return Text(text if len(text) <= width else f"{text[: width - 3]}...", "yellow")


def _marks(colour: bool) -> str:
    return "bold best, underlined second" if colour else "¹ best, ² second"


def _footnotes(table: Table, width: int | None) -> list["Text"]:
    return [
        line
        for index, text in enumerate(table.footnotes)
        for line in paragraph(rounding.footnote_mark(index), text, "yellow", width)
    ]


def _turned_lines(table: Table, colour: bool) -> Lines:
    """Return a line per metric under a column per model."""
    from rich.text import Text

    turned, several = turn(table), len(table.datasets) > 1
    heads = [row.label for row in turned.models] + list(turned.comparisons)
    rows = [
        Line(
            f"{line.dataset} {line.metric}" if several else line.metric, "",
            (*(cell_text(cell, colour) for cell in line.cells), *(Text(text) for text in line.compared)),
        )
        for line in turned.lines
    ]  # fmt: skip
    counts = (*(Text(n, "dim") for n in turned.runs), *(Text("") for _ in turned.comparisons))
    title = "Models" if several else turned.lines[0].dataset
    return Lines(tuple((title, head) for head in heads), tuple(rows), (Line("n", "", counts),), "Metric", "")


def _lines(table: Table, colour: bool, width: int | None) -> Lines:
    """Return a line per row under a column per metric."""
    rows = table.shown_rows
    names = {info.name: info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets}
    return Lines(
        heads=tuple((names[column.dataset], str(column.metric)) for column in table.columns),
        rows=tuple(
            line
            for index, row in enumerate(rows)
            for line in _row(
                row, table, colour, width, rule=bool(row.floor and index and not rows[index - 1].floor)
            )
        ),
        below=tuple(summary_line(line) for line in _short_names(rounding.summary(table))),
    )


def _short_names(lines: Sequence[rounding.Line]) -> list[rounding.Line]:
    """Move the settings of row names to a second line, so that they do not widen the columns of numbers."""
    shortened = []
    for line in lines:
        heads = [text.partition(" [") for text in line.texts]
        if line.label not in ("Compared", "Against") or not any(rest for _, _, rest in heads):
            shortened.append(line)
            continue
        shortened.append(rounding.Line(line.label, tuple(head for head, _, _ in heads)))
        shortened.append(rounding.Line("", tuple(f" [{rest}" if rest else "" for _, _, rest in heads)))
    return shortened


def _row(row: Row, table: Table, colour: bool, width: int | None, *, rule: bool) -> list[Line]:
    """Return a row's line; on a narrow terminal its settings follow on separate lines."""
    from rich.text import Text

    cells = tuple(cell_text(cell, colour) for cell in row.cells)
    style, runs = "dim" if row.floor else "", rounding.runs_text(row, table)
    head, bracket, settings = row.label.partition(" [")
    if width is None or not bracket or len(row.label) <= width // 3:
        return [Line(row.label, runs, cells, style, rule)]
    blank = tuple(Text("") for _ in cells)
    texts = textwrap.wrap(f"[{settings}", max(20, width // 4), break_long_words=False)
    return [
        Line(head, runs, cells, style, rule),
        *(Line(f"  {text}", "", blank, "dim") for text in texts),
    ]


def summary_line(line: rounding.Line) -> Line:
    """Return a line below the rows, coloured by its content."""
    from rich.text import Text

    return Line(
        line.label, "", tuple(Text(text, _summary_style(line.label, text)) for text in line.texts), "cyan"
    )


def cell_text(cell: Cell, colour: bool) -> "Text":
    from rich.text import Text

    text = Text()
    style = {1: "bold green", 2: "underline"}.get(cell.place, "") if cell.mean is not None else "dim"
    text.append(rounding.mean_text(cell), style)
    text.append(rounding.std_text(cell), "dim")
    if cell.star:
        text.append("*", "bold green")
    if not colour and cell.place:
        text.append({1: "¹", 2: "²"}[cell.place])
    for index in cell.footnotes:
        text.append(rounding.superscript(rounding.footnote_mark(index)), "yellow")
    return text


def _summary_style(label: str, text: str) -> str:
    if label in ("Improved", "Change", "Difference"):
        return "red" if text.startswith("-") else "green" if text.startswith("+") else "dim"
    return "red" if text.endswith("worse") else ""


def notes(table: Table, colour: bool, width: int | None) -> list["Text"]:
    """Return footnotes, warnings and caption, wrapped on a terminal only."""
    entries = [("Marks", f"{_marks(colour)} of a column, on unrounded means; ties share a mark.", "")]
    lines = [line for entry in entries for line in paragraph(*entry, width)] + _footnotes(table, width)
    entries = [("Warning", text, "bold yellow") for text in table.warnings]
    entries += [(key, text, "") for key, text in table.caption]
    return lines + [line for entry in entries for line in paragraph(*entry, width)]


def paragraph(key: str, text: str, style: str, width: int | None) -> list["Text"]:
    from rich.text import Text

    if width is None:
        return [Text(f"{key}  {text}")]
    room = max(20, min(width, _CAPTION_WIDTH) - _KEY_WIDTH)
    wrapped = textwrap.wrap(text, room, break_long_words=False) or [""]
    lines = []
    for index, part in enumerate(wrapped):
        line = Text((key if index == 0 else "").ljust(_KEY_WIDTH), style or "bold dim")
        lines.append(Text().append_text(line).append(part, "" if style else "dim"))
    return lines
