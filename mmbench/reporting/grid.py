"""Lines under a two-level head (data sets over metrics), in blocks that fit a terminal's width."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_GAP = "  "


@dataclass(frozen=True)
class Line:
    """A printed line: label, runs, and a styled text per column."""

    label: str
    runs: str
    cells: tuple["Text", ...]
    style: str = ""
    rule: bool = False  # True: a thin rule is drawn above it


@dataclass(frozen=True)
class Lines:
    """The content of a grid: (displayed data set, metric) of each column, the rows, and a block below them."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[Line, ...]
    below: tuple[Line, ...] = ()
    first: str = "Model"
    runs: str = "n"  # heads the second column; "" if there is none


def draw(lines: Lines, width: int | None) -> list["Text"]:
    """Return the grid as lines of a terminal; with `width` None nothing is split."""
    from rich.text import Text

    every = [*lines.rows, *lines.below]
    label_width = max(len(line.label) for line in [*every, Line(lines.first, "", ())])
    runs_width = max(len(lines.runs), *(len(line.runs) for line in every))
    widths = [
        max(len(metric), *(len(line.cells[index].plain) for line in every))
        for index, (_, metric) in enumerate(lines.heads)
    ]
    room = None if width is None else width - label_width - len(_GAP) - runs_width - 1
    drawn: list[Text] = []
    for number, block in enumerate(_blocks(lines, widths, room)):
        drawn += [Text("")] * bool(number)
        drawn += _draw(lines, block, widths, label_width, runs_width)
    return drawn


def _blocks(lines: Lines, widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Return blocks of columns that fit into `room` characters: whole data sets if possible, else balanced parts."""
    by_dataset = _by_dataset(lines, range(len(lines.heads)))
    if room is None:
        return [list(range(len(lines.heads)))]

    def needed(columns: Sequence[int]) -> int:
        """Return the width of some columns; the name of a data set may need more than its columns."""
        spans = _by_dataset(lines, columns)
        return sum(
            max(len(name), _span(members, dict(enumerate(widths)))) + len(_GAP)
            for name, members in spans.items()
        )

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


def _by_dataset(lines: Lines, block: Iterable[int]) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {}
    for index in block:
        columns.setdefault(lines.heads[index][0], []).append(index)
    return columns


def _split(columns: Sequence[int], parts: int) -> list[list[int]]:
    """Split into `parts` slices whose lengths differ by at most 1, the longer first."""
    size, n_longer = divmod(len(columns), parts)
    slices, start = [], 0
    for part in range(parts):
        end = start + size + (part < n_longer)
        slices.append(list(columns[start:end]))
        start = end
    return slices


def _draw(
    lines: Lines,
    block: Sequence[int],
    widths: Sequence[int],
    label_width: int,
    runs_width: int,
) -> list["Text"]:
    """Draw a block as styled lines, with rules as in a table of a paper."""
    from rich.text import Text

    left = label_width + len(_GAP) + runs_width
    groups = _by_dataset(lines, block)
    column_widths = _column_widths(groups, widths)
    total = left + sum(column_widths[index] + len(_GAP) for index in block)
    heavy, light, thin = (Text(char * total, style) for char, style in (("━", ""), ("─", ""), ("─", "dim")))
    head = Text(lines.first.ljust(label_width) + _GAP + lines.runs.rjust(runs_width), "bold")
    for index in block:
        head.append(_GAP).append(lines.heads[index][1].ljust(column_widths[index]), "bold")

    def drawn(line: Line) -> Text:
        text = Text().append(line.label.ljust(label_width), line.style)
        text.append(_GAP + line.runs.rjust(runs_width), "dim")
        for index in block:
            cell = line.cells[index].copy()
            cell.pad_right(column_widths[index] - len(cell.plain))
            text.append(_GAP).append_text(cell)
        return text

    lines_drawn = [heavy, *_dataset_heads(groups, column_widths, left), head, light]
    for line in lines.rows:
        lines_drawn += [thin] * line.rule
        lines_drawn.append(drawn(line))
    if lines.below:
        lines_drawn += [light, *(drawn(line) for line in lines.below)]
    for text in lines_drawn:
        text.rstrip()
    return [*lines_drawn, heavy]


def _span(columns: Sequence[int], widths: Mapping[int, int]) -> int:
    return sum(widths[index] for index in columns) + len(_GAP) * (len(columns) - 1)


def _column_widths(groups: Mapping[str, Sequence[int]], widths: Sequence[int]) -> dict[int, int]:
    """Return the column widths; the last column of a data set grows if the data set's name needs it."""
    wide = {index: widths[index] for columns in groups.values() for index in columns}
    for dataset, columns in groups.items():
        wide[columns[-1]] += max(0, len(dataset) - _span(columns, wide))
    return wide


def _dataset_heads(
    groups: Mapping[str, Sequence[int]], column_widths: Mapping[int, int], left: int
) -> list["Text"]:
    """Return the names of the data sets over their columns, and a rule under each."""
    from rich.text import Text

    top, under = Text(" " * left), Text(" " * left)
    for dataset, columns in groups.items():
        span = _span(columns, column_widths)
        top.append(_GAP).append(dataset.center(span), "bold")
        under.append(_GAP).append("─" * span, "dim")
    return [top, under]
