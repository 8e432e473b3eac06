"""Bars and sweeps of a reproduced figure: as a picture, and as dots on a line for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmbench.look.style import BLUE, INK, SOFT, VERMILION, new_figure, set_title
from mmbench.reporting.rounding import DASH, number, std_text
from mmbench.reporting.table import Cell
from mmbench.reproduce.scores import Reproduced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = "#8fbcd9"  # bars that are not the compared row's
PLOT_WIDTH = 44
UNICODE, ASCII = "●─│", "o-|"  # mean, deviation, printed


def measured_columns(one: Reproduced) -> list[int]:
    """Columns in which at least one row was measured."""
    return [
        at
        for at in range(len(one.table.columns))
        if any(row.cells[at].mean is not None for row in one.table.rows)
    ]


def panels(one: Reproduced) -> list[tuple[str, list[int]]]:
    """(label, rows): a panel per sweep; all rows are one panel where nothing is swept."""
    found: dict[str, list[int]] = {}
    for at, planned in enumerate(one.plan.rows):
        found.setdefault(planned.row.panel, []).append(at)
    return list(found.items())


def reference(one: Reproduced, column: int) -> float | None:
    """The printed value that a sweep is seen beside: its model's, from the paper's table."""
    sweep = [row for row in one.plan.rows if row.row.panel]
    if not sweep:
        return None
    head = one.table.columns[column]
    base = head.dataset.split("@")[0]
    return one.plan.experiment.printed.get((base, sweep[0].row.method, str(head.metric)))


def caption(one: Reproduced) -> str:
    """What is drawn."""
    swept = one.plan.content.kind == "lines"
    how = "Lines: means over runs, bands: one standard deviation." if swept else (
        "Bars: means over runs, whiskers: one standard deviation."
    )  # fmt: skip
    return f"{one.plan.content.source}: {one.plan.content.title}. {how} Orange: printed, where it is known."


def draw(one: Reproduced) -> "Figure":
    """The figure; at least one column is measured."""
    return _draw_lines(one) if one.plan.content.kind == "lines" else _draw_bars(one)


def _draw_bars(one: Reproduced) -> "Figure":
    """One panel per data set and metric, the rows from top to bottom."""
    columns, n_rows = measured_columns(one), len(one.table.rows)
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    figure = new_figure(0.5 + down * (0.6 + 0.24 * n_rows))
    set_title(figure, f"{one.plan.experiment.name}: {one.plan.content.title}")
    for place, column in enumerate(columns):
        axes = figure.add_subplot(down, across, place + 1)
        _bars(axes, one, column, is_labelled=place % across == 0)
    return figure


def _bars(axes: "Axes", one: Reproduced, column: int, *, is_labelled: bool) -> None:
    at = np.arange(len(one.table.rows))[::-1]
    top = max(_high(row.cells[column]) for row in one.table.rows)
    for y, row, beside in zip(at, one.table.rows, one.beside, strict=True):
        cell, printed = row.cells[column], beside[column].printed
        if printed is not None:
            top = max(top, printed)
            axes.plot([printed] * 2, [y - 0.4, y + 0.4], color=VERMILION, linewidth=2, zorder=3)
        if cell.mean is None:
            axes.annotate(DASH, (0, y), xytext=(3, 0), textcoords="offset points", va="center", color=SOFT)
            continue
        colour = BLUE if row.model == one.plan.content.compare else LIGHT
        axes.barh(y, cell.mean, height=0.66, color=colour, xerr=cell.std, ecolor=INK, capsize=2)
        axes.annotate(
            number(cell.mean), (_high(cell), y), xytext=(4, 0), textcoords="offset points", va="center",
            color=INK, fontsize=7,
        )  # fmt: skip
    axes.set_xlim(0, 1.25 * (top or 1))
    axes.set_ylim(-0.6, len(at) - 0.4)
    axes.set_yticks(at, [row.label for row in one.table.rows] if is_labelled else [""] * len(at), fontsize=8)
    axes.set_title(_head(one, column), fontsize=8, loc="left")
    axes.tick_params(axis="both", length=0, labelsize=7)
    axes.grid(axis="x")


def _high(cell: Cell) -> float:
    return (cell.mean or 0.0) + (cell.std or 0.0)


def _head(one: Reproduced, column: int) -> str:
    return f"{one.heads[column]}  {one.table.columns[column].metric}"


def _draw_lines(one: Reproduced) -> "Figure":
    """A row of panels per data set and metric, one panel per sweep, one scale in each row."""
    columns, swept = measured_columns(one), panels(one)
    figure = new_figure(0.5 + 1.7 * len(columns))
    set_title(figure, f"{one.plan.experiment.name}: {one.plan.content.title}")
    for line, column in enumerate(columns):
        first: Axes | None = None
        for place, (label, rows) in enumerate(swept):
            number_ = line * len(swept) + place + 1
            axes = figure.add_subplot(len(columns), len(swept), number_, sharey=first)
            first = first or axes
            _line(axes, one, column, rows)
            axes.set_xlabel(label, fontsize=8)
            axes.tick_params(axis="both", length=0, labelsize=7, labelleft=place == 0)
        assert first is not None
        first.set_title(_head(one, column), fontsize=8, loc="left")
    return figure


def _line(axes: "Axes", one: Reproduced, column: int, rows: Sequence[int]) -> None:
    cells = [one.table.rows[at].cells[column] for at in rows]
    there = [at for at, cell in enumerate(cells) if cell.mean is not None]
    mean = np.array([cells[at].mean for at in there], dtype=np.float64)
    std = np.array([cells[at].std or 0.0 for at in there])
    axes.fill_between(there, mean - std, mean + std, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(there, mean, "o-", color=BLUE, markersize=3.5, linewidth=1.4)
    printed = reference(one, column)
    if printed is not None:
        axes.axhline(printed, color=VERMILION, linewidth=1.2, linestyle="--")
    texts = [str(next(iter(one.plan.rows[at].row.fixed.values()))) for at in rows]
    axes.set_xticks(range(len(rows)), texts, fontsize=7)
    axes.set_xlim(-0.4, len(rows) - 0.6)
    axes.grid(axis="y")


def terminal_plot(one: Reproduced, *, ascii_only: bool = False) -> list[str]:
    """Each measured column as dots on a common scale, the printed value as a stroke."""
    signs = ASCII if ascii_only else UNICODE
    lines: list[str] = []
    width = max(len(row.label) for row in one.table.rows)
    for column in measured_columns(one):
        printed = reference(one, column)
        low, high = _range(one, column, printed)
        lines += ["", f"{_head(one, column)}   {number(low)} to {number(high)}"]
        for _, rows in panels(one):
            for at in rows:
                cell = one.table.rows[at].cells[column]
                known = one.beside[at][column].printed if printed is None else printed
                plot = dots(cell, known, low, high, signs)
                text = DASH if cell.mean is None else number(cell.mean) + std_text(cell)
                lines.append(f"  {one.table.rows[at].label.ljust(width)}  {plot}  {text}")
    if lines:
        lines += ["", f"{signs[0]} mean  {signs[1]} standard deviation  {signs[2]} printed"]
    return lines


def _range(one: Reproduced, column: int, printed: float | None) -> tuple[float, float]:
    cells = [row.cells[column] for row in one.table.rows if row.cells[column].mean is not None]
    known = [row[column].printed for row in one.beside] + [printed]
    values = [value for value in known if value is not None]
    values += [_high(cell) for cell in cells] + [(cell.mean or 0.0) - (cell.std or 0.0) for cell in cells]
    return min(values), max(values)


def dots(cell: Cell, printed: float | None, low: float, high: float, signs: str) -> str:
    """One row of the plot, PLOT_WIDTH letters wide."""

    def place(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(min(1.0, max(0.0, share)) * (PLOT_WIDTH - 1))

    letters = [" "] * PLOT_WIDTH
    if cell.mean is not None:
        for at in range(place(cell.mean - (cell.std or 0.0)), place(_high(cell)) + 1):
            letters[at] = signs[1]
    if printed is not None:
        letters[place(printed)] = signs[2]
    if cell.mean is not None:
        letters[place(cell.mean)] = signs[0]
    return "".join(letters)
