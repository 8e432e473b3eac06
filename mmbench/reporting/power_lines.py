"""What a caption says of differences that a table has too few seeds for."""

from collections.abc import Sequence

from mmbench.reporting.gather import Measured
from mmbench.reporting.power import Resolution, seeds_needed
from mmbench.reporting.table import ALPHA, Column, Row, Table


def power_lines(table: Table, measured: Sequence[tuple[str, Row, Measured]]) -> list[tuple[str, str]]:
    """Return, for each data set, what the difference of its first column needs where it has fewer seeds.

    measured  data set, row and values of each cell of the table that has any
    """
    if table.test == "users":
        return []
    rows = {(dataset, row.label): values for dataset, row, values in measured}
    level = ALPHA if table.correction == "none" else ALPHA / max(table.family, 1)
    metrics = list(dict.fromkeys(column.metric for column in table.columns))
    lines: dict[str, list[tuple[str, str]]] = {}
    for column, comparison in zip(table.columns, table.headlines(), strict=True):
        if column.dataset in lines or comparison is None or column.metric.per == "catalogue":
            continue
        names = table.rows[comparison.compared].label, table.rows[comparison.rival].label
        ours, theirs = (rows[column.dataset, name] for name in names)
        resolution = seeds_needed(ours, theirs, metrics.index(column.metric), alpha=level)
        lines[column.dataset] = _line(column, names, resolution)
    return [line for of_dataset in lines.values() for line in of_dataset]


def _line(column: Column, rows: tuple[str, str], resolution: Resolution | None) -> list[tuple[str, str]]:
    if resolution is None or resolution.smallest is None:
        return []
    needed = resolution.needed
    if needed is not None and resolution.n >= needed:
        return []
    seeds = "more seeds than can be run" if needed is None else f"about {needed:,}"
    text = (
        f"{column.metric} on {column.dataset}, {rows[0]} against {rows[1]}: {resolution.n} seeds show "
        f"{_shown(resolution.smallest, column)} with power .8; this difference needs {seeds} (mmbench power)."
    )
    return [("Power", text)]


def _shown(smallest: float, column: Column) -> str:
    """Return the smallest difference that is shown, in words; a metric of ranks has none above 1."""
    if column.metric.needs == "ranks" and smallest > 1:
        return "no difference, however large,"
    return f"a difference of {f'{smallest:.3g}'.removeprefix('0')}"
