"""Bars and sweeps of a reproduced figure: as a picture, and as dots on a line for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmbench.look.style import BLUE, INK, SOFT, VERMILION, new_figure, set_title
from mmbench.models import registry
from mmbench.reporting.rounding import DASH, number, std_text
from mmbench.reporting.table import Cell
from mmbench.reproduce.scores import Reproduced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = "#8fbcd9"  # bars that are not the compared row's
PLOT_WIDTH = 44
UNICODE, ASCII = "●─│", "o-|"  # mean, deviation, printed


def measured_columns(result: Reproduced) -> list[int]:
    """Return the columns in which any row was measured."""
    return [
        column
        for column in range(len(result.table.columns))
        if any(row.cells[column].mean is not None for row in result.table.rows)
    ]


def panels(result: Reproduced) -> list[tuple[str, list[int]]]:
    """Return (label, rows) of each panel: a panel per sweep, or a single panel where nothing is swept."""
    groups: dict[str, list[int]] = {}
    for number_, planned in enumerate(result.plan.rows):
        groups.setdefault(planned.row.panel, []).append(number_)
    return list(groups.items())


def reference(result: Reproduced, column: int) -> float | None:
    """Return the printed value that a sweep is compared with: its model's, from the paper's table."""
    sweep = [row for row in result.plan.rows if row.row.panel]
    if not sweep:
        return None
    head = result.table.columns[column]
    base = head.dataset.split("@")[0]
    return result.plan.experiment.printed.get((base, sweep[0].row.method, str(head.metric)))


def recipe_points(result: Reproduced, rows: Sequence[int], dataset: str) -> list[int]:
    """Return which points of a sweep, counted from 0, are the recipe's own value on a data set."""
    points = []
    for point, at in enumerate(rows):
        row = result.plan.rows[at].row
        values = registry.find(row.model).values(dataset)
        if all(values[setting] == value for setting, value in row.fixed.items()):
            points.append(point)
    return points


def caption(result: Reproduced) -> str:
    """Return what the figure shows."""
    swept = result.plan.content.kind == "lines"
    how = "Lines: means over runs, bands: one standard deviation, rings: the recipe's value." if swept else (
        "Bars: means over runs, whiskers: one standard deviation."
    )  # fmt: skip
    return f"{result.plan.content.source}: {result.plan.content.title}. {how} Orange: printed, where it is known."


def draw(result: Reproduced) -> "Figure":
    """Draw the figure; a column must be measured."""
    return _draw_lines(result) if result.plan.content.kind == "lines" else _draw_bars(result)


def _draw_bars(result: Reproduced) -> "Figure":
    """Draw a panel per data set and metric, the rows from top to bottom."""
    columns, n_rows = measured_columns(result), len(result.table.rows)
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    figure = new_figure(0.5 + down * (0.6 + 0.24 * n_rows))
    set_title(figure, f"{result.plan.experiment.name}: {result.plan.content.title}")
    for panel, column in enumerate(columns):
        axes = figure.add_subplot(down, across, panel + 1)
        _bars(axes, result, column, is_labelled=panel % across == 0)
    return figure


def _bars(axes: "Axes", result: Reproduced, column: int, *, is_labelled: bool) -> None:
    heights = np.arange(len(result.table.rows))[::-1]
    top = max(_high(row.cells[column]) for row in result.table.rows)
    for y, row, beside in zip(heights, result.table.rows, result.beside, strict=True):
        cell, printed = row.cells[column], beside[column].printed
        if printed is not None:
            top = max(top, printed)
            axes.plot([printed] * 2, [y - 0.4, y + 0.4], color=VERMILION, linewidth=2, zorder=3)
        if cell.mean is None:
            axes.annotate(DASH, (0, y), xytext=(3, 0), textcoords="offset points", va="center", color=SOFT)
            continue
        colour = BLUE if row.model == result.plan.content.compare else LIGHT
        axes.barh(y, cell.mean, height=0.66, color=colour, xerr=cell.std, ecolor=INK, capsize=2)
        axes.annotate(
            number(cell.mean), (_high(cell), y), xytext=(4, 0), textcoords="offset points", va="center",
            color=INK, fontsize=7,
        )  # fmt: skip
    axes.set_xlim(0, 1.25 * (top or 1))
    axes.set_ylim(-0.6, len(heights) - 0.4)
    axes.set_yticks(
        heights,
        [row.label for row in result.table.rows] if is_labelled else [""] * len(heights),
        fontsize=8,
    )
    axes.set_title(_head(result, column), fontsize=8, loc="left")
    axes.tick_params(axis="both", length=0, labelsize=7)
    axes.grid(axis="x")


def _high(cell: Cell) -> float:
    return (cell.mean or 0.0) + (cell.std or 0.0)


def _head(result: Reproduced, column: int) -> str:
    return f"{result.heads[column]}  {result.table.columns[column].metric}"


def _draw_lines(result: Reproduced) -> "Figure":
    """Draw a row of panels per data set and metric, a panel per sweep, on a common scale in each row."""
    columns, swept = measured_columns(result), panels(result)
    figure = new_figure(0.5 + 1.7 * len(columns))
    set_title(figure, f"{result.plan.experiment.name}: {result.plan.content.title}")
    for line, column in enumerate(columns):
        first: Axes | None = None
        for panel, (label, rows) in enumerate(swept):
            number_ = line * len(swept) + panel + 1
            axes = figure.add_subplot(len(columns), len(swept), number_, sharey=first)
            first = first or axes
            _line(axes, result, column, rows)
            axes.set_xlabel(label, fontsize=8)
            axes.tick_params(axis="both", length=0, labelsize=7, labelleft=panel == 0)
        assert first is not None
        first.set_title(_head(result, column), fontsize=8, loc="left")
    return figure


def _line(axes: "Axes", result: Reproduced, column: int, rows: Sequence[int]) -> None:
    cells = [result.table.rows[row].cells[column] for row in rows]
    measured = [x for x, cell in enumerate(cells) if cell.mean is not None]
    mean = np.array([cells[x].mean for x in measured], dtype=np.float64)
    std = np.array([cells[x].std or 0.0 for x in measured])
    axes.fill_between(measured, mean - std, mean + std, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(measured, mean, "o-", color=BLUE, markersize=3.5, linewidth=1.4)
    own = set(recipe_points(result, rows, result.table.columns[column].dataset))
    rings = [(at, value) for at, value in zip(measured, mean, strict=True) if at in own]
    if rings:
        axes.plot(
            *zip(*rings, strict=True), "o", color=INK, markersize=8, fillstyle="none", markeredgewidth=1
        )
    printed = reference(result, column)
    if printed is not None:
        axes.axhline(printed, color=VERMILION, linewidth=1.2, linestyle="--")
    texts = [str(next(iter(result.plan.rows[row].row.fixed.values()))) for row in rows]
    axes.set_xticks(range(len(rows)), texts, fontsize=7)
    axes.set_xlim(-0.4, len(rows) - 0.6)
    axes.grid(axis="y")


def terminal_plot(result: Reproduced, *, ascii_only: bool = False) -> list[str]:
    """Return each measured column as dots on a common scale, the printed value as a stroke."""
    signs = ASCII if ascii_only else UNICODE
    lines: list[str] = []
    width = max(len(row.label) for row in result.table.rows)
    for column in measured_columns(result):
        printed = reference(result, column)
        low, high = _range(result, column, printed)
        lines += ["", f"{_head(result, column)}   {number(low)} to {number(high)}"]
        for _, rows in panels(result):
            for row in rows:
                cell = result.table.rows[row].cells[column]
                known = result.beside[row][column].printed if printed is None else printed
                plot = dots(cell, known, low, high, signs)
                text = DASH if cell.mean is None else number(cell.mean) + std_text(cell)
                lines.append(f"  {result.table.rows[row].label.ljust(width)}  {plot}  {text}")
    if lines:
        lines += ["", f"{signs[0]} mean  {signs[1]} standard deviation  {signs[2]} printed"]
    return lines


def _range(result: Reproduced, column: int, printed: float | None) -> tuple[float, float]:
    cells = [row.cells[column] for row in result.table.rows if row.cells[column].mean is not None]
    known = [row[column].printed for row in result.beside] + [printed]
    values = [value for value in known if value is not None]
    values += [_high(cell) for cell in cells] + [(cell.mean or 0.0) - (cell.std or 0.0) for cell in cells]
    return min(values), max(values)


def dots(cell: Cell, printed: float | None, low: float, high: float, signs: str) -> str:
    """Return a row of the plot, PLOT_WIDTH letters wide."""

    def letter(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(min(1.0, max(0.0, share)) * (PLOT_WIDTH - 1))

    letters = [" "] * PLOT_WIDTH
    if cell.mean is not None:
        for index in range(letter(cell.mean - (cell.std or 0.0)), letter(_high(cell)) + 1):
            letters[index] = signs[1]
    if printed is not None:
        letters[letter(printed)] = signs[2]
    if cell.mean is not None:
        letters[letter(cell.mean)] = signs[0]
    return "".join(letters)
