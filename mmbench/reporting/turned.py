"""A table with its lines and columns exchanged: a line per metric, a column per model, the comparisons at the right."""

from dataclasses import dataclass

from mmbench.reporting import rounding
from mmbench.reporting.table import Cell, Row, Table


@dataclass(frozen=True)
class TurnedLine:
    """A metric on a data set: a cell per model, and the text of each comparison."""

    dataset: str
    metric: str
    cells: tuple[Cell, ...]
    compared: tuple[str, ...]


@dataclass(frozen=True)
class Turned:
    """models: the rows that became columns; comparisons: the labels of what follows them; runs: n per model."""

    models: tuple[Row, ...]
    comparisons: tuple[str, ...]
    lines: tuple[TurnedLine, ...]
    runs: tuple[str, ...]


def turn(table: Table) -> Turned:
    """Return what a transposed table prints."""
    below, rows = rounding.summary(table), table.shown_rows
    names = {info.name: info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets}
    lines = tuple(
        TurnedLine(
            names[column.dataset],
            str(column.metric),
            tuple(row.cells[index] for row in rows),
            tuple(line.texts[index] for line in below),
        )
        for index, column in enumerate(table.columns)
    )
    runs = tuple(rounding.runs_text(row, table) for row in rows)
    return Turned(tuple(rows), tuple(line.label for line in below), lines, runs)
