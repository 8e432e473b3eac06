"""The table for a terminal: colours where there are any, signs where not, blocks that fit the width."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmbench.report import rounding
from mmbench.report.table import Cell, Row, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GAP = "  "
_CAPTION_WIDTH = 110  # longer lines are hard to read


@dataclass(frozen=True)
class _Line:
    """One printed line: label, runs, and a styled text per column."""

    label: str
    runs: str
    cells: tuple["Text", ...]
    style: str = ""


def print_terminal(table: Table, console: "Console") -> None:
    """Print to a rich console; when it is no terminal nothing is wrapped or split."""
    from rich.text import Text

    width = console.width if console.is_terminal else None
    colour = console.is_terminal and not console.no_color

    def emit(text: "Text | str") -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)

    rows = [_row(row, table, colour) for row in table.rows]
    lines = _short_names(rounding.summary(table))
    below = [
        _Line(
            line.label, "", tuple(Text(text, _summary_style(line.label, text)) for text in line.texts), "cyan"
        )
        for line in lines
    ]
    label_width = max(len(line.label) for line in [*rows, *below, _Line("Model", "", ())])
    runs_width = max(1, *(len(line.runs) for line in rows))
    widths = [
        max(len(str(column.metric)), *(len(line.cells[at].plain) for line in [*rows, *below]))
        for at, column in enumerate(table.columns)
    ]
    room = None if width is None else width - label_width - len(_GAP) - runs_width - 1
    for number, block in enumerate(_blocks(table, widths, room)):
        if number:
            emit("")
        for line in _draw(table, block, widths, label_width, runs_width, rows, below):
            emit(line)
    emit("")
    for line in _words(table, colour, width):
        emit(line)


def _short_names(lines: Sequence[rounding.Line]) -> list[rounding.Line]:
    """Row names with their settings on a second line, so that they do not widen the columns of numbers."""
    found = []
    for line in lines:
        heads = [text.partition(" [") for text in line.texts]
        if line.label not in ("Compared", "Against") or not any(rest for _, _, rest in heads):
            found.append(line)
            continue
        found.append(rounding.Line(line.label, tuple(head for head, _, _ in heads)))
        found.append(rounding.Line("", tuple(f" [{rest}" if rest else "" for _, _, rest in heads)))
    return found


def _row(row: Row, table: Table, colour: bool) -> _Line:
    cells = tuple(_cell(cell, colour) for cell in row.cells)
    return _Line(row.label, rounding.runs_text(row, table), cells, "dim" if row.floor else "")


def _cell(cell: Cell, colour: bool) -> "Text":
    from rich.text import Text

    text = Text()
    style = {1: "bold green", 2: "underline"}.get(cell.place, "") if cell.mean is not None else "dim"
    text.append(rounding.mean_text(cell), style)
    text.append(rounding.std_text(cell), "dim")
    if cell.star:
        text.append("*", "bold green")
    if not colour and cell.place:
        text.append({1: "¹", 2: "²"}[cell.place])
    for at in cell.footnotes:
        text.append(rounding.superscript(rounding.footnote_mark(at)), "yellow")
    return text


def _summary_style(label: str, text: str) -> str:
    if label in ("Improved", "Difference"):
        return "red" if text.startswith("-") else "green" if text.startswith("+") else "dim"
    return "red" if text.endswith("worse") else ""


def _blocks(table: Table, widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Columns in blocks that fit into `room` characters: whole data sets if they fit, else balanced parts."""
    by_dataset = _by_dataset(table, range(len(table.columns)))
    if room is None:
        return [list(range(len(table.columns)))]

    def needed(columns: Sequence[int]) -> int:
        return sum(widths[at] + len(_GAP) for at in columns)

    blocks: list[list[int]] = []
    for columns in by_dataset.values():
        if blocks and needed([*blocks[-1], *columns]) <= room:
            blocks[-1] += columns
        elif needed(columns) <= room:
            blocks.append(list(columns))
        else:
            parts = next(
                (n for n in range(2, len(columns)) if all(needed(p) <= room for p in _split(columns, n))),
                len(columns),
            )
            blocks += _split(columns, parts)
    return blocks


def _by_dataset(table: Table, block: Iterable[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for at in block:
        found.setdefault(table.columns[at].dataset, []).append(at)
    return found


def _split(columns: Sequence[int], parts: int) -> list[list[int]]:
    """Cut into `parts` runs whose lengths differ by at most one, longer ones first."""
    size, more = divmod(len(columns), parts)
    found, start = [], 0
    for part in range(parts):
        end = start + size + (part < more)
        found.append(list(columns[start:end]))
        start = end
    return found


def _draw(
    table: Table,
    block: Sequence[int],
    widths: Sequence[int],
    label_width: int,
    runs_width: int,
    rows: Sequence[_Line],
    below: Sequence[_Line],
) -> list["Text"]:
    """One block as styled lines, ruled like a table in a paper."""
    from rich.text import Text

    left = label_width + len(_GAP) + runs_width
    groups = _by_dataset(table, block)
    names = {one.name: one.name + (" (synthetic)" if one.synthetic else "") for one in table.datasets}
    own = _widened(groups, names, widths)
    total = left + sum(own[at] + len(_GAP) for at in block)
    heavy, light, thin = (Text(char * total, style) for char, style in (("━", ""), ("─", ""), ("─", "dim")))
    head = Text("Model".ljust(label_width) + _GAP + "n".rjust(runs_width), "bold")
    for at in block:
        head.append(_GAP).append(str(table.columns[at].metric).ljust(own[at]), "bold")

    def draw(line: _Line) -> Text:
        text = Text().append(line.label.ljust(label_width), line.style)
        text.append(_GAP + line.runs.rjust(runs_width), "dim")
        for at in block:
            cell = line.cells[at].copy()
            cell.pad_right(own[at] - len(cell.plain))
            text.append(_GAP).append_text(cell)
        return text

    lines = [heavy, *_dataset_heads(groups, names, own, left), head, light]
    for at, (line, row) in enumerate(zip(rows, table.rows, strict=True)):
        if row.floor and at and not table.rows[at - 1].floor:
            lines.append(thin)
        lines.append(draw(line))
    if below:
        lines += [light, *(draw(line) for line in below)]
    for ready in lines:
        ready.rstrip()
    return [*lines, heavy]


def _span(columns: Sequence[int], widths: Mapping[int, int]) -> int:
    return sum(widths[at] for at in columns) + len(_GAP) * (len(columns) - 1)


def _widened(
    groups: Mapping[str, Sequence[int]], names: Mapping[str, str], widths: Sequence[int]
) -> dict[int, int]:
    """Column widths; where a data set's name is longer than its columns, its last column grows."""
    own = {at: widths[at] for columns in groups.values() for at in columns}
    for dataset, columns in groups.items():
        own[columns[-1]] += max(0, len(names[dataset]) - _span(columns, own))
    return own


def _dataset_heads(
    groups: Mapping[str, Sequence[int]], names: Mapping[str, str], own: Mapping[int, int], left: int
) -> list["Text"]:
    """The names of the data sets over their columns, and a rule under each."""
    from rich.text import Text

    top, under = Text(" " * left), Text(" " * left)
    for dataset, columns in groups.items():
        span = _span(columns, own)
        top.append(_GAP).append(names[dataset].center(span), "bold")
        under.append(_GAP).append("─" * span, "dim")
    return [top, under]


def _words(table: Table, colour: bool, width: int | None) -> list["Text"]:
    """Footnotes, warnings and caption; wrapped to the terminal only."""
    best = "bold: best, underlined: second" if colour else "¹ best, ² second"
    said = [("Marks", f"{best} of a column, on unrounded means; ties share a mark.", "")]
    said += [(rounding.footnote_mark(at), text, "yellow") for at, text in enumerate(table.footnotes)]
    said += [("Warning", text, "bold yellow") for text in table.warnings]
    said += [(key, text, "") for key, text in table.caption]
    lines = []
    for key, text, style in said:
        lines += _paragraph(key, text, style, width)
    return lines


def _paragraph(key: str, text: str, style: str, width: int | None) -> list["Text"]:
    from rich.text import Text

    if width is None:
        return [Text(f"{key}  {text}")]
    indent = 10
    wrapped = textwrap.wrap(text, max(20, min(width, _CAPTION_WIDTH) - indent), break_long_words=False) or [
        ""
    ]
    lines = []
    for at, part in enumerate(wrapped):
        line = Text((key if at == 0 else "").ljust(indent), style or "bold dim")
        lines.append(Text().append_text(line).append(part, "" if style else "dim"))
    return lines
