"""Which rows are best and second in a column: decided on unrounded means."""

from collections.abc import Sequence
from dataclasses import replace

from mmbench.reporting.table import Cell, Row


def mark_places(rows: Sequence[Row], n_columns: int) -> list[Row]:
    """Return the rows with best and second of each column marked; leaky rows have none unless all are leaky."""
    marked = list(rows)
    fair = _fair(rows)
    for column in range(n_columns):
        means = {at: mean for at in fair if (mean := rows[at].cells[column].mean) is not None}
        if len(means) < 2:
            continue
        levels = _levels(list(means.values()))
        for at, mean in means.items():
            place = next((i + 1 for i, level in enumerate(levels[:2]) if is_same(mean, level)), 0)
            marked[at] = with_cell(marked[at], column, replace(rows[at].cells[column], place=place))
    return marked


def winners(rows: Sequence[Row], means: Sequence[float | None]) -> set[int]:
    """Return the positions of the best rows by these means, one per row; none where fewer than two are measured."""
    measured = {at: mean for at in _fair(rows) if (mean := means[at]) is not None}
    if len(measured) < 2:
        return set()
    best = max(measured.values())
    return {at for at, mean in measured.items() if is_same(mean, best)}


def is_same(a: float, b: float) -> bool:
    """Return whether two means are equal up to the rounding noise of a float64 mean over users."""
    return abs(a - b) <= 1e-12


def with_cell(row: Row, column: int, cell: Cell) -> Row:
    return replace(row, cells=(*row.cells[:column], cell, *row.cells[column + 1 :]))


def _fair(rows: Sequence[Row]) -> list[int]:
    return [at for at, row in enumerate(rows) if not row.leaky] or list(range(len(rows)))


def _levels(means: Sequence[float]) -> list[float]:
    """Return the different means, falling."""
    levels: list[float] = []
    for mean in sorted(means, reverse=True):
        if not levels or not is_same(mean, levels[-1]):
            levels.append(mean)
    return levels
