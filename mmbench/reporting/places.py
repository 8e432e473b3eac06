"""Which rows are best and second in a column, decided on unrounded means."""

from collections.abc import Sequence
from dataclasses import replace

from mmbench.reporting.table import Cell, Row


def mark_places(rows: Sequence[Row], n_columns: int) -> list[Row]:
    """Mark best and second of each column; leaky rows are not marked, unless all rows are leaky."""
    marked = list(rows)
    fair = _fair(rows)
    for column in range(n_columns):
        means = {index: mean for index in fair if (mean := rows[index].cells[column].mean) is not None}
        if len(means) < 2:
            continue
        levels = _levels(list(means.values()))
        for index, mean in means.items():
            place = next((i + 1 for i, level in enumerate(levels[:2]) if is_same(mean, level)), 0)
            marked[index] = with_cell(marked[index], column, replace(rows[index].cells[column], place=place))
    return marked


def winners(rows: Sequence[Row], means: Sequence[float | None]) -> set[int]:
    """Return the indices of the best rows by these means of the rows; empty if fewer than two are measured."""
    measured = {index: mean for index in _fair(rows) if (mean := means[index]) is not None}
    if len(measured) < 2:
        return set()
    best = max(measured.values())
    return {index for index, mean in measured.items() if is_same(mean, best)}


def is_same(a: float, b: float) -> bool:
    """Return whether two means are equal up to the rounding error of a float64 mean over users."""
    return abs(a - b) <= 1e-12


def with_cell(row: Row, column: int, cell: Cell) -> Row:
    return replace(row, cells=(*row.cells[:column], cell, *row.cells[column + 1 :]))


def _fair(rows: Sequence[Row]) -> list[int]:
    return [index for index, row in enumerate(rows) if not row.leaky] or list(range(len(rows)))


def _levels(means: Sequence[float]) -> list[float]:
    """Return the different means, in falling order."""
    levels: list[float] = []
    for mean in sorted(means, reverse=True):
        if not levels or not is_same(mean, levels[-1]):
            levels.append(mean)
    return levels
