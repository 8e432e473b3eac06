"""Lines under a two-level head - data sets over metrics - in blocks that fit a terminal's width."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_GAP = "  "


@dataclass(frozen=True)
class Line:
    """One printed line: label, runs, and a styled text per column."""

    label: str
    runs: str
    cells: tuple["Text", ...]
    style: str = ""
    rule: bool = False  # a thin rule stands above it


@dataclass(frozen=True)
class Lines:
    """What a grid shows: (data set as shown, metric) of each column, the rows, and a block under them."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[Line, ...]
    below: tuple[Line, ...] = ()
    first: str = "Model"
    runs: str = "n"  # head of the second column; "" = there is none


def draw(lines: Lines, width: int | None) -> list["Text"]:
    """The grid as lines of a terminal; `width` None = nothing is split."""
    from rich.text import Text

    every = [*lines.rows, *lines.below]
    label_width = max(len(line.label) for line in [*every, Line(lines.first, "", ())])
    runs_width = max(len(lines.runs), *(len(line.runs) for line in every))
    widths = [
        max(len(metric), *(len(line.cells[at].plain) for line in every))
        for at, (_, metric) in enumerate(lines.heads)
    ]
    room = None if width is None else width - label_width - len(_GAP) - runs_width - 1
    drawn: list[Text] = []
    for number, block in enumerate(_blocks(lines, widths, room)):
        drawn += [Text("")] * bool(number)
        drawn += _draw(lines, block, widths, label_width, runs_width)
    return drawn


def _blocks(lines: Lines, widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Columns in blocks that fit into `room` characters: whole data sets if they fit, else balanced parts."""
    by_dataset = _by_dataset(lines, range(len(lines.heads)))
    if room is None:
        return [list(range(len(lines.heads)))]

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


def _by_dataset(lines: Lines, block: Iterable[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for at in block:
        found.setdefault(lines.heads[at][0], []).append(at)
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
    lines: Lines,
    block: Sequence[int],
    widths: Sequence[int],
    label_width: int,
    runs_width: int,
) -> list["Text"]:
    """One block as styled lines, ruled like a table in a paper."""
    from rich.text import Text

    left = label_width + len(_GAP) + runs_width
    groups = _by_dataset(lines, block)
    own = _widened(groups, widths)
    total = left + sum(own[at] + len(_GAP) for at in block)
    heavy, light, thin = (Text(char * total, style) for char, style in (("━", ""), ("─", ""), ("─", "dim")))
    head = Text(lines.first.ljust(label_width) + _GAP + lines.runs.rjust(runs_width), "bold")
    for at in block:
        head.append(_GAP).append(lines.heads[at][1].ljust(own[at]), "bold")

    def drawn(line: Line) -> Text:
        text = Text().append(line.label.ljust(label_width), line.style)
        text.append(_GAP + line.runs.rjust(runs_width), "dim")
        for at in block:
            cell = line.cells[at].copy()
            cell.pad_right(own[at] - len(cell.plain))
            text.append(_GAP).append_text(cell)
        return text

    found = [heavy, *_dataset_heads(groups, own, left), head, light]
    for line in lines.rows:
        found += [thin] * line.rule
        found.append(drawn(line))
    if lines.below:
        found += [light, *(drawn(line) for line in lines.below)]
    for ready in found:
        ready.rstrip()
    return [*found, heavy]


def _span(columns: Sequence[int], widths: Mapping[int, int]) -> int:
    return sum(widths[at] for at in columns) + len(_GAP) * (len(columns) - 1)


def _widened(groups: Mapping[str, Sequence[int]], widths: Sequence[int]) -> dict[int, int]:
    """Column widths; where a data set's name is longer than its columns, its last column grows."""
    own = {at: widths[at] for columns in groups.values() for at in columns}
    for dataset, columns in groups.items():
        own[columns[-1]] += max(0, len(dataset) - _span(columns, own))
    return own


def _dataset_heads(groups: Mapping[str, Sequence[int]], own: Mapping[int, int], left: int) -> list["Text"]:
    """The names of the data sets over their columns, and a rule under each."""
    from rich.text import Text

    top, under = Text(" " * left), Text(" " * left)
    for dataset, columns in groups.items():
        span = _span(columns, own)
        top.append(_GAP).append(dataset.center(span), "bold")
        under.append(_GAP).append("─" * span, "dim")
    return [top, under]
