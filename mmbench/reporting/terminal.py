"""The table for a terminal: colours if available, else signs, in blocks that fit the width."""

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmbench.reporting import rounding
from mmbench.reporting.grid import Line, Lines, draw
from mmbench.reporting.table import Cell, Row, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CAPTION_WIDTH = 110  # longer lines are hard to read


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


def print_terminal(table: Table, console: "Console") -> None:
    """Print to a rich console; if it is not a terminal, nothing is wrapped or split."""
    width = console.width if console.is_terminal else None
    colour = console.is_terminal and not console.no_color
    emit = emitter(console)
    names = {info.name: info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets}
    lines = Lines(
        heads=tuple((names[column.dataset], str(column.metric)) for column in table.columns),
        rows=tuple(
            line
            for index, row in enumerate(table.rows)
            for line in _row(
                row, table, colour, width, rule=bool(row.floor and index and not table.rows[index - 1].floor)
            )
        ),
        below=tuple(summary_line(line) for line in _short_names(rounding.summary(table))),
    )
    for line in draw(lines, width):
        emit(line)
    emit("")
    for line in notes(table, colour, width):
        emit(line)


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
    if label in ("Improved", "Difference"):
        return "red" if text.startswith("-") else "green" if text.startswith("+") else "dim"
    return "red" if text.endswith("worse") else ""


def notes(table: Table, colour: bool, width: int | None) -> list["Text"]:
    """Return footnotes, warnings and caption, wrapped on a terminal only."""
    best = "bold: best, underlined: second" if colour else "¹ best, ² second"
    entries = [("Marks", f"{best} of a column, on unrounded means; ties share a mark.", "")]
    entries += [(rounding.footnote_mark(index), text, "yellow") for index, text in enumerate(table.footnotes)]
    entries += [("Warning", text, "bold yellow") for text in table.warnings]
    entries += [(key, text, "") for key, text in table.caption]
    lines = []
    for key, text, style in entries:
        lines += paragraph(key, text, style, width)
    return lines


def paragraph(key: str, text: str, style: str, width: int | None) -> list["Text"]:
    from rich.text import Text

    if width is None:
        return [Text(f"{key}  {text}")]
    indent = 10
    wrapped = textwrap.wrap(text, max(20, min(width, _CAPTION_WIDTH) - indent), break_long_words=False) or [
        ""
    ]
    lines = []
    for index, part in enumerate(wrapped):
        line = Text((key if index == 0 else "").ljust(indent), style or "bold dim")
        lines.append(Text().append_text(line).append(part, "" if style else "dim"))
    return lines
